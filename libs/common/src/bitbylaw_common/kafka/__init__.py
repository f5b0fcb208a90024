"""Everything that speaks to Kafka; the only package that imports aiokafka."""
