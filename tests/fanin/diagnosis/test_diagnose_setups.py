"""`diagnose` names the cause of the faulty setups and finds nothing in the healthy ones.

The setups and the rules were written at the same time by two authors who did not see each
other's work. The rules were then changed where setups failed, so this is no held-out test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fanin import Diagnosis, diagnose
from fanin.diagnosis.finding import CAUSES
from tests.fanin.diagnosis.setups import FAULTY, HEALTHY, Setup


def run(setup: Setup) -> Diagnosis:
    return diagnose(setup.model, setup.batch, setup.targets, setup.loss, setup.optimizer)


@pytest.mark.parametrize("build", FAULTY, ids=lambda build: build.__name__)
def test_the_first_finding_is_the_cause(build: Callable[..., Setup]) -> None:
    setup = build()
    assert run(setup).findings[0].cause == setup.cause


@pytest.mark.parametrize("build", FAULTY, ids=lambda build: build.__name__)
def test_nothing_is_found_without_the_fault(build: Callable[..., Setup]) -> None:
    assert run(build(fixed=True)).ok


@pytest.mark.parametrize("build", HEALTHY, ids=lambda build: build.__name__)
def test_nothing_is_found_in_healthy_setups(build: Callable[[], Setup]) -> None:
    assert run(build()).ok


def test_each_cause_has_at_least_two_setups() -> None:
    causes = [build().cause for build in FAULTY]
    assert {cause: causes.count(cause) for cause in CAUSES if causes.count(cause) < 2} == {}
