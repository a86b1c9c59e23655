"""Everything that can be configured: the default cell, and each option of each group.

Hydra composes each option once, however many cells use it. A cell is then a plain mapping put
together from those nodes: sound because no YAML under `conf/` looks into another group (a test
keeps it so), and a thousand times faster than composing every cell.

The one module that uses Hydra's internals, which pyproject.toml therefore holds below 1.4.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.config.groups import CONF
from experiments.config.identity import flatten
from fanin.errors import ConfigError, suggest

# Mappings without fixed keys: they name layers, or stand where a number or null may stand too.
OPEN_MAPPINGS = ("init.layers", "init.bias", "clip.factors")
# An interpolation, but for environment variables, which mean the same wherever they stand.
FOREIGN = re.compile(r"\$\{(?!oc\.env:)")


class ConfigCatalog:
    """The options under `conf/` (and whatever `--config-dir` adds), composed as they are needed.

    Parameters
    ----------
    loader
        Hydra's config loader.
    config_name
        The primary config.
    hydra_overrides
        `hydra.*` overrides from the command line (`hydra.searchpath` matters here).
    """

    def __init__(
        self, loader: ConfigLoader, config_name: str, hydra_overrides: tuple[str, ...] = ()
    ) -> None:
        self._loader = loader
        self._config_name = config_name
        self._hydra_overrides = hydra_overrides
        self._nodes: dict[tuple[str, str], Any] = {}
        composed = self._compose()
        self.base: dict[str, Any] = _plain(composed, config_name)
        self.defaults: dict[str, str | None] = {
            group: option
            for group, option in composed.hydra.runtime.choices.items()
            if not group.startswith("hydra/")
        }

    def options(self, group: str) -> list[str]:
        """The options of a group, by name."""
        return list(self._loader.get_group_options(group))

    def node(self, group: str, option: str) -> Any:
        """One option's mapping, composed by Hydra once. Not to be changed in place."""
        if group not in self.defaults:
            raise ConfigError(f"{group}: no such group; {suggest(group, self.defaults)}")
        if option == self.defaults[group]:
            return self.base[group]
        if (group, option) not in self._nodes:
            options = self.options(group)
            if option not in options:
                raise ConfigError(f"{group}={option}: no such option; {suggest(option, options)}")
            self._nodes[group, option] = self._alone(group, option)
        return self._nodes[group, option]

    def _alone(self, group: str, option: str) -> Any:
        """An option's mapping, once it is certain that composing it touches nothing else."""
        # In quotes: a file's name may hold what Hydra's grammar can't read as it stands.
        quoted = option.replace("'", "\\'")
        composed = _plain(self._compose(f"{group}='{quoted}'"), f"{group}={option}")
        touched = [k for k in composed if k != group and composed[k] != self.base.get(k)]
        if touched:
            raise ConfigError(
                f"{group}={option}: its YAML sets {', '.join(touched)} too; an option sets keys of "
                "its own group only (no @package, no override of another group)"
            )
        return composed[group]

    def check_key(self, key: str, choices: Mapping[str, str | None]) -> None:
        """Say what is wrong with a dotted key under these choices of options, if anything is."""
        group, _, rest = key.partition(".")
        if group not in self.base:
            raise ConfigError(f"{key}: no such key; {suggest(group, self.base)}")
        option = choices.get(group)
        node = self.base[group] if option is None else self.node(group, option)
        if not rest or has_key(node, rest) or self.is_open(key):
            return
        others = [
            other
            for other in (self.options(group) if option is not None else [])
            if other != option and has_key(self.node(group, other), rest)
        ]
        if others:
            raise ConfigError(
                f"{key}: {group}={option} has no such key, {group}={' or '.join(others)} has; "
                f"{group}={option} has: {', '.join(_keys(node)) or 'none'}"
            )
        chosen = f"{group}={option}" if option is not None else group
        near = suggest(rest, _keys(node))
        raise ConfigError(f"{key}: {chosen} has no such key; {near}")

    @staticmethod
    def is_open(key: str) -> bool:
        """Return True if a key lies in a mapping that takes any key."""
        return key.startswith(tuple(f"{mapping}." for mapping in OPEN_MAPPINGS))

    def _compose(self, *overrides: str) -> DictConfig:
        with _as_config_error():
            return self._loader.load_configuration(
                self._config_name, [*self._hydra_overrides, *overrides], RunMode.RUN
            )


def hydra_arguments() -> Namespace:
    """The process's command line as Hydra parses it: flags, and overrides as text."""
    arguments: Namespace = get_args_parser().parse_args()
    return arguments


def config_loader(config_dir: str | None = None) -> ConfigLoader:
    """Make a loader for `conf/`.

    Parameters
    ----------
    config_dir
        A folder with more options of the same groups (`--config-dir`).
    """
    path = create_config_search_path(f"file://{CONF}")
    if config_dir is not None:
        folder = Path(config_dir).resolve()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: no such folder")
        anchor = SearchPathQuery(provider="schema")
        path.prepend(provider="command-line", path=f"file://{folder}", anchor=anchor)
    return ConfigLoaderImpl(config_search_path=path)


def has_key(node: Any, dotted: str) -> bool:
    """Return True if nested mappings hold a dotted key."""
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def value_at(node: Any, dotted: str) -> Any:
    """Return the value under a dotted key of nested mappings; None if there is no such key.

    >>> value_at({"a": {"b": 1}}, "a.b")
    1
    """
    for part in dotted.split(".") if dotted else ():
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def assign(node: Any, dotted: str, value: Any) -> Any:
    """A copy of nested mappings with one dotted key set.

    A mapping is merged into the mapping that is there, as Hydra does it.

    >>> assign({"a": {"b": 1}, "c": 2}, "a.b", 3)
    {'a': {'b': 3}, 'c': 2}
    >>> assign({"a": {"b": 1}}, "a", {"c": 2})
    {'a': {'b': 1, 'c': 2}}
    """
    if not dotted:
        if not (isinstance(node, Mapping) and isinstance(value, Mapping)):
            return value
        return {**node, **{key: assign(node.get(key), "", inner) for key, inner in value.items()}}
    first, _, rest = dotted.partition(".")
    inner = node.get(first) if isinstance(node, Mapping) else None
    return {**(node if isinstance(node, Mapping) else {}), first: assign(inner, rest, value)}


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    found = []
    for key, value in node.items():
        if not str(key).startswith("_"):
            found += _keys(value, f"{prefix}{key}.") or [f"{prefix}{key}"]
    return found


def _plain(composed: DictConfig, what: str) -> dict[str, Any]:
    kept = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    raw: Any = OmegaConf.to_container(kept)
    for key, value in flatten(raw):
        if FOREIGN.search(str(value)):
            raise ConfigError(
                f"{what}: {key}: {value} looks at another key; a cell is put together from options "
                "that stand alone, so write the value"
            )
    with _as_config_error():
        made: Any = OmegaConf.to_container(kept, resolve=True)
    return {str(key): value for key, value in made.items()}


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ConfigError(short(f"{error}{cause}")) from error


def short(text: str) -> str:
    """Shorten a message of Hydra's to at most four lines, without its search path."""
    lines = [line.strip() for line in text.partition("Config search path")[0].splitlines()]
    return "\n  ".join([line for line in lines if line][:4])
