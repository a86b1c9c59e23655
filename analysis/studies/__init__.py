"""Studies: what docs/ says about the theory, each page's numbers made by a command."""
