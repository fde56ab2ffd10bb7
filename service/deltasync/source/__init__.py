"""The captured database: its set-up, what it logs about its tables, and how far its slot has come."""
