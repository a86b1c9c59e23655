"""Status of a sweep from its files and Slurm's queue: on a screen, in a log, as JSON."""
