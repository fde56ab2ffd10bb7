"""A table of the replica made equal to the source's again, while both are in use."""
