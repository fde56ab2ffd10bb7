"""Tables, or parts of them, that Debezium reads again among the changes: its incremental snapshots."""
