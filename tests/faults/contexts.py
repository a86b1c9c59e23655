"""Pytest plugin: records coverage by test and CPU seconds, and selects tests.

`record_coverage.py` starts coverage by COVERAGE_PROCESS_START. Child processes of a test read the
test's node id from the environment, as the static context of their coverage.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

TEST = "FANIN_TEST"  # environment variable: node id of the running test
RECORD = "FANIN_TEST_RECORD"  # environment variable: folder for `durations.txt` and `failed.txt`
SELECTION = "FANIN_TEST_SELECTION"  # environment variable: file of node ids, in the order to run

CPU = pytest.StashKey[float]()
_durations: dict[str, float] = defaultdict(float)
_outcomes: dict[str, set[str]] = defaultdict(set)


class _SetTest:
    """Sets the environment variable in the process that unpickles it.

    Without it, processes of a forkserver would have the test that started the forkserver.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (f"import os; os.environ[{TEST!r}] = {os.environ.get(TEST, '')!r}",)


def pytest_configure() -> None:
    prepare = spawn.get_preparation_data
    spawn.get_preparation_data = lambda name: {"test": _SetTest(), **prepare(name)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SELECTION in os.environ:
        lines = Path(os.environ[SELECTION]).read_text().splitlines()
        order = {test: rank for rank, test in enumerate(lines)}
        items[:] = sorted(
            (item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid]
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    os.environ[TEST] = item.nodeid
    item.stash[CPU] = _cpu_seconds()
    coverage = Coverage.current()
    if coverage is not None:
        coverage.switch_context(item.nodeid)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    before, item.stash[CPU] = item.stash[CPU], _cpu_seconds()
    report.cpu_seconds = item.stash[CPU] - before
    return report


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its finished children."""
    return sum(os.times()[:4])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _durations[report.nodeid] += getattr(report, "cpu_seconds", 0.0)
    _outcomes[report.nodeid].add(report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if RECORD not in os.environ or hasattr(session.config, "workerinput"):
        return
    folder = Path(os.environ[RECORD])
    passed = [test for test, outcomes in _outcomes.items() if outcomes == {"passed"}]
    lines = [f"{_durations[test]:.3f} {test}\n" for test in sorted(passed, key=_durations.get)]
    (folder / "durations.txt").write_text("".join(lines))
    failed = sorted(test for test, outcomes in _outcomes.items() if "failed" in outcomes)
    (folder / "failed.txt").write_text("".join(f"{test}\n" for test in failed))
