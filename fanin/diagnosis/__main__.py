"""Command `fanin diagnose`: find out why a network does not train."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from fanin.diagnosis.diagnose import diagnose
from fanin.errors import FaninError, InputError, suggest
from fanin.parser import CommandParser

FOUND, INVALID = 1, 2  # exit status


def main(argv: Sequence[str] | None = None) -> int:
    """Print a diagnosis; return 1 if a problem was found and 2 if an argument is invalid."""
    options = _parser().parse_args(argv)
    try:
        model = load_model(options.model)
        diagnosis = diagnose(
            model,
            load_batch(options.batch),
            loss=_load_object(options.loss) if ":" in (options.loss or "") else options.loss,
            optimizer=_optimizer(model, options.optimizer, options.lr),
        )
    except FaninError as error:
        print(error, file=sys.stderr)
        return INVALID
    Console(highlight=False).print(diagnosis)
    return 0 if diagnosis.ok else FOUND


def load_model(text: str) -> nn.Module:
    """Return the model `MODULE:NAME`, where NAME is a module or a function that returns one."""
    value = _load_object(text)
    model = value() if callable(value) and not isinstance(value, nn.Module) else value
    if not isinstance(model, nn.Module):
        raise InputError(f"{text} is of type {type(model).__name__}, not an nn.Module")
    return model


def load_batch(path: Path) -> Any:
    """Return a batch from a file written by `torch.save`.

    Raises
    ------
    InputError
        The file does not exist, or has other contents than tensors, tuples, lists and dictionaries.
    """
    try:
        batch = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # truncated and damaged files raise errors of many types
        raise InputError(
            f"{path}: no batch of tensors ({type(error).__name__}); write it with"
            " torch.save((inputs, targets), FILE)"
        ) from None
    if not isinstance(batch, torch.Tensor | tuple | list | Mapping):
        raise InputError(f"{path} has a value of type {type(batch).__name__}; save tensors")
    return batch


def _load_object(text: str) -> Any:
    module_name, _, name = text.partition(":")
    if not name:
        raise InputError(f"{text!r}: write MODULE:NAME, for example my_module:make_model")
    module_name = module_name.removesuffix(".py").replace("/", ".")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # of a module that this one imports
        raise InputError(
            f"{module_name}: no such module in {Path.cwd()} or the search path of Python"
        ) from None
    if not hasattr(module, name):
        public = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, ModuleType)
        ]
        raise InputError(f"{module_name} has no {name}; {suggest(name, public)}")
    return getattr(module, name)


def _optimizer(model: nn.Module, name: str, rate: float | None) -> Optimizer | None:
    if rate is None:
        return None
    kinds = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if name not in kinds:
        raise InputError(f"--optimizer {name}: no such optimizer; {suggest(name, kinds)}")
    make: Callable[..., Optimizer] = kinds[name]
    return make(model.parameters(), lr=rate)


def _parser() -> CommandParser:
    parser = CommandParser(
        "diagnose",
        "Find out why a network does not train: NaN loss, huge outputs, dead ReLUs.\n"
        "The exit status is 1 if a problem is found.",
    )
    parser.add_argument(
        "model", metavar="MODULE:NAME", help="a model, or a function that returns one"
    )
    parser.add_argument(
        "--batch",
        type=Path,
        metavar="FILE",
        required=True,
        help="batch from torch.save: inputs, (inputs, targets), or a dictionary",
    )
    parser.add_argument(
        "--loss",
        metavar="LOSS",
        help="function in torch.nn.functional, or MODULE:NAME of your own"
        " (default: cross_entropy for integer targets, mse_loss for real ones)",
    )
    parser.add_argument(
        "--lr", type=float, metavar="RATE", help="learning rate to check (default: none)"
    )
    parser.add_argument(
        "--optimizer",
        default="SGD",
        metavar="NAME",
        help="class in torch.optim that is used with --lr (default: SGD)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
