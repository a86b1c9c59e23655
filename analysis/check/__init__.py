"""Check of a sweep against theory, layer by layer."""
