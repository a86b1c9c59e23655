"""Published figures, made again: the verdicts of all that were run, for docs/reproductions.md.

python -m analysis.studies.reproductions glorot2010 hanin2018 --write docs/reproductions.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.study import FIELD_REPORT, Study, launched
from analysis.load import Results, load
from analysis.studies.page import markdown_table, publish
from analysis.studies.told import headline_table, how_made, study_or_error
from experiments.errors import UNUSABLE, FaninError


def markdown(done: Sequence[tuple[Results, Study]]) -> str:
    """An overview, then of each publication its claim, its numbers beside ours, and n.

    Field reports have pages of their own and stand in the overview alone.
    """
    overview = [
        [_linked(results), _source(results), study.verdict, _share_that_holds(study)]
        for results, study in done
    ]
    header = ["sweep", "source", "verdict", "lines that hold"]
    parts = [markdown_table(header, overview)]
    for results, study in done:
        if _source(results) == FIELD_REPORT:
            continue
        parts += [
            f"### {results.name}",
            f"{_source(results)}. Claim: {study.claim} **{study.verdict.capitalize()}.**",
            headline_table(study),
            f"{study.caption} {how_made(results)}",
        ]
    return "\n\n".join(parts)


def _linked(results: Results) -> str:
    is_report = _source(results) == FIELD_REPORT
    where = f"questions/{results.name}.md" if is_report else f"#{results.name}"
    return f"[{results.name}]({where})"


def _share_that_holds(study: Study) -> str:
    asked = [line.holds for line in study.headlines if line.holds is not None]
    return f"{sum(asked)} of {len(asked)}"


def _source(results: Results) -> str:
    return str(launched(results)["source"])


def main(argv: Sequence[str] | None = None) -> None:
    """Gather the studies of the sweeps that are named, and write or print them."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.reproductions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="sweeps under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put them there")
    asked = parser.parse_args(argv)
    try:
        loaded = [load(name, asked.results) for name in asked.names]
        done = [(results, study_or_error(results)) for results in loaded]
        publish(markdown(done), asked.write, "reproductions")
    except FaninError as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None


if __name__ == "__main__":
    main()
