"""Each faulty setup fails to train; without its fault it trains, as each healthy setup does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import fmean
from typing import get_args

import pytest
import torch

from tests.fanin.diagnosis.definition import Cause, Faulty, Setup, train
from tests.fanin.diagnosis.setups import FAULTY, HEALTHY

FAULTY_STEPS = 60  # each setup whose faulty loss stays finite trains in fewer steps when fixed
HEALTHY_STEPS = 150  # at most
AVERAGED = 5  # steps, because dropout makes single losses vary
TRAINED = 0.3  # of the loss of the best constant output
# The least loss behind a softmax is log(e + 9) - 1 for 10 classes, 0.63 of log 10.
FAILED = 0.6

SETUPS: list[Callable[[], Setup]] = [*FAULTY, *HEALTHY]

pytestmark = pytest.mark.slow


def constant_loss(setup: Setup) -> float:
    """Return the loss of the constant output that is best on all batches."""
    targets = torch.cat([setup.targets, *(labels for _, labels in setup.later_batches)])
    if targets.is_floating_point():
        best = targets.mean().expand_as(targets)
    else:
        frequencies = torch.bincount(targets) / len(targets)
        best = frequencies.clamp(min=1e-9).log().expand(len(targets), -1)
    return setup.loss(best, targets).item()


def relative_losses(setup: Setup, steps: int) -> Iterator[float]:
    """Train and yield the average of the last losses, relative to a constant output's loss.

    Yield inf if the loss or a parameter is not finite, if the loss is negative, and if the model
    raises an error.
    """
    window = max(AVERAGED, 1 + len(setup.later_batches))
    constant = constant_loss(setup)
    losses: list[float] = []
    try:
        for loss in train(setup, steps):
            losses.append(loss)
            if not math.isfinite(loss) or loss < 0:
                yield math.inf
                return
            yield fmean(losses[-window:]) / constant
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        yield math.inf
    if not all(parameter.isfinite().all() for parameter in setup.model.parameters()):
        yield math.inf


def trains(setup: Setup) -> bool:
    """Return True if the loss falls to half of the first, and below the bound."""
    losses = relative_losses(setup, HEALTHY_STEPS)
    first = next(losses)
    return any(loss < min(TRAINED, first / 2) for loss in losses)


@pytest.mark.parametrize("build", FAULTY, ids=lambda build: build.__name__)
def test_a_faulty_setup_fails_in_training(build: Faulty) -> None:
    *_, final = relative_losses(build(), FAULTY_STEPS)
    assert final > FAILED


@pytest.mark.parametrize("build", FAULTY, ids=lambda build: build.__name__)
def test_the_setup_without_its_fault_trains(build: Faulty) -> None:
    assert trains(build(fixed=True))


@pytest.mark.parametrize("build", HEALTHY, ids=lambda build: build.__name__)
def test_a_healthy_setup_trains(build: Callable[[], Setup]) -> None:
    assert trains(build())


def test_each_cause_has_two_setups() -> None:
    counts = Counter(build().cause for build in FAULTY)
    assert counts == dict.fromkeys(get_args(Cause), 2)


def test_setups_without_a_fault_have_no_cause() -> None:
    assert {build().cause for build in HEALTHY} == {None}
    assert {build(fixed=True).cause for build in FAULTY} == {None}


def test_names_of_setups_differ() -> None:
    names = [build().name for build in SETUPS]
    assert len(set(names)) == len(names) == 40


def test_a_setup_is_the_same_each_time() -> None:
    for build in SETUPS:
        first, second = (setup.model.state_dict().values() for setup in (build(), build()))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), build().name
