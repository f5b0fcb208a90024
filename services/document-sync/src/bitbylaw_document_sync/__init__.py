"""document-sync: EspoCRM documents into xAI collections."""
