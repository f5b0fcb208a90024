"""Lets people's programs ask Advoware through one guarded door."""
