"""Worker side of a sweep: running packs, and finalizing the journals of dead workers."""
