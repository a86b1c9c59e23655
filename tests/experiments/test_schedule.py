"""Schedules equal torch's schedulers."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.instantiate import instantiate, validate
from experiments.schedule import Constant, Cosine, Schedule, Step, Warmup
from fanin.errors import ConfigError

TOTAL = 40
OPTIONS = sorted((Path(__file__).parents[2] / "conf" / "schedule").glob("*.yaml"))
SCHEDULES = [
    Constant(),
    Warmup(0.3),
    Cosine(),
    Cosine(warmup=0.2, final=0.1),
    Step((0.3, 0.9), 0.5),
]


def factors(schedule: Schedule) -> list[float]:
    return [schedule.factor(step, TOTAL) for step in range(TOTAL)]


def torch_factors(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(TOTAL):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_yaml_lists_every_number_at_its_default(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate({"_target_": node["_target_"]}) == node


def test_constant_is_one():
    assert factors(Constant()) == [1.0] * TOTAL


def test_cosine_equals_torchs():
    expected = torch_factors(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.1)
    )
    assert factors(Cosine(final=0.1)) == pytest.approx(expected, rel=1e-12)


def test_step_equals_torchs_multistep():
    expected = torch_factors(
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=[20, 30], gamma=0.1)
    )
    assert factors(Step()) == pytest.approx(expected, rel=1e-12)


def test_warmup_equals_torchs_linear():
    expected = torch_factors(
        lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 10, total_iters=9)
    )
    assert factors(Warmup(warmup=10 / TOTAL)) == pytest.approx(expected, rel=1e-12)


def test_cosine_decreases_from_one_after_the_warmup():
    values = factors(Cosine(warmup=0.25))
    assert values[:10] == factors(Warmup(warmup=0.25))[:10]
    assert values[10] == 1
    assert all(later < earlier for earlier, later in pairwise(values[10:]))


def test_milestones_are_rounded_to_steps():
    """Although 0.1 * 30 is 3.0000000000000004, the factor changes at step 3."""
    tenth = Step(milestones=(0.1,), gamma=0.5)
    assert [tenth.factor(step, 30) for step in (2, 3)] == [1.0, 0.5]


@given(st.sampled_from(SCHEDULES), st.integers(1, 1000), st.data())
def test_a_factor_lies_between_zero_and_one_at_every_step(schedule, total, data):
    step = data.draw(st.integers(0, total - 1))
    assert 0 < schedule.factor(step, total) <= 1


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("Warmup", "warmup", 1.5), ("Step", "milestones", [0.5, 20]), ("Cosine", "finl", 0.1)],
)
def test_a_wrong_number_is_refused(name: str, key: str, value: object):
    with pytest.raises(ConfigError, match=f"schedule.{key}"):
        instantiate({"_target_": f"experiments.schedule.{name}", key: value}, "schedule")
