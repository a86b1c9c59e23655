"""Output of `fanin figures`: the files, and which published claims hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.figures import variance_by_layer
from analysis.figures.study import Study, read_planned_cells, study_factory
from analysis.figures.style import save, use_style
from analysis.load import Results
from analysis.theory_comparison import compare_to_theory


def draw_figures(results: Results, console: Console) -> None:
    """Draw a sweep's figures into its folder and print which published claims hold."""
    use_style()
    if warning := read_planned_cells(results).warning:
        console.print(f"Warning: {warning}")
    compute_study = study_factory(results)
    study = None if compute_study is None else compute_study()
    for name, figure in _figures(results, study):
        paths = save(figure, results.folder.root / "figures", name)
        console.print(f"Figure: {paths[0].with_suffix('')}.{{pdf,svg,png}}")
    if study is not None:
        console.print(f"Caption: {_write_caption(study, results)}")
        console.print(_claims_table(study))
        separator = ". Claim" if study.differs else ""
        console.print(f"{study.statement}{separator}: {study.claim}")


def _figures(results: Results, study: Study | None) -> Iterator[tuple[str, Figure]]:
    if study is not None:
        yield from study.figures.items()
    else:
        yield from variance_by_layer.figures(compare_to_theory(results))


def _write_caption(study: Study, results: Results) -> Path:
    path = results.folder.root / "figures" / f"{results.name}.txt"
    path.write_text(f"{study.caption}\n", encoding="utf-8")
    return path


def _claims_table(study: Study) -> Table:
    table = Table("quantity", "claimed", "threshold", "measured", "verdict", box=box.SIMPLE_HEAD)
    for result in study.claim_results:
        table.add_row(
            *(result.description, result.claimed, result.threshold, result.measured, result.verdict)
        )
    return table
