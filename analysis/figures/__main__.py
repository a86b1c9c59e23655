"""A sweep's figures as PDF, SVG and PNG: `python -m analysis.figures NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from analysis.figures import variance_by_layer
from analysis.figures.style import save, use_style
from analysis.load import load
from analysis.measured import compare
from experiments.errors import UNUSABLE, FaninError, warnings_as_lines


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figures of a sweep into its folder."""
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="the sweep's folder under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    asked = parser.parse_args(argv)
    console = Console(soft_wrap=True)
    try:
        with warnings_as_lines():
            results = load(asked.name, asked.results)
        comparisons = compare(results)
    except FaninError as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None
    use_style()
    folder = results.folder.root / "figures"
    for name, figure in variance_by_layer.figures(comparisons):
        paths = save(figure, folder, name)
        console.print(f"Figure: {paths[0].with_suffix('')}.{{pdf,svg,png}}", highlight=False)


if __name__ == "__main__":
    main()
