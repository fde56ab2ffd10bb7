"""The initial load past Kafka: `deltasync bootstrap`."""
