"""A real Apache Kafka and a real Redis as child processes, without Docker."""
