"""Slurm backend: shards of packs are submitted as job arrays and reclaimed when jobs die."""
