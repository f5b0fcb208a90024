"""What a document should be at xAI; pure."""
