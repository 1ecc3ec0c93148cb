"""What search and server are compared with: scripts that the benchmarks start."""
