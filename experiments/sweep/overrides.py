"""Parsing of command-line overrides in Hydra's grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, Sweep
from hydra.errors import HydraException

from experiments.config.catalog import short
from experiments.config.instantiate import shortened
from fanin.errors import ConfigError


@dataclass(frozen=True)
class Argument:
    """One `key=values` of the command line.

    For a config group, `values` are names of options; for a key, they are plain values. There can
    be more than one if `swept`.
    """

    key: str
    values: tuple[Any, ...]
    swept: bool
    is_group: bool
    text: str


def parse_arguments(loader: ConfigLoader, texts: Sequence[str]) -> list[Argument]:
    """Parse overrides, without `hydra.*`.

    Raises
    ------
    ConfigError
        An override does not follow Hydra's grammar, or uses what cells don't support: a deleted
        key, a continuous interval, an interpolation, a duplicate key.
    """
    # `init=glob(he*)` needs the loader, to list the options.
    parser = OverridesParser.create(config_loader=loader)
    parsed = [_parse(parser, text) for text in texts]
    groups = frozenset(loader.list_groups(""))  # once, because Hydra reads the folders each time
    arguments = [
        _to_argument(loader, groups, override) for override in parsed if not _is_hydra(override)
    ]
    text_by_key: dict[str, str] = {}
    for argument in arguments:
        if argument.key in text_by_key:
            raise ConfigError(
                f"{argument.key} is given twice: {text_by_key[argument.key]} and {argument.text}; "
                "remove one"
            )
        text_by_key[argument.key] = argument.text
    return arguments


def _parse(parser: OverridesParser, text: str) -> Override:
    try:
        return parser.parse_overrides([text])[0]
    except (HydraException, ValueError) as error:
        reason = shortened(short(str(error)).partition("\n")[0])
        raise ConfigError(
            f"{shortened(repr(text))}: invalid override ({reason}); write key=value and quote "
            "special characters: https://hydra.cc/docs/1.3/advanced/override_grammar/basic"
        ) from error


def _is_hydra(override: Override) -> bool:
    swept = override.is_hydra_override() and override.is_sweep_override()
    if swept:
        raise ConfigError(f"{override.input_line}: Hydra's own settings can't be swept")
    return bool(override.is_hydra_override())


def _to_argument(loader: ConfigLoader, groups: frozenset[str], override: Override) -> Argument:
    key, text = override.key_or_group, str(override.input_line)
    is_group = key in groups
    if override.is_delete():
        options = f"; options: {', '.join(loader.get_group_options(key))}" if is_group else ""
        raise ConfigError(f"{text}: keys of a cell can't be deleted; set {key}=VALUE{options}")
    if not key:
        raise ConfigError(f"{text}: no key before the =")
    if "/" in key:
        raise ConfigError(
            f"{text}: no such group; keys are written with dots: {key.replace('/', '.')}"
        )
    if override.package is not None:
        raise ConfigError(f"{text}: packages (group@package) are not supported; remove @...")
    if override.is_add() and is_group:
        raise ConfigError(f"{text}: {key} exists already; remove the +")
    if override.is_interval_sweep():
        raise ConfigError(
            f"{text}: interval() is not supported in a grid; list the values or use range()"
        )
    swept = override.is_sweep_override()
    values = _swept_values(override) if swept else (_to_python(override.value()),)
    if not values:
        raise ConfigError(f"{text}: no value matches")
    if "${" in str(values):
        raise ConfigError(f"{text}: interpolation is not supported here; write the value")
    if is_group:
        values = tuple(_check_option(value, key, text) for value in values)
    return Argument(key, values, swept, is_group, text)


def _swept_values(override: Override) -> tuple[Any, ...]:
    value = override.value()
    inner = getattr(value, "list", None) or []
    if any(isinstance(item, Sweep | Glob) for item in inner):
        raise ConfigError(
            f"{override.input_line}: range() and glob() can't be combined with commas; "
            "write one range, or list the values"
        )
    return tuple(_to_python(item) for item in override.sweep_iterator())


def _check_option(value: Any, key: str, text: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"{text}: {key} is a config group; give one option, or with -m several, comma-separated"
        )
    return value


def _to_python(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_to_python(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _to_python(item) for key, item in value.items()}
    return value
