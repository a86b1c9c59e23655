"""Taking a cluster down, in whatever state it is, so that nothing of it is left."""

from __future__ import annotations

import shutil

from .belonging import of_cluster
from .client import ask
from .config import KILL_WAIT
from .errors import ClusterError
from .layout import Layout, Settings
from .network import disconnect
from .processes import kill_all, processes
from .services import all_daemons, slurmctld
from .waiting import wait_for


def take_down(layout: Layout) -> str:
    """End every process, remove the network and everything in the folder but the logs."""
    settings = layout.load()
    running = len(of_cluster(layout, processes()))
    if settings and slurmctld(layout).pid():
        _cancel_all(layout)
    if settings:
        _stop_all(layout, settings)
    kill_all(lambda everything: of_cluster(layout, everything))
    disconnect(layout)
    if settings:
        for name in ("etc", "run", "dev", "cluster.json"):
            _remove(layout, name)
    return f"down ({running} processes ended)" if running else "nothing was up"


def _cancel_all(layout: Layout) -> None:
    """Let jobs end as a cancelled job does; those that take too long are killed later."""
    queue = ("squeue", "-h", "-o", "%A")
    jobs = set((ask(layout, *queue, seconds=3) or "").split())
    if not jobs or ask(layout, "scancel", *jobs, seconds=3) is None:
        return
    try:
        wait_for("an empty queue", lambda: ask(layout, *queue, seconds=3) == "", KILL_WAIT)
    except ClusterError:
        return


def _stop_all(layout: Layout, settings: Settings) -> None:
    """End the daemons one after the other, those that were started last first."""
    for daemon in reversed(all_daemons(layout, settings)):
        daemon.stop()


def _remove(layout: Layout, name: str) -> None:
    path = layout.folder / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
