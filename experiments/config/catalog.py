"""Catalog of the configuration: the default cell and all options of all groups.

Hydra composes each option once. A cell's config is then assembled from these plain mappings, which
is a thousand times faster than composing each cell with Hydra. The result is the same, because no
option's YAML file refers to another group (`tests/experiments/config/test_conf_options.py` checks
that).

This is the only module that uses Hydra's internals; pyproject.toml therefore requires hydra < 1.4.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ConfigDefault
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.config.groups import CONF
from experiments.config.identity import flatten
from fanin.errors import ConfigError, suggest

# Mappings without fixed keys: their keys are layer names, or the value need not be a mapping.
OPEN_MAPPINGS = ("init.layers", "init.bias", "clip.factors")
# An OmegaConf interpolation (`${...}`) of anything but an environment variable.
KEY_INTERPOLATION = re.compile(r"\$\{(?!oc\.env:)")


class ConfigCatalog:
    """The options under `conf/` and `--config-dir`, composed when they are first used.

    Parameters
    ----------
    loader
        Hydra's config loader.
    config_name
        The primary config.
    hydra_overrides
        `hydra.*` overrides from the command line (`hydra.searchpath` adds options).
    """

    def __init__(
        self, loader: ConfigLoader, config_name: str, hydra_overrides: tuple[str, ...] = ()
    ) -> None:
        self._loader = loader
        self._config_name = config_name
        self._hydra_overrides = hydra_overrides
        self._nodes: dict[tuple[str, str], Any] = {}
        self._common: dict[str, Any] | None = None
        composed = self._compose()
        self.base: dict[str, Any] = _plain(composed, config_name)
        self.defaults: dict[str, str | None] = {
            group: option
            for group, option in composed.hydra.runtime.choices.items()
            if not group.startswith("hydra/")
        }

    def digest(self) -> str | None:
        """Return a digest of all options.

        Return None if the options depend on more than their files: on `hydra.*` overrides (such
        as `hydra.searchpath`) or on environment variables.
        """
        if self._hydra_overrides:
            return None
        digest = hashlib.sha256(self._config_name.encode())
        for element in self._loader.get_search_path().get_path():
            folder = Path((element.path or "").removeprefix("file://"))
            for path in sorted(folder.rglob("*.yaml")) if folder.is_absolute() else ():
                content = path.read_bytes()
                if b"oc.env" in content:
                    return None
                digest.update(f"\n{path}\n".encode() + content)
        return digest.hexdigest()

    def options(self, group: str) -> list[str]:
        """Return the names of a group's options."""
        return list(self._loader.get_group_options(group))

    def node(self, group: str, option: str) -> Any:
        """Return an option's mapping, composed by Hydra once. Don't modify it in place."""
        if group not in self.defaults:
            raise ConfigError(f"{group}: no such group; {suggest(group, self.defaults)}")
        if option == self.defaults[group]:
            return self.base[group]
        if (group, option) not in self._nodes:
            options = self.options(group)
            if option not in options:
                raise ConfigError(f"{group}={option}: no such option; {suggest(option, options)}")
            read = self._read_option(group, option)
            self._nodes[group, option] = (
                self._compose_option(group, option) if read is None else read
            )
        return self._nodes[group, option]

    def _read_option(self, group: str, option: str) -> dict[str, Any] | None:
        """Return an option's mapping from its own file and the keys common to the group.

        This takes 2 ms; composing it with Hydra takes 75 ms. Return None if only Hydra knows the
        result: the file has a defaults list or a package, or sets one of the common keys.
        """
        if self._hydra_overrides or not isinstance(self._loader, ConfigLoaderImpl):
            return None  # `hydra.searchpath` may add files
        repository: Any = self._loader.repository
        try:
            if self._common is None:
                self._common = _own_keys(repository, self._config_name)
            loaded = repository.load_config(f"{group}/{option}")
            if loaded is None:
                return None
            node: Any = OmegaConf.to_container(loaded.config)
            has_defaults = loaded.defaults_list or any(loaded.header.values())
        except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError):
            # Hydra composes the option, and describes the error.
            return None
        common = self._common.get(group, {})
        if has_defaults or not isinstance(node, dict) or not common.keys().isdisjoint(node):
            return None
        composed = OmegaConf.create({group: {**common, **node}})
        read: dict[str, Any] = _plain(composed, f"{group}={option}")[group]
        return read

    def _compose_option(self, group: str, option: str) -> Any:
        """Compose an option; raise ConfigError if it changes anything outside its group."""
        # Quoted, because a file name may contain characters that Hydra's grammar does not allow.
        quoted = option.replace("'", "\\'")
        composed = _plain(self._compose(f"{group}='{quoted}'"), f"{group}={option}")
        changed = [k for k in composed if k != group and composed[k] != self.base.get(k)]
        if changed:
            raise ConfigError(
                f"{group}={option}: its YAML also sets {', '.join(changed)}; an option may only "
                "set keys of its own group (no @package, no override of another group)"
            )
        return composed[group]

    def check_key(self, key: str, choices: Mapping[str, str | None]) -> None:
        """Raise ConfigError if a dotted key does not exist in the option chosen for its group."""
        group, _, rest = key.partition(".")
        if group not in self.base:
            raise ConfigError(f"{key}: no such key; {self._suggest_key(key)}")
        option = choices.get(group)
        node = self.base[group] if option is None else self.node(group, option)
        if not rest or has_key(node, rest) or self.is_open(key):
            return
        options_with_key = [
            name
            for name in (self.options(group) if option is not None else [])
            if name != option and has_key(self.node(group, name), rest)
        ]
        if options_with_key:
            names = ", ".join(options_with_key)
            raise ConfigError(
                f"{key}: {group}={option} has no such key; options with this key: {names}; "
                f"keys of {group}={option}: {', '.join(_keys(node)) or 'none'}"
            )
        chosen = f"{group}={option}" if option is not None else group
        suggestion = suggest(rest, _keys(node))
        raise ConfigError(f"{key}: {chosen} has no such key; {suggestion}")

    def _suggest_key(self, key: str) -> str:
        """Return a hint for a key outside all groups: `optim.lr` for `lr`."""
        name = key.rpartition(".")[2]
        dotted = [known for known in _keys(self.base) if known.endswith(f".{name}")]
        if dotted:
            return f"did you mean {' or '.join(dotted)}?"
        return suggest(key.partition(".")[0], self.base)

    @staticmethod
    def is_open(key: str) -> bool:
        """Return True if a key belongs to a mapping without fixed keys."""
        return key.startswith(tuple(f"{mapping}." for mapping in OPEN_MAPPINGS))

    def _compose(self, *overrides: str) -> DictConfig:
        with _as_config_error():
            return self._loader.load_configuration(
                self._config_name, [*self._hydra_overrides, *overrides], RunMode.RUN
            )


def _own_keys(repository: Any, name: Any) -> dict[str, Any]:
    """Return the keys that a primary config sets itself, not by the options of its groups."""
    loaded = repository.load_config(name)
    own = loaded.config
    for default in loaded.defaults_list:
        if isinstance(default, ConfigDefault) and not default.is_self():
            own = OmegaConf.merge(_own_keys(repository, default.path), own)
    plain: Any = OmegaConf.to_container(own)
    return dict(plain)


def hydra_arguments() -> Namespace:
    """Parse the process's command line with Hydra's parser: flags, and overrides as text.

    Raises
    ------
    ConfigError
        A flag does not exist or follows an override.
    """
    parser = get_args_parser()
    arguments: Namespace
    arguments, unknown = parser.parse_known_args()
    if flags := [text for text in unknown if text.startswith("-")]:
        key = flags[0].lstrip("-")
        hint = f"; write keys without dashes: {key}" if "=" in key else ""
        raise ConfigError(f"{flags[0]}: no such flag{hint}; --help lists all flags and keys")
    if unknown:
        overrides = [*arguments.overrides, *unknown]
        flags = [text for text in sys.argv[1:] if text not in overrides]
        raise ConfigError(
            f"options must come before all key=value arguments: {shlex.join([*flags, *overrides])}"
        )
    return arguments


def config_loader(config_dir: str | None = None) -> ConfigLoader:
    """Return a config loader for `conf/`.

    Parameters
    ----------
    config_dir
        Folder with additional options of the same groups (`--config-dir`).
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
    """Return True if nested mappings contain a dotted key."""
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def value_at(node: Any, dotted: str) -> Any:
    """Return the value of a dotted key in nested mappings; None if there is no such key.

    >>> value_at({"a": {"b": 1}}, "a.b")
    1
    """
    for part in dotted.split(".") if dotted else ():
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def assign(node: Any, dotted: str, value: Any) -> Any:
    """Return a copy of nested mappings with one dotted key set.

    A mapping is merged into the existing mapping, as in Hydra.

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
    keys = []
    for key, value in node.items():
        if not str(key).startswith("_"):
            keys += _keys(value, f"{prefix}{key}.") or [f"{prefix}{key}"]
    return keys


def _plain(composed: DictConfig, source: str) -> dict[str, Any]:
    config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    raw: Any = OmegaConf.to_container(config)
    for key, value in flatten(raw):
        if KEY_INTERPOLATION.search(str(value)):
            raise ConfigError(
                f"{source}: {key}: {value}: interpolation of other keys is not supported here; "
                "write the value"
            )
    with _as_config_error():
        resolved: Any = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in resolved.items()}


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        prefix = "invalid YAML: " if isinstance(error, YAMLError) else ""
        raise ConfigError(short(f"{prefix}{error}{cause}")) from error


def short(text: str) -> str:
    """Shorten a message from Hydra to at most four lines, without its search path."""
    lines = [line.strip() for line in text.partition("Config search path")[0].splitlines()]
    return "\n  ".join([line for line in lines if line][:4])
