"""The `init` group: a scheme, and what all schemes share: gain, biases, overrides per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import FiniteFloat
from torch import nn

from fanin.errors import ConfigError, nearest
from fanin.inits.layer_init import LayerInit, NormalBias
from fanin.inits.layers import LayerPlace, weight_layers
from fanin.inits.scheme import (
    Scheme,
    coerce_scheme,
    scheme_arguments,
    scheme_from_config,
    with_fields,
)
from fanin.instantiate import TARGET, check_value, locate

SHARED = ("gain", "bias")


@dataclass(frozen=True)
class Init:
    """A scheme with a gain, biases and overrides for single layers.

    Parameters
    ----------
    scheme, gain, bias
        As in `LayerInit`, for all layers.
    layers
        By layer name, what differs there: `gain`, `bias`, any field of the scheme, or `_target_`
        and its arguments for another scheme.

    Examples
    --------
    >>> from fanin.inits import Normal
    >>> init = Init(Normal(std=0.1), layers={"conv1": {"std": 0.02, "bias": 1.0}})
    >>> init.for_layer("conv1").scheme, init.for_layer("conv2").scheme
    (Normal(std=0.02, mean=0.0), Normal(std=0.1, mean=0.0))
    """

    scheme: Scheme
    gain: float = 1.0
    bias: float | NormalBias | None = None
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_config(cls, node: Mapping[str, Any], where: str = "init") -> Init:
        """Make the init that a config node describes: a scheme's keys beside the shared ones.

        Raises
        ------
        ConfigError
            A key or value is wrong, in a layer's overrides too.
        """
        scheme_node, shared, layers = _split(node, where)
        init = cls(scheme_from_config(scheme_node, where), layers=layers, **shared)
        for name in layers:
            init.for_layer(name)
        return init

    @classmethod
    def coerce_config(cls, node: Mapping[str, Any], where: str = "init") -> dict[str, Any]:
        """Return a config node as plain data, every key present and of its declared type.

        Raises
        ------
        ConfigError
            As `from_config`.
        """
        scheme_node, shared, layers = _split(node, where)
        coerced = coerce_scheme(scheme_node, where)
        return {
            **coerced,
            **_plain(shared),
            "layers": {
                name: _coerce_layer(coerced, override, f"{where}.layers.{name}")
                for name, override in layers.items()
            },
        }

    def for_layer(self, name: str, is_output: bool = False) -> LayerInit:
        """How the layer of that name is drawn.

        Raises
        ------
        ConfigError
            The layer's overrides have a wrong key or value.
        """
        override = self.layers.get(name, {})
        scheme, shared = _layer_parts(self.scheme, override, f"init.layers.{name}")
        parts = {"gain": self.gain, "bias": self.bias} | shared
        return LayerInit(scheme, LayerPlace(name, is_output), **parts)

    def for_model(self, model: nn.Module) -> dict[str, LayerInit]:
        """How each weight layer of a model is drawn, by name; the last one is the output layer.

        Raises
        ------
        ConfigError
            An override names a layer that the model lacks, or has a wrong key or value.
        """
        names = list(weight_layers(model))
        for name in self.layers:
            if name not in names:
                raise ConfigError(f"init.layers.{name}: no such layer; {nearest(name, names)}")
        return {name: self.for_layer(name, is_output=name == names[-1]) for name in names}


def _split(
    node: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, Any]]:
    """Part a group's node into the scheme's keys, gain and bias, and the layers' overrides."""
    scheme_node = {key: value for key, value in node.items() if key not in (*SHARED, "layers")}
    known = scheme_arguments(locate(scheme_node, where))
    for key in (*SHARED, "layers"):
        if key in known:
            raise ConfigError(
                f"{where}: {scheme_node[TARGET]} has an argument {key}, which is already a key of"
                " every init scheme; give the argument another name"
            )
    for key in scheme_node:
        if key != TARGET and key not in known:
            meant = nearest(str(key), [*known, *SHARED, "layers"])
            raise ConfigError(f"{where}.{key}: no such key; {meant}")
    hint = dict[str, dict[str, Any]]
    layers = check_value(node.get("layers") or {}, hint, f"{where}.layers")
    return scheme_node, {"gain": 1.0, "bias": None} | _shared(node, where), layers


def _shared(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    if "gain" in node:
        shared["gain"] = check_value(node["gain"], FiniteFloat, f"{where}.gain")
    if isinstance(node.get("bias"), Mapping):
        shared["bias"] = check_value(node["bias"], NormalBias, f"{where}.bias")
    elif "bias" in node:
        shared["bias"] = check_value(node["bias"], FiniteFloat | None, f"{where}.bias")
    return shared


def _layer_parts(
    base: Scheme, override: Mapping[str, Any], where: str
) -> tuple[Scheme, dict[str, Any]]:
    changes = {key: value for key, value in override.items() if key not in SHARED}
    if TARGET in changes:
        return scheme_from_config(changes, where), _shared(override, where)
    return with_fields(base, changes, where), _shared(override, where)


def _coerce_layer(
    coerced: Mapping[str, Any], override: Mapping[str, Any], where: str
) -> dict[str, Any]:
    _, shared = _layer_parts(scheme_from_config(coerced, where), override, where)
    changes = {key: value for key, value in override.items() if key not in SHARED}
    if TARGET in changes:
        return coerce_scheme(changes, where) | _plain(shared)
    changed = coerce_scheme({**coerced, **changes}, where)
    return {key: changed[key] for key in changes} | _plain(shared)


def _plain(shared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: asdict(value) if isinstance(value, NormalBias) else value
        for key, value in shared.items()
    }
