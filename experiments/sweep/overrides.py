"""Command-line overrides, in Hydra's grammar, as axes."""

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

    `values` holds option names for a group, plain values else; more than one where it is swept.
    """

    key: str
    values: tuple[Any, ...]
    swept: bool
    is_group: bool
    text: str


def parse_arguments(loader: ConfigLoader, texts: Sequence[str]) -> list[Argument]:
    """Parse overrides, leaving out `hydra.*`.

    Raises
    ------
    ConfigError
        Hydra's grammar can't read one, or it asks for something that a cell can't have: a deleted
        key, a continuous interval, an interpolation, a key given twice.
    """
    # The loader is what lets `init=glob(he*)` see the options.
    parser = OverridesParser.create(config_loader=loader)
    parsed = [_parsed(parser, text) for text in texts]
    groups = frozenset(loader.list_groups(""))  # once: Hydra reads the folders each time
    arguments = [
        _argument(loader, groups, override) for override in parsed if not _is_hydra(override)
    ]
    seen: dict[str, str] = {}
    for argument in arguments:
        if argument.key in seen:
            raise ConfigError(
                f"{argument.key} is given twice: {seen[argument.key]} and {argument.text}"
            )
        seen[argument.key] = argument.text
    return arguments


def _parsed(parser: OverridesParser, text: str) -> Override:
    try:
        return parser.parse_overrides([text])[0]
    except (HydraException, ValueError) as error:
        reason = shortened(short(str(error)).partition("\n")[0])
        raise ConfigError(
            f"{shortened(repr(text))} can't be read as key=value ({reason}); put odd characters "
            "in quotes: hydra.cc/docs/1.3/advanced/override_grammar/basic"
        ) from error


def _is_hydra(override: Override) -> bool:
    swept = override.is_hydra_override() and override.is_sweep_override()
    if swept:
        raise ConfigError(f"{override.input_line}: Hydra's own settings can't be swept")
    return bool(override.is_hydra_override())


def _argument(loader: ConfigLoader, groups: frozenset[str], override: Override) -> Argument:
    key, text = override.key_or_group, str(override.input_line)
    is_group = key in groups
    if override.is_delete():
        options = f", one of: {', '.join(loader.get_group_options(key))}" if is_group else ""
        raise ConfigError(
            f"{text}: nothing can be deleted from a cell; give a value, {key}=...{options}"
        )
    if not key:
        raise ConfigError(f"{text}: there is no key before the =")
    if "/" in key:
        raise ConfigError(f"{text}: no such group; a key is written {key.replace('/', '.')}")
    if override.package is not None:
        raise ConfigError(f"{text}: packages (group@package) have no meaning here")
    if override.is_add() and is_group:
        raise ConfigError(f"{text}: {key} is already there; leave out the +")
    if override.is_interval_sweep():
        raise ConfigError(f"{text}: an interval has no end of values; list some, or use range()")
    swept = override.is_sweep_override()
    values = _swept_values(override) if swept else (_plain(override.value()),)
    if not values:
        raise ConfigError(f"{text}: no value matches")
    if "${" in str(values):
        raise ConfigError(f"{text}: an interpolation has no meaning here; write the value")
    if is_group:
        values = tuple(_option(value, key, text) for value in values)
    return Argument(key, values, swept, is_group, text)


def _swept_values(override: Override) -> tuple[Any, ...]:
    value = override.value()
    inner = getattr(value, "list", None) or []
    if any(isinstance(item, Sweep | Glob) for item in inner):
        raise ConfigError(
            f"{override.input_line}: ranges can't be chained with commas; "
            "write one range, or list the values"
        )
    return tuple(_plain(item) for item in override.sweep_iterator())


def _option(value: Any, key: str, text: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"{text}: {key} is a group: choose one option, or with -m several, separated by commas"
        )
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
