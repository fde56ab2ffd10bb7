"""Kafka Connect over its REST interface: what a connector should be, what it is, and how to get there."""
