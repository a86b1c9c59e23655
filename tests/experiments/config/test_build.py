"""What a class's annotations say is what its config may hold, whoever wrote the class."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from experiments.config.build import build
from experiments.errors import ConfigError


@dataclass(frozen=True)
class Remarked:
    """A user's class, whose annotation carries something that can't be hashed."""

    rate: Annotated[float, {"unit": "1 / s"}]


def test_an_annotation_may_carry_anything():
    target = f"{__name__}.Remarked"
    assert build({"_target_": target, "rate": 3}) == Remarked(3.0)
    with pytest.raises(ConfigError, match=r"rate: .*valid number"):
        build({"_target_": target, "rate": "fast"})


def test_an_option_that_was_true_is_not_the_number_one():
    node = {"_target_": "experiments.data.Gaussian", "train_size": 1}
    build(node)
    with pytest.raises(ConfigError, match="train_size: expected a whole number, got True"):
        build(node | {"train_size": True})
