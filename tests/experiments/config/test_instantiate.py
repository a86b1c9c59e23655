"""What a class's annotations say is what its config may hold, whoever wrote the class."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from experiments.config.instantiate import instantiate
from fanin.errors import ConfigError


@dataclass(frozen=True)
class Remarked:
    """A user's class, whose annotation carries something that can't be hashed."""

    rate: Annotated[float, {"unit": "1 / s"}]


def test_an_annotation_may_carry_anything():
    target = f"{__name__}.Remarked"
    assert instantiate({"_target_": target, "rate": 3}) == Remarked(3.0)
    with pytest.raises(ConfigError, match=r"rate: .*valid number"):
        instantiate({"_target_": target, "rate": "fast"})


def test_an_option_that_was_true_is_not_the_number_one():
    node = {"_target_": "experiments.data.Gaussian", "train_size": 1}
    instantiate(node)
    with pytest.raises(ConfigError, match="train_size: expected a whole number, got True"):
        instantiate(node | {"train_size": True})


def test_a_class_inherits_what_our_modules_import_for_its_annotations(tmp_path, monkeypatch):
    """`HeNormal`'s annotations are text, and name what only its own module imports."""
    text = (
        "from dataclasses import dataclass\n"
        "from fanin.inits import HeNormal\n"
        "@dataclass(frozen=True)\n"
        "class Halved(HeNormal):\n"
        "    times: int = 2\n"
    )
    (tmp_path / "inherits.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    made = instantiate({"_target_": "inherits.Halved", "fan": "fan_out", "times": 3})
    assert (made.fan, made.times) == ("fan_out", 3)
    with pytest.raises(ConfigError, match=r"fan: no such choice as fan_uot; did you mean fan_out"):
        instantiate({"_target_": "inherits.Halved", "fan": "fan_uot"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class Odd(:\n", "SyntaxError"),
        ("raise ValueError('not today')\n", "ValueError: not today"),
        (
            "class Odd:\n    def __init__(self, a: 'Elsewhere') -> None: pass\n",
            "can't read its annotations .*Elsewhere",
        ),
    ],
)
def test_a_module_that_fails_is_named(tmp_path, monkeypatch, request, text, says):
    name = f"fails_{request.node.callspec.indices['text']}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=says):
        instantiate({"_target_": f"{name}.Odd", "a": 1})
