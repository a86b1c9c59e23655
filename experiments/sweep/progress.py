"""How far a sweep is: a bar on a terminal, plain lines in a log; read from the journals alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.sweep.runner import Tick
from experiments.sweep.store.journal import Event, read_events
from experiments.sweep.store.parquet import read_part
from experiments.sweep.store.paths import SweepFolder

LOG_EVERY = 10.0  # seconds between lines where there is no terminal


class Tally:
    """Counts cells committed from now on: in journals, and in the parts that journals became.

    Of a journal only what was added since the last look is read, and each part once.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._packs: dict[str, Counter[str]] = {}
        self._running: dict[str, float] = {}
        self._ended = set(self._parts())

    @property
    def outcomes(self) -> Counter[str]:
        """Finished cells by outcome."""
        return sum(self._packs.values(), Counter())

    def look(self) -> int:
        """Read on, and return how many cells are finished."""
        for path in self._folder.journals.glob("*.journal"):
            if path.stem in self._ended:
                continue
            with suppress(FileNotFoundError):  # its pack ended since the listing: see below
                events, self._offsets[path] = read_events(path, self._offsets.get(path, 0))
                counts = self._packs.setdefault(path.stem, Counter())
                counts.update(event.word for event in events if event.kind == "done")
                self._follow(path.stem, events)
        parts = self._parts()
        for stem in parts.keys() - self._ended:
            self._ended.add(stem)
            outcomes = read_part(parts[stem], ["outcome"])["outcome"]
            self._packs[stem] = Counter(outcomes.to_pylist())
            self._running.pop(stem, None)
        return self.outcomes.total()

    def _follow(self, stem: str, events: list[Event]) -> None:
        """Keep how far a pack's running cell is, as a share of its steps."""
        for event in events:
            if event.kind == "done":
                self._running.pop(stem, None)
            else:
                self._running[stem] = float(event.word) if event.kind == "at" else 0.0

    def _parts(self) -> dict[str, Path]:
        return {path.stem: path for path in self._folder.table("cells").glob("*.parquet")}

    def describe(self) -> str:
        """Outcomes and their counts, the most frequent first, and how far running cells are."""
        counts = [f"{count} {outcome}" for outcome, count in self.outcomes.most_common()]
        shares = " ".join(f"{share:.0%}" for share in self._running.values() if share)
        return ", ".join(counts + ([f"at work: {shares}"] if shares else []))


@contextmanager
def shown(folder: SweepFolder, cells: int, console: Console) -> Iterator[Tick]:
    """Show progress over `cells` cells; yields the function to call now and then."""
    tally = Tally(folder)
    if not console.is_terminal:
        yield _logger(tally, cells, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[outcomes]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(folder.root.name, total=cells, outcomes="")

        def tick() -> None:
            finished = tally.look()
            bar.update(task, completed=finished, outcomes=tally.describe())

        yield tick


def _logger(tally: Tally, cells: int, console: Console) -> Tick:
    began = last = time.monotonic()

    def tick() -> None:
        nonlocal last
        finished = tally.look()
        now = time.monotonic()
        if now - last >= LOG_EVERY:
            last = now
            about = f" ({tally.describe()})" if tally.describe() else ""
            left = (now - began) / finished * (cells - finished) if finished else None
            remaining = "" if left is None else f", about {left:.0f} s left"
            console.print(f"{finished} of {cells} cells{about}{remaining}", highlight=False)

    return tick
