"""The cells to check: every option of every group at least once, read from `conf/`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import torch
from omegaconf import OmegaConf

from experiments.cell import CellRun
from experiments.clip import BiasGradient
from experiments.config.catalog import CONF, ConfigCatalog, assign, config_loader
from experiments.config.instantiate import MISSING, TARGET, hints_of, locate
from experiments.schema import coerce_cell, shared_keys
from experiments.training.engines import TrainSpec
from fanin.losses.table import TABLE

# By default cells have smooth activations and no max-pool, so that rounding bounds are linear.
DEFAULTS = (
    *("data=gaussian", "data.image_side=8", "data.classes=3", "data.train_size=96"),
    *("data.test_size=32", "model=two_layer", "model.pool=false", "activation=tanh"),
    *("train.batch_size=32", "train.steps=8", "probe=none"),
)
ALEXNET = ("data.image_side=16", "model.width=8", "model.dense=32")
# Settings that make an option's network or its rounding errors small. With Adam's default eps, a
# gradient that consists only of rounding errors would give a full step. With its default beta2, a
# squared gradient is multiplied by 0.001, and float16 rounds the product to 0.
SETTINGS: dict[str, tuple[str, ...]] = {
    "model=alexnet": ALEXNET,
    "model=fitnet4": ("model.width=4",),
    "model=mlp": ("model.width=32",),
    "model=plain": ("model.depth=6", "model.width=8"),
    "model=resnet": ("model.depth=8", "model.width=4"),
    "model=vgg": ("data.image_side=32", "model.depth=11", "model.width=4"),
    "init=fixup": ("model=resnet", "model.depth=8", "model.width=4", "model.norm=none"),
    "init=skipinit": (
        *("model=resnet", "model.depth=8", "model.width=4", "model.norm=none"),
        "model.scalars=multiplier",
    ),
    "optim=sgd": ("optim.momentum=0.9", "optim.weight_decay=0.01"),
    "optim=adam": ("optim.eps=0.1", "optim.beta2=0.9", "optim.weight_decay=0.01"),
    "optim=adamw": ("optim.eps=0.1", "optim.beta2=0.9"),
    "clip=norm": ("clip.max_norm=0.1",),
    "clip=value": ("clip.max_value=0.01",),
}
GROUPS = ("model", "activation", "init", "optim", "schedule", "clip", "scaling")


@dataclass(frozen=True)
class Case:
    """A cell to check: the group that it covers, its name, and its overrides."""

    group: str
    name: str
    overrides: tuple[str, ...]


def config_of(*overrides: str) -> dict[str, Any]:
    """Return a cell's config from `DEFAULTS` and overrides; the last value of a key counts.

    Reads the YAML files of the options directly. Composing them with Hydra gives the same config
    (no option sets keys of another group) and takes a third of a second per option.
    """
    values = {text.partition("=")[0]: text for text in (*DEFAULTS, *overrides)}
    if values["model"] != "model=two_layer":
        values.pop("model.pool", None)
    chosen = {key: values.pop(key) for key in list(values) if (CONF / key).is_dir()}
    config = dict(_base())
    for group, choice in chosen.items():
        common = {key: config[group][key] for key in shared_keys(group)}
        config[group] = common | option_node(group, choice.partition("=")[2])
    settings = OmegaConf.to_container(OmegaConf.from_dotlist(list(values.values())))
    return coerce_cell(assign(config, "", settings))


def options(group: str) -> list[str]:
    """Return the names of a group's options in `conf/`."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def option_node(group: str, option: str) -> dict[str, Any]:
    """Return the mapping in an option's file."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
    return {str(key): value for key, value in node.items()}


@cache
def _base() -> dict[str, Any]:
    return ConfigCatalog(config_loader(), "config").base


def option_cases() -> Iterator[Case]:
    """Yield all options of the groups that a training step depends on, and all model variants."""
    for group in GROUPS:
        for option in options(group):
            if option_node(group, option).get(TARGET) != MISSING:  # skip `custom`
                name = f"{group}={option}"
                yield Case(group, name, (name, *SETTINGS.get(name, ())))
    for loss, head, form in TABLE:
        name = f"loss={loss} head={head} loss.form={form}"
        yield Case("loss", name, tuple(name.split()))
    for key in ("norm", "padding_mode"):
        for value in choices("model", "two_layer", key):
            yield Case(key, f"model.{key}={value}", (f"model.{key}={value}",))
    for bias in get_args(BiasGradient):
        yield Case("clip", f"clip.bias={bias}", (f"clip.bias={bias}",))
    overrides = ("model.dropout=0.5", "model.lrn=true", "model.groups=2")
    alexnet = ("model=alexnet", *ALEXNET, *overrides)
    yield Case("model", "model=alexnet dropout, lrn, groups", alexnet)
    yield Case(
        "model", "model=two_layer pool", ("model=two_layer", "model.pool=true", "activation=relu")
    )
    yield Case("loss", "data.task=regression", ("data.task=regression", "loss=mse", "head=none"))


def choices(group: str, option: str, key: str) -> tuple[str, ...]:
    """Return the values that a key of an option accepts, from its annotation."""
    return get_args(hints_of(locate(option_node(group, option), group))[key])


def dtypes() -> tuple[str, ...]:
    """Return every `train.dtype`."""
    return get_args(hints_of(locate(_base()["train"], "train"))["dtype"])


def train_spec(config: dict[str, Any], device: torch.device) -> TrainSpec:
    """Draw a cell's weights on the device and return its train spec."""
    run = CellRun.start(config, device)
    run.measure_draws()
    return run.train_spec()


def ignore_progress(done: int, total: int) -> None:
    """Do nothing."""
