"""Helpers for stacks: small cells that differ in everything they may, and their comparison."""

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
# Numbers of each optimizer in the cells with even and odd index.
NUMBERS = {
    "sgd": ("lr=0.05 momentum=0.9 weight_decay=0", "lr=0.02 momentum=0 weight_decay=0.01"),
    "adam": ("lr=0.003 beta1=0.9 eps=1e-8", "lr=0.001 beta1=0.5 beta2=0.99 weight_decay=0.1"),
    "adamw": ("lr=0.003 weight_decay=0.1", "lr=0.002 beta2=0.9 weight_decay=0.01 eps=1e-6"),
}


VARYING_KEYS = ("init", "scaling", "optim", "seed", "seed_weights", "seed_data")


def varying_overrides(index: int, optim: str) -> list[str]:
    """Return the overrides in which cell `index` differs from the other cells of its stack."""
    numbers = NUMBERS[optim][index % 2].split()
    return [
        *(f"seed_weights={index}", f"seed_data={index // 2}", f"seed={index}"),
        f"init={INITS[index % len(INITS)]}",
        *f"scaling={SCALINGS[index % len(SCALINGS)]}".split(),
        *(f"optim={optim}", *(f"optim.{number}" for number in numbers)),
    ]


def stack_configs(cell_config, case: str, count: int) -> list[dict[str, Any]]:
    """Return the configs of one stack: `case`, and different values of `VARYING_KEYS`."""
    overrides = case.split()
    optim = next((text[6:] for text in overrides if text.startswith("optim=")), "sgd")
    keys = [text.partition("=")[0] for text in overrides]
    common = cell_config(*(t for t in SMALL if t.partition("=")[0] not in keys), *overrides)
    varying = [cell_config(*varying_overrides(index, optim)) for index in range(count)]
    return [common | {key: config[key] for key in VARYING_KEYS} for config in varying]


def stack_specs(cell_config, case: str, count: int) -> list[TrainSpec]:
    """Return the train specs of `stack_configs`."""
    return [train_spec(config) for config in stack_configs(cell_config, case, count)]


def train_spec(config: dict[str, Any]) -> TrainSpec:
    """Return a cell's network with the weights of draw 0, ready to train."""
    run = CellRun.start(config, CPU)
    run.measure_draws()
    return run.train_spec()


def train_serial(spec: TrainSpec) -> TrainResult:
    """Train one network by the serial engine."""
    return train(spec, lambda done, total: None)


def train_as_stack(specs: Sequence[TrainSpec]) -> list[TrainResult]:
    """Train networks by the stacked engine."""
    results = dict(train_stacked(specs, lambda done, total: None))
    assert len(results) == len(specs)
    return [results[index] for index in range(len(specs))]


def assert_stacking_changes_no_bit(configs: Sequence[dict[str, Any]], sizes: Sequence[int]) -> None:
    """Compare the first two cells in stacks of one with the same cells at the end of stacks."""
    specs = [train_spec(config) for config in configs]
    first, second = train_as_stack(specs[:1])[0], train_as_stack(specs[1:2])[0]
    for size in sizes:
        *_, stacked_second, stacked_first = train_as_stack(specs[:size][::-1])
        assert bit_identical(stacked_first, first)
        assert bit_identical(stacked_second, second)


def max_parameter(result: TrainResult) -> float:
    """Return the largest absolute value of all parameters."""
    return max(float(tensor.abs().max()) for tensor in result.params.values())


def max_difference(first: TrainResult, second: TrainResult) -> float:
    """Return the largest absolute difference between two networks' parameters.

    The maximum is over the whole network, because single parameters may differ in all digits: the
    gradient of a bias before a normalization that subtracts means consists of rounding errors.
    """
    pairs = zip(first.params.values(), second.params.values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def bit_identical(first: TrainResult, second: TrainResult) -> bool:
    """Return True if two results differ at most in their time."""
    return (
        first.divergence == second.divergence
        and repr(first.curves) == repr(second.curves)
        and all(torch.equal(first.params[name], tensor) for name, tensor in second.params.items())
    )
