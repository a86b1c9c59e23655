"""Sweeps with injected faults (`fault_injection`), and the same cells without faults."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import pandas as pd
from stored_parts import read_parts
from sweep_command import SweepCommand

from analysis import load
from experiments.sweep.store.paths import TABLES

FAULTY_CELLS = (
    "model=mlp", "model.depth=2", "model.width=4", "activation._target_=fault_injection.Activation",
    "init=custom", "init._target_=fault_injection.sample", "data.n_train=100", "data.n_test=50",
    "data.side=8", "train.steps=60", "scaling=unit", "probe.draws=1", "probe.size=8",
)  # fmt: skip

REFERENCE_LOCK = Lock()
# Columns that may differ between two runs of the same cell.
RUN_COLUMNS = ["seconds", "attempt", "host", "device", "code"]


class Row(NamedTuple):
    attempt: int
    outcome: str
    reason: str | None


@dataclass
class FaultySweep(SweepCommand):
    """Sweep with faults injected into cells, which are identified by their number."""

    overrides: tuple[str, ...] = FAULTY_CELLS

    def command_line(self, *overrides: str) -> list[str]:
        path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        env = [f"FAULT_DIR={self.root}", f"PYTHONPATH={os.pathsep.join(filter(None, path))}"]
        last_by_key = {override.partition("=")[0]: override for override in overrides}
        return ["env", *env, *super().command_line(*last_by_key.values())]

    def kill_all(self) -> None:
        """Kill all commands that are still running."""
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)

    def set_fault(self, kind: str, *numbers: int, when: str = "always") -> None:
        for number in numbers:
            (self.root / f"{when}-{number}").write_text(kind)

    def clear_fault(self, *numbers: int) -> None:
        for number in numbers:
            (self.root / f"always-{number}").unlink()

    def count(self, event: str, number: int) -> int:
        """Return how often an event (`steps`, `draws`) was recorded for a cell."""
        path = self.root / f"{event}-{number}"
        return path.stat().st_size if path.exists() else 0

    def numbers(self) -> dict[str, int]:
        """Return the number of each planned cell, by cell id."""
        planned = [json.loads(line) for line in self.folder.plan.read_text().splitlines()]
        return {line["cell_id"]: line["config"]["init"]["number"] for line in planned}

    def history(self) -> dict[int, list[Row]]:
        """Return all rows of each cell, over all attempts."""
        columns = ["attempt", "outcome", "outcome_reason"]
        numbers = self.numbers()
        rows_by_number: dict[int, list[Row]] = {number: [] for number in numbers.values()}
        for _, part in read_parts(self.folder, "cells"):
            for row in part.select(["cell_id", *columns]).to_pylist():
                values = (row[name] for name in columns)
                rows_by_number[numbers[row["cell_id"]]].append(Row(*values))
        return {number: sorted(rows) for number, rows in sorted(rows_by_number.items())}

    def attempts(self) -> dict[int, list[str]]:
        """Return the outcomes of the attempts at each cell, in their order."""
        history = self.history()
        for number, rows in history.items():
            assert [row.attempt for row in rows] == list(range(1, len(rows) + 1)), (number, rows)
        return {number: [row.outcome for row in rows] for number, rows in history.items()}

    def tokens(self) -> set[str]:
        return {path.name for path in self.folder.slurm.glob("*/")}

    def active_tasks(self) -> list[str]:
        """Return the pending and running array tasks of this sweep only."""
        lines = super().active_tasks()
        return [line for line in lines if line.rpartition(".")[2] in self.tokens()]

    def active_job_ids(self) -> list[str]:
        return [line.split()[1] for line in self.active_tasks()]

    def count_starts(self) -> Counter[str]:
        """Return how often each array task was started, from sacct."""
        output = self.cluster.sh("sacct -n -P -X -D -S now-1day -o JobID,Start,JobName")
        rows = [line.split("|") for line in output.splitlines()]
        tokens = self.tokens()
        started = [i for i, start, name in rows if start not in ("Unknown", "None")
                   and name.rpartition(".")[2] in tokens]  # fmt: skip
        return Counter(started)

    def array_task_pids(self) -> list[int]:
        """Return the pids of the sweep's array tasks on all nodes."""
        pids = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                arguments = path.read_text().split("\0")
                is_task = "experiments.sweep.slurm.array_task" in arguments
                if is_task and str(self.folder.root) in arguments and "srun" not in arguments[0]:
                    pids.append(int(path.parent.name))
        return pids

    def job_output(self) -> str:
        """Return all output of the sweep's jobs."""
        return "".join(p.read_text() for p in sorted(self.folder.slurm.glob("*/logs/*")))

    def leftovers(self) -> list[str]:
        """Return leases, checkpoints and partial files after the last job's end.

        A finished sweep has none. Its command may end a moment before its last job.
        """
        self.wait_until_jobs_end()
        paths = [*self.folder.journals.glob("*"), *self.folder.checkpoints.glob("*")]
        paths += self.folder.root.rglob("*.part")
        return [str(path) for path in paths]


def reference_results(sweep: FaultySweep) -> Path:
    """Return the results of the same cells without faults, run on this machine once."""
    root = sweep.root.with_name("reference")
    with REFERENCE_LOCK:
        if not root.exists():
            root.mkdir()
            local = replace(sweep, root=root, processes=[])
            status, output = local.run("init.number=range(9)", runner=("runner=local",))
            assert status == 0, output
    return root


def comparable_tables(root: Path, numbers: list[int] | None = None) -> dict[str, pd.DataFrame]:
    """Return the tables of some cells, sorted and without the columns that describe the run."""
    sweep = load("s", root)
    cells = sweep.cells.set_index("cell_id")["init.number"].astype(int)
    kept = set(cells.index if numbers is None else cells.index[cells.isin(numbers)])
    tables = {}
    for name in TABLES:
        table = getattr(sweep, name)
        if table.empty:
            continue
        table = table[table["cell_id"].isin(kept)].drop(columns=RUN_COLUMNS, errors="ignore")
        plain = table.astype({c: str for c in table if table[c].dtype == "category"})
        keys = [c for c in plain if plain[c].dtype != float] or list(plain)
        tables[name] = plain.sort_values(keys, kind="stable", ignore_index=True)
    return tables


def assert_same_tables(actual: Path, expected: Path, numbers: list[int] | None = None) -> None:
    """Assert that two sweeps have bit-identical rows."""
    actual_tables, expected_tables = (
        comparable_tables(root, numbers) for root in (actual, expected)
    )
    assert actual_tables.keys() == expected_tables.keys()
    for name, table in actual_tables.items():
        pd.testing.assert_frame_equal(table, expected_tables[name], check_exact=True, obj=name)


def steps_per_cell(sweep: FaultySweep) -> int:
    """Return the number of training steps of a cell without faults."""
    return replace(sweep, root=reference_results(sweep)).count("steps", 0)
