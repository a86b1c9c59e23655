"""The device, the versions, and whether every module of the project can be imported there."""

from __future__ import annotations

import importlib
import io
import pkgutil
import platform
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.check import Check, Comparison, Difference, run_check
from benchmarks.machine import machine, versions
from benchmarks.measure import ROOT

QUERY = "name,driver_version,memory.total"


def environment(device: torch.device) -> dict[str, Any]:
    """Return the device, its driver, and the versions of CUDA, cuDNN, torch and Python."""
    found: dict[str, Any] = {
        "device": str(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "machine": machine(),
        "versions": versions(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpus": torch.cuda.device_count(),
            "nvidia_smi": _nvidia_smi(),
        }
    return found


def import_checks() -> Iterator[Check]:
    """Check that every module of every package of the repository can be imported."""
    for package in packages(ROOT):
        yield run_check("imports", package, package, partial(compare_imports, package))


def packages(root: Path) -> list[str]:
    """Return the top-level packages of the repository that hold program code."""
    config = tomllib.loads((root / "pyproject.toml").read_text())
    return [*config["tool"]["mypy"]["packages"], "hydra_plugins"]


def compare_imports(package: str) -> Comparison:
    """Import all modules of a package.

    A module that needs a package which only developers install (the extra `dev` of
    pyproject.toml) is listed, but does not fail the check.
    """
    names = [package, *(found.name for found in _modules(package))]
    failed: list[str] = []
    not_installed: list[str] = []
    for name in names:
        try:
            with redirect_stdout(io.StringIO()):
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            place = not_installed if missing in _development() else failed
            place.append(f"{name} (no module {error.name})")
        except Exception as error:  # whatever it is, the other modules are still to be tried
            failed.append(f"{name} ({type(error).__name__}: {error})")
    parts = [f"{len(names)} modules", *failed]
    if not_installed:
        parts.append(f"not imported, for development only: {', '.join(not_installed)}")
    return Comparison((Difference("modules that fail", float(len(failed)), 0.0),), "; ".join(parts))


def _modules(package: str) -> Iterator[pkgutil.ModuleInfo]:
    place = str(ROOT / package)
    return pkgutil.walk_packages([place], prefix=f"{package}.", onerror=lambda name: None)


def _development() -> set[str]:
    """Packages that the extra `dev` names, as they are imported."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = config["project"]["optional-dependencies"]["dev"]
    return {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in named}


def _nvidia_smi() -> str | None:
    """The driver's own words; None where there is no nvidia-smi."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.strip() or done.stderr.strip()
