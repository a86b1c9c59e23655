"""Status of a sweep from its files and Slurm's queue, as a screen, log lines or JSON."""
