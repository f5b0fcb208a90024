"""What every sync shares: digests and the base, what both sides agreed on last."""
