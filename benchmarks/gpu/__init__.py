"""Check of the project on a GPU: correctness, throughput, environment."""
