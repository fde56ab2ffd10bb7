"""deltasync beside its peers: the same work, one after the other, in one run, the replica compared after each."""
