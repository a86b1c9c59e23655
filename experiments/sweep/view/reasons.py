"""Slurm's reasons why a job waits, in plain words."""

from __future__ import annotations

WORDS = {
    "None": "Slurm has not looked at it yet",
    "Resources": "until nodes are free",
    "Priority": "behind jobs of higher priority",
    "JobArrayTaskLimit": "as many run as runner.slurm.array_parallelism allows",
    "BeginTime": "until Slurm starts it again, in a moment",
    "Cleaning": "until its last run is cleared away",
    "Dependency": "for another job",
    "Licenses": "for licences",
    "Reservation": "until its reservation begins",
    "PartitionDown": "its partition is closed",
    "PartitionInactive": "its partition is closed",
    "PartitionTimeLimit": "for ever: longer than its partition lets jobs run "
    "(runner.slurm.time_minutes)",
    "PartitionNodeLimit": "for ever: its partition has no such nodes",
    "PartitionConfig": "for ever: its partition has no such nodes",
    "BadConstraints": "for ever: no node has what it asks for (runner.slurm.constraint, gres)",
    "InvalidAccount": "for ever: no such account (runner.slurm.account)",
    "InvalidQOS": "for ever: no such QOS (runner.slurm.qos)",
}
HELD = {
    "JobHeldUser": "by its user",
    "JobHeldAdmin": "by an administrator, who may have to release it",
    "launch failed requeued held": "as its node could not start it",
    "job requeued in held state": "by who requeued it",
}
FAMILIES = {  # by how they begin; which of them it is, is kept
    "ReqNodeNotAvail": "for nodes that are down, drained or reserved",
    "Nodes required for job": "for nodes that are down, drained or reserved",
    "QOS": "a limit of its QOS is reached",
    "Assoc": "a limit of its user or account is reached",
    "MaxJobs": "a limit on jobs is reached",
}


def in_words(reason: str) -> str:
    """Why a job waits, or is held; as Slurm has it, where that is not known here.

    Examples
    --------
    >>> in_words("Resources")
    'until nodes are free'
    >>> in_words("QOSMaxJobsPerUserLimit")
    'a limit of its QOS is reached (QOSMaxJobsPerUserLimit)'
    >>> in_words("FrontEndDown")
    'FrontEndDown'
    """
    if reason in WORDS | HELD:
        return (WORDS | HELD)[reason]
    for beginning, words in FAMILIES.items():
        if reason.startswith(beginning):
            return f"{words} ({reason})"
    return reason
