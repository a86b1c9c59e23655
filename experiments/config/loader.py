"""Hydra's config loader for `conf/`, without running a Hydra application.

The one place that uses Hydra's internals, which pyproject.toml therefore holds below 1.4.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery

from fanin.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"


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
