"""A command line becomes a grid of typed cells."""
