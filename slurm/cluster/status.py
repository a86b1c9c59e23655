"""What runs, and what Slurm says about its nodes."""

from __future__ import annotations

from .client import ask
from .errors import ClusterError
from .layout import Layout, Settings
from .services import all_daemons


def status(layout: Layout) -> str:
    """List the daemons and sinfo's view."""
    settings = require_up(layout)
    lines = [
        f"{daemon.name:12}{f'running, pid {pid}' if (pid := daemon.pid()) else 'not running'}"
        for daemon in all_daemons(layout, settings)
    ]
    view = ask(layout, "sinfo", "-N", "-p", "main", "-o", "%N %T %C %E")
    return "\n".join([*lines, "", view.rstrip() if view else "sinfo: no answer"])


def export_line(layout: Layout) -> str:
    """Return what makes a shell's Slurm commands talk to this cluster."""
    return f"export SLURM_CONF={layout.slurm_conf}"


def require_up(layout: Layout) -> Settings:
    settings = layout.load()
    if settings is None:
        raise ClusterError(f"no cluster is up in {layout.folder}; type: slurm/testcluster up")
    return settings
