"""Parts of `slurm/testcluster`: a real Slurm in one folder, for tests and contributors.

Standard library only, and nothing in the project imports it: tests run it as a command.
"""
