"""What can go wrong, in one line, with the exit status that says which kind it was."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster did not do what was asked."""

    status = 1


class UsageError(ClusterError):
    """The request can't work here: something is missing, or has to be typed differently."""

    status = 2
