"""Published figures, made again: the verdicts of all that were run, for docs/reproductions.md.

python -m analysis.studies.reproductions glorot2010 hanin2018 --write docs/reproductions.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.study import Study, launched, study_of
from analysis.load import Results, load
from analysis.studies.page import markdown_table, publish
from experiments.errors import UNUSABLE, FaninError

HOLDS = {True: "yes", False: "**no**", None: ""}


def markdown(done: Sequence[tuple[Results, Study]]) -> str:
    """An overview, then of each sweep its claim, its numbers beside the published ones, and n."""
    overview = [
        [f"[{results.name}](#{results.name})", _source(results), study.verdict]
        for results, study in done
    ]
    parts = [markdown_table(["sweep", "source", "verdict"], overview)]
    for results, study in done:
        rows = [[h.what, h.theirs, h.ours, HOLDS[h.holds]] for h in study.headlines]
        parts += [
            f"### {results.name}",
            f"{_source(results)}. Claim: {study.claim} **{study.verdict.capitalize()}.**",
            markdown_table(["", "published", "measured", "holds"], rows),
            f"{study.caption} {_run(results)}",
        ]
    return "\n\n".join(parts)


def _source(results: Results) -> str:
    return str(launched(results)["source"])


def _run(results: Results) -> str:
    about = launched(results)
    size = "" if about.get("size", "small") == "small" else f" sweep.size={about['size']}"
    return (
        f"{len(results.cells)} cells at commit {about['code']}: "
        f"`python -m experiments.run -m sweep={about['sweep']}{size}`, then "
        f"`python -m analysis.figures {results.name}`."
    )


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
        done = [_done(load(name, asked.results)) for name in asked.names]
        publish(markdown(done), asked.write, "reproductions")
    except FaninError as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None


def _done(results: Results) -> tuple[Results, Study]:
    make = study_of(results)
    if make is None:
        raise FaninError(f"{results.name}: makes no published figure again (no source in its YAML)")
    return results, make()


if __name__ == "__main__":
    main()
