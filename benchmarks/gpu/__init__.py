"""One command that checks the project on a GPU: correctness, throughput, environment."""
