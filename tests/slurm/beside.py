"""Tests of one file that run at the same time, as each mostly waits for Slurm."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from faulty import Faulty

Body = Callable[[Faulty], None]
Beside = Callable[[Body], "Future[None]"]


def beside_others(body: Body) -> Callable[[Beside], None]:
    """A test whose body runs in a thread from the time when the first of its file begins."""

    def test(beside: Beside) -> None:
        beside(body).result()

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    test.body = body
    return test
