"""What pages say of a study: its numbers, and the commands that made them."""

from __future__ import annotations

from analysis.figures.study import Study, launched, study_of
from analysis.load import Results
from analysis.studies.tables import markdown_table
from fanin.errors import FaninError

HOLDS = {True: "yes", False: "**no**", None: ""}


def study_or_error(results: Results) -> Study:
    """A sweep's study.

    Raises
    ------
    FaninError
        The sweep has none.
    """
    make = study_of(results)
    if make is None:
        raise FaninError(f"{results.name}: this sweep makes no study (no source in its YAML)")
    return make()


def headline_table(study: Study) -> str:
    """The numbers in Markdown, beside what is claimed."""
    rows = [[h.what, h.theirs, h.ours, HOLDS[h.holds]] for h in study.headlines]
    return markdown_table(["", "claimed", "measured", "holds"], rows)


def how_made(results: Results) -> str:
    """How many cells at which commit, and what to type for them."""
    about = launched(results)
    size = "" if about.get("size", "small") == "small" else f" sweep.size={about['size']}"
    return (
        f"{_cells_by_code(results)}: "
        f"`python -m experiments.run -m sweep={about['sweep']}{size}`, then "
        f"`python -m analysis.figures {results.name}`."
    )


def _cells_by_code(results: Results) -> str:
    """How many cells each commit ran: a sweep may have been gone on with later."""
    counts = results.cells["code"].astype(str).value_counts()
    return " and ".join(f"{count} cells at commit {code}" for code, count in counts.items())
