"""Fault injection: node, network, controller and database failures."""

from __future__ import annotations

import signal

from . import network
from .daemons import slurmctld, slurmd, slurmdbd, try_client, wait_for
from .layout import Layout, Settings, UsageError
from .lifecycle import wait_until_usable
from .processes import kill_all, node_processes, send


def kill_node(layout: Layout, settings: Settings, node: str) -> str:
    """Kill slurmd, its step daemons and all their jobs at once, as a power failure does."""
    if slurmd(layout, settings, node).pid() is None:
        return f"{node} is already dead"
    killed = kill_all(lambda all_processes: node_processes(layout, node, all_processes))
    return f"{node} is dead ({killed} processes killed); slurmctld has not noticed it yet"


def cut_node(layout: Layout, settings: Settings, node: str) -> str:
    """Disconnect a node from the network; its jobs keep running."""
    _need_namespaces(settings)
    slurmd(layout, settings, node)
    network.set_link(layout, node, "down")
    return f"{node} is disconnected"


def join_node(layout: Layout, settings: Settings, node: str) -> str:
    """Reconnect a node, and wait until it accepts jobs."""
    _need_namespaces(settings)
    daemon = slurmd(layout, settings, node)
    network.set_link(layout, node, "up")
    pid = daemon.pid()
    if pid is None or slurmctld(layout).pid() is None:
        return f"{node} is connected"
    # slurmctld contacts a node that is down only every 35 s; SIGHUP makes slurmd report at once.
    send(pid, signal.SIGHUP)
    return wait_until_usable(layout, node)


def stop_controller(layout: Layout) -> str:
    return "slurmctld stopped" if slurmctld(layout).stop() else "slurmctld is not running"


def kill_controller(layout: Layout) -> str:
    return "slurmctld killed" if slurmctld(layout).kill() else "slurmctld is not running"


def start_controller(layout: Layout) -> str:
    daemon = slurmctld(layout)
    if daemon.pid():
        return "slurmctld is already running"
    daemon.start()
    wait_for("slurmctld", lambda: try_client(layout, "squeue", "-h", seconds=3) is not None, 60)
    return "slurmctld started"


def restart_controller(layout: Layout) -> str:
    """Kill slurmctld with SIGKILL and start it again."""
    return f"{kill_controller(layout)}, {start_controller(layout)}"


def stop_database(layout: Layout, settings: Settings) -> str:
    _need_accounting(settings)
    return "slurmdbd stopped" if slurmdbd(layout).stop() else "slurmdbd is not running"


def start_database(layout: Layout, settings: Settings) -> str:
    _need_accounting(settings)
    daemon = slurmdbd(layout)
    if daemon.pid():
        return "slurmdbd is already running"
    daemon.start()
    wait_for(
        "slurmdbd", lambda: try_client(layout, "sacctmgr", "-n", "list", "cluster") is not None, 60
    )
    return "slurmdbd started"


def _need_accounting(settings: Settings) -> None:
    if not settings.options.accounting:
        raise UsageError(
            "this cluster has no database; run slurm/testcluster down, then up --accounting"
        )


def _need_namespaces(settings: Settings) -> None:
    if not settings.options.namespaces:
        raise UsageError(
            "this cluster's nodes share one network; run slurm/testcluster down, then up "
            "--namespaces"
        )
