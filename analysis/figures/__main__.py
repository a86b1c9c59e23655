"""A sweep's figures as PDF, SVG and PNG: `python -m analysis.figures NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from analysis.cli import add_sweep
from analysis.comparison import compare
from analysis.figures import variance_by_layer
from analysis.figures.study import Study, study_of
from analysis.figures.style import save, use_style
from analysis.load import Results, load
from experiments.console import BrokenPipeConsole, exit_on_error


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figures of a sweep into its folder; of a published one, say what came out."""
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description=__doc__)
    add_sweep(parser)
    asked = parser.parse_args(argv)
    console = BrokenPipeConsole(soft_wrap=True, markup=False, highlight=False)
    use_style()
    with exit_on_error(OSError):
        results = load(asked.name, asked.results)
        make = study_of(results)
        study = None if make is None else make()
        for name, figure in _figures(results, study):
            paths = save(figure, results.folder.root / "figures", name)
            console.print(f"Figure: {paths[0].with_suffix('')}.{{pdf,svg,png}}")
        if study is not None:
            console.print(f"Caption: {_write_caption(study, results)}")
    if study is not None:
        console.print(_shown(study))
        console.print(f"{study.verdict.capitalize()}: {study.claim}")


def _figures(results: Results, study: Study | None) -> Iterator[tuple[str, Figure]]:
    if study is not None:
        yield from study.figures.items()
    else:
        yield from variance_by_layer.figures(compare(results))


def _write_caption(study: Study, results: Results) -> Path:
    path = results.folder.root / "figures" / f"{results.name}.txt"
    path.write_text(f"{study.caption}\n", encoding="utf-8")
    return path


def _shown(study: Study) -> Table:
    table = Table("", "claimed", "measured", "holds", box=box.SIMPLE_HEAD)
    for line in study.headlines:
        holds = {True: "yes", False: "no", None: ""}[line.holds]
        table.add_row(line.what, line.theirs, line.ours, holds)
    return table


if __name__ == "__main__":
    main()
