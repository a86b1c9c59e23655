"""Configuration of a cell: compose, type-check, instantiate and identify it."""
