"""The cell's schema: which groups it has, and the objects that one config stands for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from experiments.clip import Clip, ClipRule
from experiments.config.groups import CELL_KEYS, GROUPS, SEEDS, SHAPED_BY
from experiments.config.init_options import init_from_config, validate_init
from experiments.config.instantiate import (
    TARGET,
    check_value,
    common_keys,
    hints_of,
    instantiate,
    instantiate_wrapped,
    locate,
    plain,
    split_wrapped,
    validate,
    validate_wrapped,
)
from experiments.data import Data
from experiments.data.dataset import Source
from experiments.optim import Optimizer
from experiments.scaling import Method, Scaling
from experiments.schedule import Schedule
from experiments.training.settings import Train
from fanin.activations import pieces_of
from fanin.errors import ConfigError, FaninError, nearest
from fanin.inits import Init, weight_layers
from fanin.losses import Head, Loss, Objective, make_objective
from fanin.models import Model
from fanin.probes.settings import Probe

# Groups whose options share keys (`init.gain`, `data.side`): the wrapper class declares those.
WRAPPERS: dict[str, Any] = {"data": Data, "scaling": Scaling, "clip": Clip, "init": Init}

# What each group's `_target_` must make, be it a class of this repository or not. (An init scheme
# may be a bare function: `init_options` checks it.)
MADE: dict[str, Any] = {
    "data": Source,
    "scaling": Method,
    "clip": ClipRule,
    "model": Model,
    "activation": nn.Module,
    "head": Head,
    "loss": Loss,
    "optim": Optimizer,
    "schedule": Schedule,
    "probe": Probe,
    "train": Train,
}
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # fits a column of the tables


@dataclass(frozen=True)
class Cell:
    """One configuration as objects, ready to run or to predict."""

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

    def network(self) -> nn.Sequential:
        """The network, with whatever weights torch gives it; `initialize` draws the cell's."""
        return self.model.build(self.data.shape, self.objective.n_outputs, self.activation)


def coerce_group(group: str, node: Any) -> Any:
    """Type-check one top-level entry of a cell's config and return it as plain data."""
    if group in SEEDS:
        optional = group != "seed"
        return None if optional and node is None else check_value(node, Seed, group)
    if not isinstance(node, Mapping):
        raise ConfigError(f"{group}: expected an option of this group, got {node!r}")
    if group == "init":
        return validate_init(node, group)
    # Made once and thrown away: a class checks its arguments against each other when it is made.
    if group in WRAPPERS:
        option, _ = split_wrapped(WRAPPERS[group], node, group)
        _check_made(group, option, instantiate(option, group))
        return validate_wrapped(WRAPPERS[group], node, group)
    coerced = Train.coerce_config(node, group) if group == "train" else validate(node, group)
    if group == "activation":
        coerced.pop("inplace", None)  # torch's business: how it is computed, not what
    _check_made(group, coerced, instantiate(coerced, group))
    return coerced


def typed_value(group: str, node: Mapping[str, Any], key: str, value: Any) -> Any:
    """A value as a key of this node would hold it once typed; deeper keys are left as they are.

    Raises
    ------
    ConfigError
        The value is none that the key can have.
    """
    if group in SEEDS:
        return check_value(value, Seed, group)
    wrapper = WRAPPERS.get(group)
    known = {**(hints_of(wrapper) if wrapper else {}), **hints_of(locate(node, group))}
    if key not in known:
        return value
    return plain(check_value(value, known[key], f"{group}.{key}"), known[key])


def shared_keys(group: str) -> list[str]:
    """The keys that all options of a group share."""
    return common_keys(WRAPPERS[group]) if group in WRAPPERS else []


def _check_made(group: str, node: Mapping[str, Any], made: Any) -> None:
    """A `_target_` may be anyone's; say so now if it makes something of another kind."""
    if not isinstance(made, MADE[group]):
        raise ConfigError(
            f"{group}.{TARGET}={node[TARGET]}: expected a {MADE[group].__name__}, but it makes a "
            f"{type(made).__name__}"
        )
    if group == "activation":
        _check_elementwise(made)


def _check_elementwise(activation: nn.Module) -> None:
    """Each output is of its own input alone, or of as many channels as the activation says."""
    pieces = pieces_of(activation)
    x = torch.linspace(-2, 2, 18 * pieces).pow(3).reshape(1, 2 * pieces, 3, 3)
    order = torch.arange(18).reshape(3, 6).T.flatten()  # of units at positions
    shuffled = x.unflatten(1, (2, pieces)).movedim(2, -1).reshape(18, pieces)[order]
    try:
        y = activation(x.clone())
        again = activation(shuffled.reshape(1, 2, 3, 3, pieces).movedim(-1, 2).flatten(1, 2))
    except Exception as error:
        raise ConfigError(f"activation: {error}") from error
    if not isinstance(y, torch.Tensor) or y.shape != (1, 2, 3, 3):
        raise ConfigError("activation: what comes out must have the shape of what went in")
    if not torch.allclose(y.flatten()[order], again.flatten()):
        raise ConfigError(
            "activation: not elementwise (each output may depend on its own input alone)"
        )


def coerce_cell(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's config with every value of its declared type and every default present.

    Keys that say where or how to run (`runner`, `sweep`) are dropped.

    Raises
    ------
    ConfigError
        A group is missing, or a key or value in it is wrong.
    """
    missing = [key for key in CELL_KEYS if key not in config]
    if missing:
        raise ConfigError(f"{missing[0]}: missing from the config")
    return with_seeds({key: coerce_group(key, config[key]) for key in CELL_KEYS})


def with_seeds(coerced: dict[str, Any]) -> dict[str, Any]:
    """Let `seed` stand in for the seeds that are not given by name."""
    seed = coerced["seed"]
    given = {key: coerced[key] for key in ("seed_weights", "seed_data")}
    return coerced | {key: seed if value is None else value for key, value in given.items()}


def build_cell(config: Mapping[str, Any]) -> Cell:
    """Make the objects that a coerced config stands for (see `coerce_cell`).

    Raises
    ------
    ConfigError
        The parts don't fit together, as a head and a loss whose combination has no meaning.
    """
    made = {group: _part(group, config[group]) for group in GROUPS if group != "activation"}
    objective = make_objective(made.pop("loss"), made.pop("head"), made["data"].n_classes)
    return Cell(
        activation=lambda: instantiate(config["activation"], "activation"),
        objective=objective,
        **made,
        **{key: config[key] for key in SEEDS},
    )


def _part(group: str, node: Mapping[str, Any]) -> Any:
    if group == "init":
        return init_from_config(node)
    if group in WRAPPERS:
        return instantiate_wrapped(WRAPPERS[group], node, group)
    return instantiate(node, group)


class PartsChecker:
    """Checks that the parts of cells fit together, each distinct combination once.

    What one part can't know alone: a head without a meaning for its loss, images too small for a
    network's pooling, a layer name that the network lacks.
    """

    def __init__(self) -> None:
        self._layers: dict[str, set[str]] = {}

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ConfigError where a coerced config's parts don't fit together."""
        memo = json.dumps([config[group] for group in SHAPED_BY], sort_keys=True)
        if memo not in self._layers:
            cell = build_cell(config)
            _check_probe(cell)
            try:
                with torch.device("meta"):
                    self._layers[memo] = set(weight_layers(cell.network()))
            except FaninError:
                raise
            except Exception as error:  # a model may be anyone's, and say no in its own way
                reason = str(error).partition("\n")[0]
                raise ConfigError(f"model: {type(error).__name__}: {reason}") from error
        for group, mapping in (("init", "layers"), ("clip", "factors")):
            for name in config[group][mapping]:
                if name not in self._layers[memo]:
                    near = nearest(name, self._layers[memo])
                    raise ConfigError(f"{group}.{mapping}.{name}: no such layer; {near}")


def _check_probe(cell: Cell) -> None:
    """A probe after the end of training, or of an image that isn't there, is never made."""
    n_train = cell.data.n_train or cell.data.source.train_size
    beyond = [image for image in cell.probe.images if image >= n_train]
    if beyond:
        raise ConfigError(
            f"probe.images names image {beyond[0]}, but there are {n_train} training images"
        )
    total = cell.train.total_steps(n_train)
    late = [step for step in cell.probe.steps if step > total]
    if late:
        raise ConfigError(f"probe.steps names step {late[0]}, but training ends after {total}")
