"""Applies the row changes that Debezium captured to a replica, exactly once in effect."""

__version__ = "0.1.0"
