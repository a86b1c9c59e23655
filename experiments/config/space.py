"""Everything that can be configured: the default cell, and each option of each group.

Hydra composes each option once, however many cells use it. A cell is then a plain mapping put
together from those nodes: sound because no YAML under `conf/` looks into another group (a test
keeps it so), and a thousand times faster than composing every cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.errors import ConfigError, nearest

# Mappings that name layers: any key may be added to them.
OPEN_MAPPINGS = ("init.layers", "clip.factors")


class Space:
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
        self.base: dict[str, Any] = _plain(composed)
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
        if option == self.defaults[group]:
            return self.base[group]
        if (group, option) not in self._nodes:
            options = self.options(group)
            if option not in options:
                raise ConfigError(f"{group}={option}: no such option; {nearest(option, options)}")
            self._nodes[group, option] = _plain(self._compose(f"{group}={option}"))[group]
        return self._nodes[group, option]

    def check_key(self, key: str, choices: Mapping[str, str | None]) -> None:
        """Say what is wrong with a dotted key under these choices of options, if anything is."""
        group, _, rest = key.partition(".")
        if group not in self.base:
            raise ConfigError(f"{key}: no such key; {nearest(group, self.base)}")
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
                f"{group}={option} has: {', '.join(_keys(node))}"
            )
        chosen = f"{group}={option}" if option is not None else group
        near = nearest(rest, _keys(node))
        raise ConfigError(f"{key}: {chosen} has no such key; {near}")

    @staticmethod
    def is_open(key: str) -> bool:
        """Whether a key lies in a mapping that takes any name (of a layer)."""
        return key.startswith(tuple(f"{mapping}." for mapping in OPEN_MAPPINGS))

    def _compose(self, *overrides: str) -> DictConfig:
        with _as_config_error():
            return self._loader.load_configuration(
                self._config_name, [*self._hydra_overrides, *overrides], RunMode.RUN
            )


def has_key(node: Any, dotted: str) -> bool:
    """Whether nested mappings hold a dotted key."""
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def assign(node: Any, dotted: str, value: Any) -> Any:
    """A copy of nested mappings with one dotted key set.

    >>> assign({"a": {"b": 1}, "c": 2}, "a.b", 3)
    {'a': {'b': 3}, 'c': 2}
    """
    if not dotted:
        return value
    first, _, rest = dotted.partition(".")
    inner = node.get(first, {}) if isinstance(node, Mapping) else {}
    return {**(node if isinstance(node, Mapping) else {}), first: assign(inner, rest, value)}


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    found = []
    for key, value in node.items():
        if not str(key).startswith("_"):
            found += _keys(value, f"{prefix}{key}.") or [f"{prefix}{key}"]
    return found


def _plain(composed: DictConfig) -> dict[str, Any]:
    made = {
        str(key): OmegaConf.to_container(composed[key], resolve=True)
        if OmegaConf.is_config(composed[key])
        else composed[key]
        for key in composed
        if key != "hydra"
    }
    return made


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except HydraException as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ConfigError(f"{error}{cause}") from error
