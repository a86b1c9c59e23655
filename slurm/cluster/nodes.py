"""Nodes: their states as slurmctld sees them, and their coming back."""

from __future__ import annotations

import time
from datetime import datetime

from .client import ask
from .layout import Layout, Settings
from .services import slurmctld, slurmd
from .waiting import wait_for

WORKING = {"idle", "mixed", "allocated", "completing"}


def node_states(layout: Layout) -> dict[str, str]:
    """Return each node's state; a star says that the node does not answer."""
    # By partition: sinfo -N lists a node once for every partition it is in.
    listing = ask(layout, "sinfo", "-h", "-N", "-p", "main", "-o", "%N %T") or ""
    return dict(line.split() for line in listing.splitlines())


def wait_until_idle(layout: Layout, settings: Settings, seconds: float = 60) -> None:
    def all_idle() -> bool:
        return node_states(layout) == dict.fromkeys(settings.node_names, "idle")

    wait_for(f"all nodes idle (logs: {layout.log})", all_idle, seconds)


def start_node(layout: Layout, settings: Settings, node: str) -> str:
    """Start a node's slurmd, and see to it that slurmctld gives it work again."""
    daemon = slurmd(layout, settings, node)
    if daemon.pid():
        return f"{node} is running already"
    since = datetime.now().replace(microsecond=0)
    daemon.start()
    if slurmctld(layout).pid() is None:
        return f"{node} started; the controller is down, and will notice when it is back"
    wait_for(f"{node} registered", lambda: _started_since(layout, node, since), 60)
    return wait_until_working(layout, node)


def wait_until_working(layout: Layout, node: str) -> str:
    """Wait until a node takes jobs; one that stays down though it answers is resumed."""
    began = time.monotonic()

    def working() -> bool:
        state = node_states(layout).get(node, "unknown")
        if state in {"down", "drained"} and time.monotonic() - began > 2:
            ask(layout, "scontrol", "update", f"nodename={node}", "state=resume")
        return state in WORKING

    wait_for(f"{node} in a working state (logs: {layout.log})", working, 60)
    return f"{node} is {node_states(layout).get(node, 'unknown')}"


def _started_since(layout: Layout, node: str, since: datetime) -> bool:
    for word in (ask(layout, "scontrol", "show", "node", node) or "").split():
        name, _, value = word.partition("=")
        if name == "SlurmdStartTime" and value not in {"None", "Unknown"}:
            return datetime.fromisoformat(value) >= since
    return False
