"""What the search is compared with: a script a peer, started by `benchmarks.search`."""
