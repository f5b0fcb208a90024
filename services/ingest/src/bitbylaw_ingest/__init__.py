"""ingest: EspoCRM webhooks into events."""
