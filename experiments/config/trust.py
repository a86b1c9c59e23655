"""Targets of configs that this process must not import, because another person wrote the config."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from experiments.config.groups import CONF
from fanin.errors import ConfigError

TARGET = "_target_"
OWN_PACKAGES = ("fanin", "experiments")
SCALARS = (str, int, float, type(None))
_blocked: set[str] = set()


class UntrustedTarget(ConfigError):
    """A `_target_` of a config that another person wrote."""


def block_targets(targets: Iterable[str]) -> None:
    """Refuse to import these targets in this process."""
    _blocked.update(targets)


def allow_targets(targets: Iterable[str]) -> None:
    """Import these targets again."""
    _blocked.difference_update(targets)


def check_target(name: str, key_path: str) -> None:
    """Raise UntrustedTarget if a target is blocked."""
    if name in _blocked:
        raise UntrustedTarget(
            f"{key_path}.{TARGET}={name} is not imported: the sweep was not run from this clone"
        )


def blocked_target(config: Mapping[str, Any]) -> str | None:
    """Return a blocked target of a config; None if there is none."""
    return next((target for target in _targets(config) if target in _blocked), None)


def foreign_targets(configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the targets of configs that are neither classes of this repository nor its options."""
    targets = {target for config in configs for target in _targets(config)}
    return {target for target in targets if not _is_own(target)}


def _targets(config: Mapping[str, Any]) -> Iterator[str]:
    nodes: list[Any] = [config]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Mapping):
            if TARGET in node:
                yield str(node[TARGET])
            node = node.values()
        elif not isinstance(node, list):
            continue
        nodes += [value for value in node if not isinstance(value, SCALARS)][::-1]


@cache
def _is_own(target: str) -> bool:
    """Return True for the targets in `conf/`, and for classes defined in `fanin`, `experiments`.

    Functions of these packages are excluded: one that writes a file would do so with arguments
    that another person chose.
    """
    if target in _options():
        return True
    module_name, _, attribute = target.rpartition(".")
    if module_name.partition(".")[0] not in OWN_PACKAGES:
        return False
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__.partition(".")[0] in OWN_PACKAGES


@cache
def _options() -> frozenset[str]:
    texts = (path.read_text() for path in CONF.rglob("*.yaml"))
    return frozenset(t for text in texts for t in re.findall(rf"\b{TARGET}: *([\w.]+)", text))
