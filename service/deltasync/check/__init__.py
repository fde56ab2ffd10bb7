"""What would keep the replica from staying equal, looked for before anything runs or at any time later. Read-only."""
