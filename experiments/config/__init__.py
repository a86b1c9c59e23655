"""The cell: what one configuration is, how it is typed, named and composed."""
