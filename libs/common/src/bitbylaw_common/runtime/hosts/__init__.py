"""What drives steps: Kafka, HTTP, cron, and the memory host of the tests."""
