"""Packs on a Slurm cluster: shards handed out as job arrays, and taken back when jobs die."""
