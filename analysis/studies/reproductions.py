"""Studies of sweeps, gathered: verdicts and numbers of all that were run, docs/reproductions.md.

python -m analysis.studies.reproductions glorot2010 hanin2018 --write docs/reproductions.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.study import FIELD_REPORT, Study, launched
from analysis.load import Results, load
from analysis.studies.tables import (
    headline_table,
    how_made,
    markdown_table,
    publish,
    read_block,
    study_or_error,
)
from experiments.console import exit_on_error

NAME = "reproductions"
HEADER = ["sweep", "source", "verdict", "lines that hold"]


def markdown(done: Sequence[tuple[Results, Study]], there: str = "") -> str:
    """An overview, then of each publication its claim, its numbers beside ours, and n.

    Field reports have pages of their own and stand in the overview alone.

    Parameters
    ----------
    there
        What such a page says already: of sweeps that `done` lacks it is kept.
    """
    rows, sections = _parsed(there)
    for results, study in done:
        rows[results.name] = [
            _linked(results), _source(results), study.verdict, _share_that_holds(study)
        ]  # fmt: skip
        if _source(results) != FIELD_REPORT:
            sections[results.name] = _section(results, study)
    names = sorted(rows, key=lambda name: (name not in sections, _year(name), name))
    overview = markdown_table(HEADER, [rows[name] for name in names])
    return "\n\n".join([overview, *(sections[name] for name in names if name in sections)])


def _parsed(text: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The rows of an overview and the sections below it, by sweep.

    >>> _parsed("| sweep | s |\\n| --- | --- |\\n| [a](#a) | b |\\n\\n### a\\n\\nText.")
    ({'a': ['[a](#a)', 'b']}, {'a': '### a\\n\\nText.'})
    """
    overview, *below = re.split(r"^(?=### )", text, flags=re.M)
    rows = {}
    for line in overview.splitlines():
        if named := re.match(r"\| \[(\w+)\]\(", line):
            rows[named[1]] = [part.strip() for part in line.strip("| ").split(" | ")]
    return rows, {part.split()[1]: part.strip() for part in below}


def _section(results: Results, study: Study) -> str:
    parts = [
        f"### {results.name}",
        f"{_source(results)}. Claim: {study.claim} **{study.verdict.capitalize()}.**",
        headline_table(study),
        f"{study.caption} {how_made(results)}",
    ]
    return "\n\n".join(parts)


def _year(name: str) -> int:
    year = re.search(r"\d{4}$", name)
    return int(year[0]) if year else 0


def _linked(results: Results) -> str:
    is_report = _source(results) == FIELD_REPORT
    where = f"questions/{results.name}.md" if is_report else f"#{results.name}"
    return f"[{results.name}]({where})"


def _share_that_holds(study: Study) -> str:
    asked = [line.holds for line in study.headlines if line.holds is not None]
    undecided = sum(line.undecided for line in study.headlines)
    return f"{sum(asked)} of {len(asked)}" + (f", {undecided} undecided" if undecided else "")


def _source(results: Results) -> str:
    return str(launched(results)["source"])


def main(argv: Sequence[str] | None = None) -> None:
    """Gather the studies of the sweeps that are named, and write or print them."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.reproductions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="sweeps under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    parser.add_argument(
        "--write", metavar="PAGE", type=Path, help="put them there; other sweeps' stay as they are"
    )
    asked = parser.parse_args(argv)
    with exit_on_error():
        there = read_block(asked.write, NAME) if asked.write else ""
        loaded = [load(name, asked.results) for name in asked.names]
        done = [(results, study_or_error(results)) for results in loaded]
        publish(markdown(done, there), asked.write, NAME)


if __name__ == "__main__":
    main()
