"""Faults of a cluster, on command."""

from __future__ import annotations

import signal

from . import network
from .daemons import ask, slurmctld, slurmd, slurmdbd, wait_for
from .layout import Layout, Settings, UsageError
from .lifecycle import wait_until_working
from .processes import kill_all, of_node, send


def kill_node(layout: Layout, settings: Settings, node: str) -> str:
    """End slurmd, its step daemons and all their jobs at once, as a power cut would."""
    if slurmd(layout, settings, node).pid() is None:
        return f"{node} is dead already"
    killed = kill_all(lambda everything: of_node(layout, node, everything))
    return f"{node} is dead ({killed} processes); slurmctld has yet to notice"


def cut_node(layout: Layout, settings: Settings, node: str) -> str:
    """Pull a node's network cable; its jobs run on."""
    _need_namespaces(settings)
    slurmd(layout, settings, node)
    network.set_link(layout, node, "down")
    return f"{node} is cut off"


def join_node(layout: Layout, settings: Settings, node: str) -> str:
    """Plug a node's network cable in again, and wait until the node takes jobs."""
    _need_namespaces(settings)
    daemon = slurmd(layout, settings, node)
    network.set_link(layout, node, "up")
    pid = daemon.pid()
    if pid is None or slurmctld(layout).pid() is None:
        return f"{node} is connected"
    # slurmctld asks a node that is down only now and then (35 s): have slurmd report at once.
    send(pid, signal.SIGHUP)
    return wait_until_working(layout, node)


def stop_controller(layout: Layout) -> str:
    return "slurmctld stopped" if slurmctld(layout).stop() else "slurmctld is not running"


def kill_controller(layout: Layout) -> str:
    return "slurmctld killed" if slurmctld(layout).kill() else "slurmctld is not running"


def start_controller(layout: Layout) -> str:
    daemon = slurmctld(layout)
    if daemon.pid():
        return "slurmctld is running already"
    daemon.start()
    wait_for("slurmctld", lambda: ask(layout, "squeue", "-h", seconds=3) is not None, 60)
    return "slurmctld started"


def restart_controller(layout: Layout) -> str:
    """Kill slurmctld without notice and start it again."""
    return f"{kill_controller(layout)}, {start_controller(layout)}"


def stop_database(layout: Layout, settings: Settings) -> str:
    _need_accounting(settings)
    return "slurmdbd stopped" if slurmdbd(layout).stop() else "slurmdbd is not running"


def start_database(layout: Layout, settings: Settings) -> str:
    _need_accounting(settings)
    daemon = slurmdbd(layout)
    if daemon.pid():
        return "slurmdbd is running already"
    daemon.start()
    wait_for("slurmdbd", lambda: ask(layout, "sacctmgr", "-n", "list", "cluster") is not None, 60)
    return "slurmdbd started"


def _need_accounting(settings: Settings) -> None:
    if not settings.options.accounting:
        raise UsageError("this cluster has no database; type: down, then up --accounting")


def _need_namespaces(settings: Settings) -> None:
    if not settings.options.namespaces:
        raise UsageError("this cluster's nodes share one network; type: down, then up --namespaces")
