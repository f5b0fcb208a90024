"""Steps of document-sync."""
