"""What every runner is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import Pack

Tick = Callable[[], None]


@runtime_checkable
class Runner(Protocol):
    """What an option of `conf/runner/` names."""

    @property
    def device(self) -> str:
        """`auto`, `cpu`, `cuda` or `cuda:N`."""

    @property
    def pack_cells(self) -> int | None:
        """Most cells in a pack; None: by the work in them."""

    @property
    def n_workers(self) -> int:
        """How many packs run at once."""

    def worker_memory(self) -> int:
        """Bytes of memory that a worker may use."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function where a pack would run: in a process set up as a worker.

        Raises
        ------
        FaninError
            The process died.
        """

    def run(self, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
        """Run packs to the end, calling `tick` now and then."""


@runtime_checkable
class Outliving(Runner, Protocol):
    """A runner whose packs go on when their launcher has gone."""

    def submit(self, folder: SweepFolder, packs: Sequence[Pack], tick: Tick) -> None:
        """Hand packs out, and leave them."""

    def cancel(self, folder: SweepFolder, tick: Tick) -> None:
        """Take back what was handed out."""
