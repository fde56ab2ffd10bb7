"""Debezium's JSON to changes and PostgreSQL's text: pure, bytes in, values out."""
