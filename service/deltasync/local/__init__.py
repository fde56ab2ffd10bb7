"""The embedded stack: real PostgreSQL, Kafka, Connect and Debezium, out of wheels and Maven coordinates."""
