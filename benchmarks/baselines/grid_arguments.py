"""Command line of the baselines without Hydra: the grid and the sizes of its networks."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the grid and the sizes."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--root", type=Path, required=True)
    arguments.add_argument("--inits", nargs="+", required=True)
    arguments.add_argument("--lrs", nargs="+", type=float, required=True)
    arguments.add_argument("--seeds", type=int, required=True)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--n-train", type=int, default=6400)
    arguments.add_argument("--n-test", type=int, default=1000)
    arguments.add_argument("--batch-size", type=int, default=128)
    arguments.add_argument("--channels", type=int, default=32)
    return arguments


def cells(args: argparse.Namespace) -> Iterator[tuple[str, float, int]]:
    """Return init, learning rate and seed of each cell."""
    return itertools.product(args.inits, args.lrs, range(args.seeds))
