"""What came of a question's sweep, for its page in docs/questions/: numbers and figures.

python -m analysis.studies.questions inf_loss --write docs/questions/inf_loss.md
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.cli import add_sweep
from analysis.figures.study import Study
from analysis.figures.style import use_style
from analysis.load import Results, load
from analysis.studies.tables import headline_table, how_made, publish, study_or_error
from experiments.console import exit_on_error

DPI = 150


def markdown(results: Results, study: Study, figures: str) -> str:
    """Figures, their caption, numbers, and how they were made.

    Parameters
    ----------
    figures
        Where a page that holds this finds the pictures.
    """
    pictures = [f"![{study.claim}]({figures}/{name}.png)" for name in study.figures]
    return "\n\n".join(
        [
            *pictures,
            f"*{study.caption}*",
            headline_table(study),
            how_made(results),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write or print what came of one sweep."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.questions", description=__doc__.splitlines()[0]
    )
    add_sweep(parser)
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put it there, pictures beside")
    parser.add_argument(
        "--figures",
        metavar="DIR",
        type=Path,
        default=Path("docs/figures"),
        help="where --write puts the pictures (default: docs/figures)",
    )
    asked = parser.parse_args(argv)
    use_style()
    with exit_on_error(OSError):
        results = load(asked.name, asked.results)
        study = study_or_error(results)
        beside = asked.write.parent if asked.write else Path()
        text = markdown(results, study, os.path.relpath(asked.figures, beside))
        publish(text, asked.write, asked.name)
        if asked.write:
            _draw(study.figures, asked.figures)


def _draw(figures: Mapping[str, Figure], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight")


if __name__ == "__main__":
    main()
