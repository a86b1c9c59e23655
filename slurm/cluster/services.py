"""The daemons a cluster consists of, in the order in which they start."""

from __future__ import annotations

import os

from .daemons import Daemon
from .errors import UsageError
from .layout import Layout, Settings
from .network import inside

NO_SYNC = "--debug-no-sync=1"  # MariaDB's tables don't have to survive a power cut
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


def environment(layout: Layout) -> dict[str, str]:
    """Return what daemons and clients see: nothing of the caller's own Slurm."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": os.environ.get("HOME", "/"),
        "SLURM_CONF": str(layout.slurm_conf),
        "MYSQL_UNIX_PORT": str(layout.mysql_socket),  # read by slurmdbd
    }


def munged(layout: Layout) -> Daemon:
    files = {
        "key-file": layout.run / "munge.key",
        "socket": layout.munge_socket,
        "pid-file": layout.run / "munged.pid",
        "log-file": layout.log / "munged.log",
        "seed-file": layout.run / "munge.seed",
    }
    # --force: a temporary folder that only its owner can enter is all right.
    command = ("munged", "--force", *(f"--{name}={path}" for name, path in files.items()))
    return _daemon(layout, "munged", command)


def mariadbd(layout: Layout) -> Daemon:
    command = (
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={layout.run}/mysql",
        f"--tmpdir={layout.run}/mysql-tmp",
        f"--socket={layout.mysql_socket}",
        f"--pid-file={layout.run}/mariadbd.pid",
        "--skip-networking",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-lock-wait-timeout=900",
        NO_SYNC,
    )
    return _daemon(layout, "mariadbd", command)


def slurmdbd(layout: Layout) -> Daemon:
    return _daemon(layout, "slurmdbd", ("slurmdbd",))


def slurmctld(layout: Layout) -> Daemon:
    return _daemon(layout, "slurmctld", ("slurmctld", "-f", str(layout.slurm_conf)))


def slurmd(layout: Layout, settings: Settings, node: str) -> Daemon:
    if node not in settings.node_names:
        known = ", ".join(settings.node_names)
        raise UsageError(f"no node is called {node}; there are {known}")
    command = ("slurmd", "-f", str(layout.slurm_conf), "-N", node)
    there = inside(layout, node, command) if settings.subnet else command
    return _daemon(layout, f"slurmd-{node}", there, "slurmd")


def all_daemons(layout: Layout, settings: Settings) -> list[Daemon]:
    """List what runs while the cluster is up."""
    database = [mariadbd(layout), slurmdbd(layout)] if settings.options.accounting else []
    nodes = [slurmd(layout, settings, name) for name in settings.node_names]
    return [munged(layout), *database, slurmctld(layout), *nodes]


def _daemon(
    layout: Layout, name: str, command: tuple[str, ...], program: str | None = None
) -> Daemon:
    pid_file = layout.run / f"{name}.pid"
    return Daemon(name, program or name, command, layout.folder, pid_file, environment(layout))
