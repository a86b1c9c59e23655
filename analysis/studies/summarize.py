"""Write the summary of a finished study to docs/summaries/, from which its page is made.

python -m analysis.studies.summarize he2015
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from analysis.figures.study import launch_record
from analysis.load import Results, load
from analysis.planned_cells import finished_results
from analysis.scoring.claims import parse_scoring
from analysis.scoring.inputs import inputs_digest
from analysis.scoring.scored_study import scored_study
from analysis.scoring.summary import CELLS, FOLDER, Summary, write_summary
from analysis.scoring.verdict import SEED
from analysis.studies.tables import require_complete
from experiments.console import exit_on_error
from experiments.sweep.grid import STANDARD
from fanin.commands import command_line
from fanin.errors import FaninError


def summarize(results: Results) -> Summary:
    """Summarize a finished sweep of a study.

    Raises
    ------
    FaninError
        Cells are missing, the sweep is not the registered one at size `standard` or `paper`, it is
        not a study's, or it lacks seeds.
    """
    record = launch_record(results)
    if not record.get("scoring"):
        raise FaninError(f"{results.name}: its YAML has no section 'scoring', so nothing to score")
    require_complete(results)
    name = record["sweep"]
    scoring = parse_scoring(record["scoring"], name)
    study = scored_study(name)
    tables = study.summarize(finished_results(results))
    seeds = sorted(int(seed) for seed in tables[CELLS][SEED].unique())
    if len(seeds) < scoring.seeds:
        raise FaninError(f"{name}: {len(seeds)} seeds, but a verdict needs {scoring.seeds}")
    if scoring.pilot and (again := sorted(set(scoring.pilot.seeds) & set(seeds))):
        raise FaninError(f"{name}: seeds {again} are those of the pilot; use others")
    commits = sorted(results.cells["code"].astype(str).unique())
    about = {
        "command": _command(record),
        "commit": " and ".join(commits),
        "clean": not any("+" in commit for commit in commits),
        "date": datetime.now(UTC).date().isoformat(),
        "n_cells": len(results.cells),
        "seeds": seeds,
        "size": record.get("size", STANDARD),
        "scoring": record["scoring"],
        "inputs": inputs_digest(name),
        "source": record["source"],
        "versions": record["versions"],
        "seconds": float(results.cells["seconds"].sum()),
    }
    return Summary(name, tables, about)


def _command(record: dict[str, object]) -> str:
    size = record.get("size", STANDARD)
    suffix = () if size == STANDARD else (f"sweep.size={size}",)
    return command_line("run", "-m", f"sweep={record['sweep']}", *suffix)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the summaries of the named sweeps."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.summarize", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="sweeps under results/")
    parser.add_argument("--results", default="results", help="folder of the sweeps")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=FOLDER, help="default: docs/summaries"
    )
    args = parser.parse_args(argv)
    with exit_on_error(OSError):
        for name in args.names:
            path = write_summary(summarize(load(name, args.results)), args.output)
            print(f"Summary: {path} ({path.stat().st_size:,} bytes). Commit it, then: make pages")


if __name__ == "__main__":
    main()
