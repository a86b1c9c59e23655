"""Sweeps whose cells something befalls (`befall`), and the same cells undisturbed."""

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
from launching import Grid
from stored_parts import read_parts

from analysis import load
from experiments.sweep.store.paths import TABLES

FAULTY = (
    "model=mlp", "model.depth=2", "model.width=4", "activation._target_=befall.Activation",
    "init=custom", "init._target_=befall.sample", "data.n_train=100", "data.n_test=50",
    "data.side=8", "train.steps=60", "scaling=unit", "probe.draws=1", "probe.size=8",
)  # fmt: skip

ONE_AT_A_TIME = Lock()
# What may differ between two runs of the same cell.
OF_THE_RUN = ["seconds", "attempt", "host", "device", "code"]


class Row(NamedTuple):
    attempt: int
    outcome: str
    reason: str | None


@dataclass
class Faulty(Grid):
    """A sweep of cells that are told by files what befalls them; they are known by number."""

    cells: tuple[str, ...] = FAULTY

    def words(self, *more: str) -> list[str]:
        path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        env = [f"BEFALL={self.root}", f"PYTHONPATH={os.pathsep.join(filter(None, path))}"]
        last = {word.partition("=")[0]: word for word in more}  # of the same key
        return ["env", *env, *super().words(*last.values())]

    def kill_all(self) -> None:
        """No command outlives its test, however that has ended."""
        for process in self.started:
            if process.poll() is None:
                self.kill(process)

    def tell(self, kind: str, *numbers: int, word: str = "do") -> None:
        for number in numbers:
            (self.root / f"{word}-{number}").write_text(kind)

    def forget(self, *numbers: int) -> None:
        for number in numbers:
            (self.root / f"do-{number}").unlink()

    def count(self, what: str, number: int) -> int:
        """How often something (`steps`, `drawn`) was noted of a cell, in all its processes."""
        path = self.root / f"{what}-{number}"
        return path.stat().st_size if path.exists() else 0

    def numbers(self) -> dict[str, int]:
        """Each planned cell's number."""
        planned = [json.loads(line) for line in self.folder.plan.read_text().splitlines()]
        return {line["cell_id"]: line["config"]["init"]["number"] for line in planned}

    def history(self) -> dict[int, list[Row]]:
        """Every row of every cell, whatever attempt it is of."""
        columns = ["attempt", "outcome", "outcome_reason"]
        numbers = self.numbers()
        found: dict[int, list[Row]] = {number: [] for number in numbers.values()}
        for _, part in read_parts(self.folder, "cells"):
            for row in part.select(["cell_id", *columns]).to_pylist():
                found[numbers[row["cell_id"]]].append(Row(*(row[name] for name in columns)))
        return {number: sorted(rows) for number, rows in sorted(found.items())}

    def attempts(self) -> dict[int, list[str]]:
        """How each attempt at each cell ended that has left a row, in their order."""
        history = self.history()
        for number, rows in history.items():
            assert [row.attempt for row in rows] == list(range(1, len(rows) + 1)), (number, rows)
        return {number: [row.outcome for row in rows] for number, rows in history.items()}

    def tokens(self) -> set[str]:
        return {path.name for path in self.folder.slurm.glob("*/")}

    def active(self) -> list[str]:
        """Our elements that wait or run, and nobody else's."""
        return [line for line in super().active() if line.rpartition(".")[2] in self.tokens()]

    def jobs(self) -> list[str]:
        """Their ids."""
        return [line.split()[1] for line in self.active()]

    def runs(self) -> Counter[str]:
        """How often each element was started, by the accounts."""
        said = self.cluster.sh("sacct -n -P -X -D -S now-1day -o JobID,Start,JobName")
        rows = [line.split("|") for line in said.splitlines()]
        tokens = self.tokens()
        begun = [i for i, start, name in rows if start not in ("Unknown", "None")
                 and name.rpartition(".")[2] in tokens]  # fmt: skip
        return Counter(begun)

    def elements(self) -> list[int]:
        """The processes that our jobs are, on whatever node."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_text().split("\0")
                if "experiments.sweep.slurm.array_task" in words and str(self.folder.root) in words:
                    found += [int(path.parent.name)] * ("srun" not in words[0])
        return found

    def logs(self) -> str:
        """All that our jobs have printed."""
        return "".join(p.read_text() for p in sorted(self.folder.slurm.glob("*/logs/*")))

    def left_over(self) -> list[str]:
        """What should not be there when a sweep has ended: jobs, rights, checkpoints, parts."""
        left = [*self.folder.journals.glob("*"), *self.folder.checkpoints.glob("*")]
        left += self.folder.root.rglob("*.part")
        return self.active() + [str(path) for path in left]


def undisturbed(faulty: Faulty) -> Path:
    """Where the tables of such cells are that nothing has befallen, made on this machine once."""
    root = faulty.root.with_name("undisturbed")
    with ONE_AT_A_TIME:
        if not root.exists():
            root.mkdir()
            local = replace(faulty, root=root, started=[])
            status, said = local.run("init.number=range(9)", runner=("runner=local",))
            assert status == 0, said
    return root


def tables(root: Path, numbers: list[int] | None = None) -> dict[str, pd.DataFrame]:
    """A sweep's tables of some cells, in a fixed order, without what tells of the run."""
    found = load("s", root)
    cells = found.cells.set_index("cell_id")["init.number"].astype(int)
    kept = set(cells.index if numbers is None else cells.index[cells.isin(numbers)])
    made = {}
    for name in TABLES:
        table = getattr(found, name)
        if table.empty:
            continue
        table = table[table["cell_id"].isin(kept)].drop(columns=OF_THE_RUN, errors="ignore")
        plain = table.astype({c: str for c in table if table[c].dtype == "category"})
        keys = [c for c in plain if plain[c].dtype != float] or list(plain)
        made[name] = plain.sort_values(keys, kind="stable", ignore_index=True)
    return made


def assert_same_tables(one: Path, other: Path, numbers: list[int] | None = None) -> None:
    """The same rows to the last bit."""
    left, right = tables(one, numbers), tables(other, numbers)
    assert left.keys() == right.keys()
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


def steps_of_one(faulty: Faulty) -> int:
    """How many training steps such a cell takes."""
    return replace(faulty, root=undisturbed(faulty)).count("steps", 0)
