"""Schema of a cell: type-check a cell's config and build its objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from textwrap import indent
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from experiments.adapters import ADAPTERS, EXAMPLES
from experiments.clip import Clip, ClipRule
from experiments.config.groups import CELL_KEYS, GROUPS, SEEDS
from experiments.config.identity import flatten
from experiments.config.init_options import init_from_config, validate_init
from experiments.config.instantiate import (
    TARGET,
    Adapt,
    check_value,
    common_keys,
    hints_of,
    instantiate,
    instantiate_wrapped,
    locate,
    plain,
    split_wrapped,
    unchanged,
    validate,
    validate_wrapped,
)
from experiments.data import Data
from experiments.data.dataset import Source
from experiments.data.own import described
from experiments.optim import Optimizer
from experiments.scaling import Method, Scaling
from experiments.schedule import Schedule
from experiments.training.settings import Train
from fanin.activations import channels_per_unit
from fanin.errors import ConfigError
from fanin.inits import Init
from fanin.losses import CustomLoss, Head, Loss, Objective, make_objective
from fanin.models import Model
from fanin.probes.measure import LayerQuantity
from fanin.probes.settings import Probe
from fanin.seeds import seeded

# Groups with keys common to all options (`init.gain`, `data.side`): the wrapper declares them.
WRAPPERS: dict[str, Any] = {"data": Data, "scaling": Scaling, "clip": Clip, "init": Init}

# Type that each group's `_target_` must return, in this repository or outside it. `init` is absent:
# a scheme may also be a function that samples a weight, and `init_options` checks it.
GROUP_TYPES: dict[str, Any] = {
    "data": Source,
    "scaling": Method,
    "clip": ClipRule,
    "model": Model,
    "activation": nn.Module,
    "head": Head,
    "loss": Loss | CustomLoss,
    "optim": Optimizer,
    "schedule": Schedule,
    "probe": Probe,
    "train": Train,
}
# What the user writes, for the groups with adapters.
EXPECTED = {
    "model": "a torch.nn.Module class, or a function that returns a module",
    "loss": "a function of (logits, targets), or a torch.nn loss class",
    "optim": "a torch.optim.Optimizer class",
    "schedule": "a function of (step, total)",
    "activation": "a torch.nn.Module class, or a function of a tensor",
}
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # fits a column of the tables


@dataclass(frozen=True)
class Cell:
    """The objects that a cell's config describes."""

    data: Data
    scaling: Scaling
    model: Model
    activation: Callable[[], nn.Module]
    init: Init
    objective: Objective
    optim: Optimizer
    schedule: Schedule
    clip: Clip
    probe: Probe
    train: Train
    seed: int
    seed_weights: int
    seed_data: int

    def network(self, draw: int = 0) -> nn.Module:
        """Build the network; `initialize` then replaces the weights of its weight layers.

        Other parameters of the user's own networks have a random stream for each draw.
        """
        with seeded("network", self.seed_weights, draw):
            return self.model.build(self.data.shape, self.objective.n_outputs, self.activation)


def coerce_group(group: str, node: Any) -> Any:
    """Type-check one top-level entry of a cell's config; return it as plain data."""
    if group in SEEDS:
        optional = group != "seed"
        return None if optional and node is None else check_value(node, Seed, group)
    if not isinstance(node, Mapping):
        raise ConfigError(f"{group}: expected an option of this group, got {node!r}")
    if group == "init":
        return validate_init(node, group)
    # Instantiate and discard: a class may check its arguments against each other.
    if group == "data":
        node = described(node, group)
    if group == "clip" and isinstance(node.get("factors"), Mapping):
        node = {**node, "factors": dict(flatten(node["factors"]))}  # `block1.conv1` nests mappings
    if group in WRAPPERS:
        option, _ = split_wrapped(WRAPPERS[group], node, group)
        _check_type(group, option, instantiate(option, group))
        return validate_wrapped(WRAPPERS[group], node, group)
    coerced = (
        Train.coerce_config(node, group)
        if group == "train"
        else validate(node, group, _adapt(group))
    )
    if group == "activation":
        coerced.pop("inplace", None)  # does not change the result
    _check_type(group, coerced, instantiate(coerced, group, _adapt(group)))
    return coerced


def typed_value(group: str, node: Mapping[str, Any], key: str, value: Any) -> Any:
    """Return a key's value after type-checking; keys of nested mappings are not checked.

    Raises
    ------
    ConfigError
        The value has the wrong type.
    """
    if group in SEEDS:
        return check_value(value, Seed, group)
    wrapper = WRAPPERS.get(group)
    known = {
        **(hints_of(wrapper) if wrapper else {}),
        **hints_of(locate(node, group, _adapt(group))),
    }
    if key not in known:
        return value
    return plain(check_value(value, known[key], f"{group}.{key}"), known[key])


def shared_keys(group: str) -> list[str]:
    """Return the keys common to all options of a group."""
    return common_keys(WRAPPERS[group]) if group in WRAPPERS else []


def _check_type(group: str, node: Mapping[str, Any], instance: Any) -> None:
    """Raise ConfigError if a group's `_target_` returned an object of the wrong type."""
    if not isinstance(instance, GROUP_TYPES[group]):
        expected, got = EXPECTED.get(group), type(instance).__name__
        name = expected or f"a {GROUP_TYPES[group].__name__}"
        code = f". For example:\n\n{indent(EXAMPLES[group], '    ')}" if group in EXAMPLES else ""
        raise ConfigError(f"{group}.{TARGET}={node[TARGET]}: expected {name}, got a {got}{code}")
    if group == "activation":
        _check_elementwise(instance)


def _check_elementwise(activation: nn.Module) -> None:
    """Check that each output depends only on its own input (or, for maxout, its own group)."""
    pieces = channels_per_unit(activation)
    x = torch.linspace(-2, 2, 18 * pieces).pow(3).reshape(1, 2 * pieces, 3, 3)
    order = torch.arange(18).reshape(3, 6).T.flatten()  # shuffles (unit, position) pairs
    shuffled = x.unflatten(1, (2, pieces)).movedim(2, -1).reshape(18, pieces)[order]
    try:
        y = activation(x.clone())
        shuffled_y = activation(shuffled.reshape(1, 2, 3, 3, pieces).movedim(-1, 2).flatten(1, 2))
    except Exception as error:
        raise ConfigError(f"activation: {error}") from error
    if not isinstance(y, torch.Tensor) or y.shape != (1, 2, 3, 3):
        raise ConfigError("activation: output and input must have the same shape")
    if not torch.allclose(y.flatten()[order], shuffled_y.flatten()):
        raise ConfigError(
            "activation: not elementwise (each output may only depend on its own input)"
        )


def coerce_cell(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's config with all values type-checked and all defaults filled in.

    Keys that don't describe the cell (`runner`, `sweep`) are dropped.

    Raises
    ------
    ConfigError
        A group is missing, or a key or value is wrong.
    """
    missing = [key for key in CELL_KEYS if key not in config]
    if missing:
        raise ConfigError(f"{missing[0]}: missing from the config")
    return with_seeds({key: coerce_group(key, config[key]) for key in CELL_KEYS})


def with_seeds(coerced: dict[str, Any]) -> dict[str, Any]:
    """Replace `seed_weights` and `seed_data` by `seed` where they are None."""
    seed = coerced["seed"]
    seeds = {key: coerced[key] for key in ("seed_weights", "seed_data")}
    return coerced | {key: seed if value is None else value for key, value in seeds.items()}


def probe_quantities(names: Iterable[str]) -> dict[str, LayerQuantity]:
    """Import the functions of `probe.quantities`; their names become values of `quantity`."""
    key = "probe.quantities"
    return {name.rpartition(".")[2]: locate({TARGET: name}, key) for name in names}


def build_cell(config: Mapping[str, Any]) -> Cell:
    """Build the objects of a coerced config (see `coerce_cell`).

    Raises
    ------
    ConfigError
        The objects are incompatible, for example the head and the loss.
    """
    parts = {group: _part(group, config[group]) for group in GROUPS if group != "activation"}
    objective = make_objective(parts.pop("loss"), parts.pop("head"), parts["data"].n_classes)
    return Cell(
        activation=lambda: _part("activation", config["activation"]),
        objective=objective,
        **parts,
        **{key: config[key] for key in SEEDS},
    )


def _part(group: str, node: Mapping[str, Any]) -> Any:
    if group == "init":
        return init_from_config(node)
    if group in WRAPPERS:
        return instantiate_wrapped(WRAPPERS[group], node, group)
    return instantiate(node, group, _adapt(group))


def _adapt(group: str) -> Adapt:
    return ADAPTERS.get(group, unchanged)
