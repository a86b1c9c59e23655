"""Write a study's figures and table into its page in docs/questions/.

python -m analysis.studies.questions inf_loss --write docs/questions/inf_loss.md
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.cli import add_sweep_arguments
from analysis.figures.study import Study
from analysis.figures.style import use_style
from analysis.load import Results, load
from analysis.scoring.inputs import inputs_digest
from analysis.studies.blocks import publish
from analysis.studies.tables import (
    claims_table,
    count_holding,
    provenance_line,
    require_complete,
    require_study,
)
from experiments.console import exit_on_error

DPI = 150


def markdown(results: Results, study: Study, figures: str, claims: str) -> str:
    """Format a study as Markdown: figures, caption, number of claims that hold, provenance.

    Parameters
    ----------
    figures, claims
        Folder of the PNG files and page of the claims, relative to the study's page.
    """
    total = len(study.figures)
    images = [
        f"![{_alt_text(study, n, total)}]({figures}/{name}.png)"
        for n, name in enumerate(study.figures, start=1)
    ]
    link = f"[table of claims]({claims}#{results.name})"
    return "\n\n".join(
        [
            *images,
            f"*{study.caption}*",
            f"{count_holding(study)} tested claims hold; the {link} has every number.",
            provenance_line(results),
        ]
    )


def _alt_text(study: Study, number: int, total: int) -> str:
    """Return the claim for the first figure; for the others, a reference to the caption."""
    return study.claim if number == 1 else f"Figure {number} of {total}; see the caption."


def claims_markdown(results: Results, study: Study) -> str:
    """Format a study's table of claims and its provenance as Markdown."""
    return "\n\n".join([claims_table(study), provenance_line(results)])


def main(argv: Sequence[str] | None = None) -> None:
    """Write or print one sweep's study."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.questions", description=__doc__.splitlines()[0]
    )
    add_sweep_arguments(parser)
    parser.add_argument(
        "--write",
        metavar="PAGE",
        type=Path,
        help="write the study into this page, between its marker lines, and save the figures "
        "(default: print the study)",
    )
    parser.add_argument(
        "--figures",
        metavar="DIR",
        type=Path,
        default=Path("docs/figures"),
        help="folder in which --write saves the figures (default: docs/figures)",
    )
    parser.add_argument(
        "--claims",
        metavar="PAGE",
        type=Path,
        default=Path("docs/appendix/claims.md"),
        help="page for the table of claims, with marker lines (default: docs/appendix/claims.md)",
    )
    args = parser.parse_args(argv)
    use_style()
    with exit_on_error(OSError):
        results = load(args.name, args.results, all=args.all)
        if args.write:
            require_complete(results)
        study = require_study(results)
        page_folder = args.write.parent if args.write else Path()
        links = (os.path.relpath(path, page_folder) for path in (args.figures, args.claims))
        inputs = inputs_digest(args.name) if args.write else ""
        publish(markdown(results, study, *links), args.write, args.name, inputs)
        publish(claims_markdown(results, study), args.write and args.claims, args.name, inputs)
        if args.write:
            _save_figures(study.figures, args.figures)


def _save_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight")


if __name__ == "__main__":
    main()
