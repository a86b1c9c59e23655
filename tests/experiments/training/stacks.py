"""Cells to stack: small, unlike in all that they may differ in, and how far two of them part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from experiments.cell import CellRun
from experiments.training.engines import TrainSpec
from experiments.training.loop import TrainResult, train, train_stacked

CPU = torch.device("cpu")
SMALL = (
    *("data=gaussian", "data.side=null", "data.image_side=6", "data.classes=3"),
    *("data.train_size=64", "data.test_size=8", "train.batch_size=8", "probe=none"),
)
INITS = ("he_normal", "xavier_uniform", "lecun_normal", "pytorch_default", "orthogonal")
SCALINGS = (
    *("standardize", "unit scaling.scale=2", "signed", "raw scaling.shift=0.5"),
    *("pixel_mean", "per_feature_minmax"),
)
# Numbers of each optimizer that are another's in every cell.
NUMBERS = {
    "sgd": ("lr=0.05 momentum=0.9 weight_decay=0", "lr=0.02 momentum=0 weight_decay=0.01"),
    "adam": ("lr=0.003 beta1=0.9 eps=1e-8", "lr=0.001 beta1=0.5 beta2=0.99 weight_decay=0.1"),
    "adamw": ("lr=0.003 weight_decay=0.1", "lr=0.002 beta2=0.9 weight_decay=0.01 eps=1e-6"),
}


OWN = ("init", "scaling", "optim", "seed", "seed_weights", "seed_data")


def unlike(index: int, optim: str) -> list[str]:
    """What cell number `index` of a stack has for itself."""
    numbers = NUMBERS[optim][index % 2].split()
    return [
        *(f"seed_weights={index}", f"seed_data={index // 2}", f"seed={index}"),
        f"init={INITS[index % len(INITS)]}",
        *f"scaling={SCALINGS[index % len(SCALINGS)]}".split(),
        *(f"optim={optim}", *(f"optim.{number}" for number in numbers)),
    ]


def configs(cell_config, case: str, count: int) -> list[dict[str, Any]]:
    """Configs of one stack, alike in what `case` says, and unlike in all else that may be."""
    words = case.split()
    optim = next((word[6:] for word in words if word.startswith("optim=")), "sgd")
    given = [text.partition("=")[0] for text in words]
    common = cell_config(*(t for t in SMALL if t.partition("=")[0] not in given), *words)
    own = [cell_config(*unlike(index, optim)) for index in range(count)]
    return [common | {key: config[key] for key in OWN} for config in own]


def members(cell_config, case: str, count: int) -> list[TrainSpec]:
    """The cells of `configs`, ready to train."""
    return [ready(config) for config in configs(cell_config, case, count)]


def ready(config: dict[str, Any]) -> TrainSpec:
    """A cell's network with its draw 0, ready to train."""
    run = CellRun.start(config, CPU)
    run.measure_draws()
    return run.train_spec()


def alone(member: TrainSpec) -> TrainResult:
    """TrainResult by the serial engine."""
    return train(member, lambda done, total: None)


def together(members: Sequence[TrainSpec]) -> list[TrainResult]:
    """TrainResult by the stacked engine."""
    ended = dict(train_stacked(members, lambda done, total: None))
    assert len(ended) == len(members)
    return [ended[index] for index in range(len(members))]


def assert_stacking_changes_no_bit(configs: Sequence[dict[str, Any]], sizes: Sequence[int]) -> None:
    """The first two cells are the same alone and, in reverse order, at the end of a stack."""
    stack = [ready(config) for config in configs]
    first, second = together(stack[:1])[0], together(stack[1:2])[0]
    for size in sizes:
        *_, in_second, in_first = together(stack[:size][::-1])
        assert same_bits(in_first, first)
        assert same_bits(in_second, second)


def largest(trained: TrainResult) -> float:
    """The largest entry of any parameter."""
    return max(float(tensor.abs().max()) for tensor in trained.params.values())


def apart(one: TrainResult, other: TrainResult) -> float:
    """The largest difference between two networks' parameters.

    Over the whole network: a bias in front of a normalization that takes means away has a gradient
    of rounding errors only, which agree in no digit however well the networks do.
    """
    pairs = zip(one.params.values(), other.params.values(), strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)


def same_bits(one: TrainResult, other: TrainResult) -> bool:
    """Whether nothing but the time differs."""
    return (
        one.divergence == other.divergence
        and repr(one.curves) == repr(other.curves)
        and all(torch.equal(one.params[name], tensor) for name, tensor in other.params.items())
    )
