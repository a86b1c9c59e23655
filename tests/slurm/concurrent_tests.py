"""Tests of one file that run at the same time, because each mostly waits for Slurm."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from faulty_sweep import FaultySweep

TestBody = Callable[[FaultySweep], None]
GetFuture = Callable[[TestBody], "Future[None]"]


def run_concurrently(body: TestBody) -> Callable[[GetFuture], None]:
    """Make a test from a body that runs in a thread, started with the first test of its file."""

    def test(concurrent_bodies: GetFuture) -> None:
        concurrent_bodies(body).result()

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    test.body = body
    return test
