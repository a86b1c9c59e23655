"""Implementation of `slurm/testcluster`: a real Slurm in one folder, for tests and contributors.

It uses the standard library only. The project does not import it; tests run it as a command.
"""
