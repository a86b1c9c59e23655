"""What runs, in which packs, under which engine."""
