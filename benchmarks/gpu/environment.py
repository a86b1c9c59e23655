"""Device, versions, and a check that all modules of the project can be imported."""

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
    info: dict[str, Any] = {
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
        info |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "gpus": torch.cuda.device_count(),
            "nvidia_smi": _nvidia_smi(),
        }
    return info


def import_checks() -> Iterator[Check]:
    """Check that all modules of all packages of the repository can be imported."""
    for package in packages(ROOT):
        yield run_check("imports", package, package, partial(compare_imports, package))


def packages(root: Path) -> list[str]:
    """Return the top-level packages of the repository, without tests."""
    config = tomllib.loads((root / "pyproject.toml").read_text())
    return list(config["tool"]["mypy"]["packages"])


def compare_imports(package: str) -> Comparison:
    """Import all modules of a package.

    Modules that need a package of the extra `dev` in pyproject.toml are listed, but don't fail the
    check.
    """
    names = [package, *(module.name for module in _modules(package))]
    failed: list[str] = []
    not_installed: list[str] = []
    for name in names:
        try:
            with redirect_stdout(io.StringIO()):
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            messages = not_installed if missing in _dev_packages() else failed
            messages.append(f"{name} (no module {error.name})")
        except Exception as error:  # the other modules must still be imported
            failed.append(f"{name} ({type(error).__name__}: {error})")
    parts = [f"{len(names)} modules", *failed]
    if not_installed:
        parts.append(f"not imported (development only): {', '.join(not_installed)}")
    return Comparison((Difference("modules that fail", float(len(failed)), 0.0),), "; ".join(parts))


def _modules(package: str) -> Iterator[pkgutil.ModuleInfo]:
    folder = str(ROOT / package)
    return pkgutil.walk_packages([folder], prefix=f"{package}.", onerror=lambda name: None)


def _dev_packages() -> set[str]:
    """Return the import names of the packages of the extra `dev`."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = config["project"]["optional-dependencies"]["dev"]
    return {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in requirements}


def _nvidia_smi() -> str | None:
    """Return the output of nvidia-smi; None if it is not installed."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        process = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return process.stdout.strip() or process.stderr.strip()
