"""The grid engine: grid -> plan -> packs -> runner -> store."""
