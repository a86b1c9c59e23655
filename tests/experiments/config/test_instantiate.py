"""Config values are checked against the annotations of the target, also in users' classes."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from experiments.config.instantiate import instantiate
from fanin.errors import ConfigError


@dataclass(frozen=True)
class UnhashableMetadata:
    """A user's class with an annotation that cannot be hashed."""

    rate: Annotated[float, {"unit": "1 / s"}]


def test_an_annotation_may_have_unhashable_metadata():
    target = f"{__name__}.UnhashableMetadata"
    assert instantiate({"_target_": target, "rate": 3}) == UnhashableMetadata(3.0)
    with pytest.raises(ConfigError, match=r"rate: .*expected a number"):
        instantiate({"_target_": target, "rate": "fast"})


def test_true_is_not_accepted_as_the_number_one():
    node = {"_target_": "experiments.data.Gaussian", "train_size": 1}
    instantiate(node)
    with pytest.raises(ConfigError, match="train_size: expected a whole number, got True"):
        instantiate(node | {"train_size": True})


def test_annotations_of_base_classes_are_resolved_in_their_own_module(tmp_path, monkeypatch):
    """`HeNormal` has string annotations with names that only its module imports."""
    text = (
        "from dataclasses import dataclass\n"
        "from fanin.inits import HeNormal\n"
        "@dataclass(frozen=True)\n"
        "class Halved(HeNormal):\n"
        "    times: int = 2\n"
    )
    (tmp_path / "inherits.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    instance = instantiate({"_target_": "inherits.Halved", "fan": "fan_out", "times": 3})
    assert (instance.fan, instance.times) == ("fan_out", 3)
    with pytest.raises(ConfigError, match=r"fan: invalid value 'fan_uot'; did you mean fan_out"):
        instantiate({"_target_": "inherits.Halved", "fan": "fan_uot"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Odd(:\n", "SyntaxError"),
        ("raise ValueError('not today')\n", "ValueError: not today"),
        (
            "class Odd:\n    def __init__(self, a: 'Elsewhere') -> None: pass\n",
            "can't read its annotations .*Elsewhere",
        ),
    ],
)
def test_the_error_names_a_module_that_cannot_be_imported(
    tmp_path, monkeypatch, request, text, message
):
    name = f"fails_{request.node.callspec.indices['text']}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        instantiate({"_target_": f"{name}.Odd", "a": 1})
