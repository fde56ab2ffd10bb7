"""The replica's side: the ledger, the catalog of described tables, and the writer."""
