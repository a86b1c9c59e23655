"""Check that the parts of a cell are compatible, and that the user's own parts run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.config.groups import SHAPE_GROUPS
from experiments.config.init_options import init_from_config
from experiments.config.instantiate import TARGET
from experiments.schema import Cell, build_cell, probe_quantities
from experiments.user_code import user_code_error
from fanin.errors import ConfigError, FaninError, FaninWarning, suggest
from fanin.inits import weight_layers
from fanin.models import ModuleModel, dropout_masks
from fanin.probes.measure import measure

N_IMAGES = 3  # batch normalization needs at least two
MAX_NAMES = 3  # in a message


class PartsChecker:
    """Checks that the parts of a cell are compatible, once per distinct combination.

    It finds errors that no part can find alone: a head that is undefined for the loss, images too
    small for the network's pooling, a layer name that the network doesn't have, an exception in the
    user's own model or loss.
    """

    def __init__(self) -> None:
        self._layers: dict[str, set[str]] = {}
        self._inits: set[str] = set()
        self._texts: dict[int, tuple[Any, str]] = {}

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ConfigError if the parts of a coerced config are incompatible."""
        memo = "\n".join([self._text(config[group]) for group in SHAPE_GROUPS])
        if memo not in self._layers:
            cell = build_cell(config)
            _check_probe(cell)
            self._layers[memo] = set(_weight_layers(cell, config))
        for group, mapping in (("init", "layers"), ("clip", "factors")):
            for name in config[group][mapping]:
                if name not in self._layers[memo]:
                    near = suggest(name, self._layers[memo])
                    raise ConfigError(f"{group}.{mapping}.{name}: no such layer; {near}")
        init = memo + self._text(config["init"])
        if init not in self._inits:
            _check_init(config)
            self._inits.add(init)

    def _text(self, node: Any) -> str:
        """Return a node as JSON, once per object: many cells share the objects of their groups."""
        if id(node) not in self._texts:
            self._texts[id(node)] = node, json.dumps(node, sort_keys=True)  # keeps the id in use
        return self._texts[id(node)][1]


def _weight_layers(cell: Cell, config: Mapping[str, Any]) -> Mapping[str, nn.Module]:
    """Build the network and return its weight layers; run it if the user has written parts."""
    try:
        if not (_is_own(cell.model) or cell.objective.is_custom or cell.probe.quantities):
            with torch.device("meta"):
                return weight_layers(cell.network())
        with torch.random.fork_rng(devices=[]):
            network = cell.network()
            layers = weight_layers(network)
            _run(cell, network, config)
    except FaninError:
        raise
    except Exception as error:  # a user's model may raise anything
        raise user_code_error("model", error) from error
    _warn_of_other_weights(network, layers, config)
    return layers


def _check_init(config: Mapping[str, Any]) -> None:
    """Raise ConfigError if an init scheme does not apply to the network (`fixup`)."""
    init = init_from_config(config["init"])
    schemes = [init.scheme, *(layer.scheme for layer in init.layers.values())]
    if any(hasattr(scheme, "for_model") for scheme in schemes):
        cell = build_cell(config)
        device = "cpu" if _is_own(cell.model) else "meta"  # your own may not support `meta`
        with torch.random.fork_rng(devices=[]), torch.device(device):
            init.for_model(cell.network())


def _is_own(model: object) -> bool:
    """Return True if the model or its network is not part of fanin."""
    return isinstance(model, ModuleModel) or not _is_in_fanin(model)


def _is_in_fanin(model: object) -> bool:
    return type(model).__module__.partition(".")[0] == "fanin"


def _run(cell: Cell, network: nn.Module, config: Mapping[str, Any]) -> None:
    """Take a forward and a backward pass in training, and a forward pass in evaluation."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(f"model.{TARGET}={config['model'][TARGET]}: no trainable parameters")
    dtype = torch.promote_types(cell.train.torch_dtype, torch.float32)  # all layers support it
    network.to(dtype).train()
    x = torch.rand(N_IMAGES, *cell.data.shape, dtype=dtype)
    masks = dropout_masks(network, N_IMAGES, torch.Generator(), dtype)
    logits = functional_call(network, masks, (x,))
    expected = (N_IMAGES, cell.objective.n_outputs)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"model.{TARGET}={config['model'][TARGET]}: for {N_IMAGES} images the network must "
            f"return logits of shape {expected}, got {shape}"
        )
    _run_loss(cell, logits, parameters)
    with torch.no_grad():
        network.eval()(x)
    _run_quantities(cell, network, x)


def _run_quantities(cell: Cell, network: nn.Module, x: Tensor) -> None:
    """Measure the network if the user has added quantities."""
    if not cell.probe.quantities:
        return
    cotangent = torch.ones(N_IMAGES, cell.objective.n_outputs)
    try:
        measure(network, x, cotangent, quantities=probe_quantities(cell.probe.quantities))
    except FaninError:
        raise
    except Exception as error:
        raise user_code_error("probe.quantities", error) from error


def _run_loss(cell: Cell, logits: Tensor, parameters: list[nn.Parameter]) -> None:
    n_classes = cell.objective.n_classes
    labels = torch.arange(N_IMAGES)
    y = labels.to(logits.dtype) if n_classes is None else labels % n_classes
    try:
        loss = cell.objective.loss(logits, y)
        torch.autograd.grad(loss, parameters, allow_unused=True)
    except FaninError:
        raise
    except Exception as error:
        raise user_code_error("loss", error) from error


def _warn_of_other_weights(
    network: nn.Module, layers: Mapping[str, nn.Module], config: Mapping[str, Any]
) -> None:
    """Warn once of weights that fanin neither draws nor measures."""
    drawn = {id(layer.weight) for layer in layers.values()}
    names = [n for n, p in network.named_parameters() if p.ndim > 1 and id(p) not in drawn]
    if names:
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        warnings.warn(
            f"model.{TARGET}={config['model'][TARGET]}: init, probes and theory cover linear and "
            f"convolution layers; these weights keep the model's own initialization: "
            f"{', '.join(names[:MAX_NAMES])}{more}",
            FaninWarning,
            stacklevel=2,
        )


def _check_probe(cell: Cell) -> None:
    """Raise ConfigError if `probe` names an image or step that does not exist."""
    n_train = cell.data.n_train or cell.data.source.train_size
    missing = [image for image in cell.probe.images if image >= n_train]
    if missing:
        raise ConfigError(
            f"probe.images contains index {missing[0]}; the {n_train} training images have the "
            f"indices 0 to {n_train - 1}"
        )
    total = cell.train.total_steps(n_train)
    late = [step for step in cell.probe.steps if step > total]
    if late:
        raise ConfigError(f"probe.steps contains {late[0]}, but training ends after step {total}")
