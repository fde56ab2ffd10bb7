"""Proof that source and replica are equal."""
