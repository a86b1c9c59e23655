"""Import of the module of a `_target_`, with an error that says what is wrong with its name."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from experiments.user_code import user_code_error
from fanin.errors import ConfigError


def import_target(name: str, key: str) -> ModuleType:
    """Import a module.

    Parameters
    ----------
    name
        Dotted name of the module.
    key
        Beginning of the error message.

    Raises
    ------
    ConfigError
        There is no such module, or it raises an error.
    """
    # A file may have been created since a worker's process listed the folder.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except SyntaxError as error:  # names the file and line itself
        raise ConfigError(f"{key}: SyntaxError: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise user_code_error(key, error) from error  # an import in the module failed
        raise ConfigError(f"{key}: {error}; {_similar(error.name)}") from error
    except Exception as error:  # a user's module may raise anything
        raise user_code_error(key, error) from error


def _similar(name: str) -> str:
    """Say where modules are searched, and name the most similar ones."""
    parent, _, own = name.rpartition(".")
    if parent:
        folders = [Path(p) for p in getattr(sys.modules[parent], "__path__", ())]
        searched = f"it is not in {folders[0]}/" if folders else f"{parent} is not a package"
    else:
        folders = [Path.cwd()]
        searched = f"it is neither an installed package nor a file in {Path.cwd()}/"
    files = [path for folder in folders for path in folder.glob("*.py")]
    modules = {p.stem for p in files} | {
        path.parent.name for folder in folders for path in folder.glob("*/__init__.py")
    }
    close = get_close_matches(own, sorted(modules), n=3)
    return searched + (f"; did you mean {' or '.join(close)}?" if close else "")


def hidden_file(module: ModuleType) -> str | None:
    """Describe the current folder's file that a module of the same name hides; None if none."""
    file = Path(f"{module.__name__}.py").absolute()
    found = getattr(module, "__file__", None)
    if not file.exists() or (found is not None and Path(found).absolute() == file):
        return None
    return f"{found or 'a built-in module'} hides {file}"
