"""Lag, metrics and health: what the service says of itself."""
