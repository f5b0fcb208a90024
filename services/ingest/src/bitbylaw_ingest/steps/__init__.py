"""HTTP steps of ingest."""
