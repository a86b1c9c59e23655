"""Start, status and stop of a cluster."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import time
from datetime import datetime

from . import config, network
from .config import KILL_WAIT
from .daemons import (
    NO_SYNC,
    all_daemons,
    mariadbd,
    munged,
    run_client,
    slurmctld,
    slurmd,
    slurmdbd,
    try_client,
    wait_for,
)
from .layout import ClusterError, Layout, Options, Settings, UsageError
from .network import disconnect
from .packages import check_requirements
from .processes import cluster_processes, kill_all, processes

USABLE_STATES = {"idle", "mixed", "allocated", "completing"}


def free_ports(count: int) -> list[int]:
    """Return free ports below the range that the kernel uses for outgoing connections."""
    candidates = random.sample(range(10000, 32000), 4 * count + 100)
    return [port for port in candidates if _is_free(port)][:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def node_states(layout: Layout) -> dict[str, str]:
    """Return the state of each node; a trailing `*` means that the node does not answer."""
    # With a partition, because sinfo -N lists a node once for every partition.
    listing = try_client(layout, "sinfo", "-h", "-N", "-p", "main", "-o", "%N %T") or ""
    return dict(line.split() for line in listing.splitlines())


def wait_until_idle(layout: Layout, settings: Settings, seconds: float = 60) -> None:
    def all_idle() -> bool:
        return node_states(layout) == dict.fromkeys(settings.node_names, "idle")

    wait_for(f"all nodes idle (logs: {layout.log})", all_idle, seconds)


def start_node(layout: Layout, settings: Settings, node: str) -> str:
    """Start a node's slurmd, and wait until slurmctld gives it jobs again."""
    daemon = slurmd(layout, settings, node)
    if daemon.pid():
        return f"{node} is already running"
    since = datetime.now().replace(microsecond=0)
    daemon.start()
    if slurmctld(layout).pid() is None:
        return f"{node} started; slurmctld is not running and registers the node when it starts"
    wait_for(f"{node} registered", lambda: _started_since(layout, node, since), 60)
    return wait_until_usable(layout, node)


def wait_until_usable(layout: Layout, node: str) -> str:
    """Wait until a node accepts jobs; resume a node that answers but stays down."""
    start = time.monotonic()

    def usable() -> bool:
        state = node_states(layout).get(node, "unknown")
        if state in {"down", "drained"} and time.monotonic() - start > 2:
            try_client(layout, "scontrol", "update", f"nodename={node}", "state=resume")
        return state in USABLE_STATES

    wait_for(f"{node} in a usable state (logs: {layout.log})", usable, 60)
    return f"{node} is {node_states(layout).get(node, 'unknown')}"


def _started_since(layout: Layout, node: str, since: datetime) -> bool:
    for field in (try_client(layout, "scontrol", "show", "node", node) or "").split():
        name, _, value = field.partition("=")
        if name == "SlurmdStartTime" and value not in {"None", "Unknown"}:
            return datetime.fromisoformat(value) >= since
    return False


def stop_cluster(layout: Layout) -> str:
    """End all processes, and remove the network and everything in the folder except the logs."""
    settings = layout.load()
    running = len(cluster_processes(layout, processes()))
    if settings and slurmctld(layout).pid():
        _cancel_all(layout)
    if settings:
        _stop_all(layout, settings)
    kill_all(lambda all_processes: cluster_processes(layout, all_processes))
    disconnect(layout)
    if settings:
        for name in ("etc", "run", "dev", "cluster.json"):
            _remove(layout, name)
    return f"down ({running} processes ended)" if running else "no cluster was running"


def _cancel_all(layout: Layout) -> None:
    """Cancel all jobs and wait for them; `stop_cluster` kills the ones that take too long."""
    queue = ("squeue", "-h", "-o", "%A")
    jobs = set((try_client(layout, *queue, seconds=3) or "").split())
    if not jobs or try_client(layout, "scancel", *jobs, seconds=3) is None:
        return
    try:
        wait_for("an empty queue", lambda: try_client(layout, *queue, seconds=3) == "", KILL_WAIT)
    except ClusterError:
        return


def _stop_all(layout: Layout, settings: Settings) -> None:
    """Stop the daemons in the reverse order of their start."""
    for daemon in reversed(all_daemons(layout, settings)):
        daemon.stop()


def _remove(layout: Layout, name: str) -> None:
    path = layout.folder / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def start_cluster(layout: Layout, options: Options) -> str:
    """Start a cluster and wait until all nodes are idle; do nothing if it is already running."""
    settings = layout.load()
    if settings:
        return _check_running(layout, settings, options)
    check_requirements(options.accounting, options.namespaces)
    if not layout.is_cluster_folder():
        raise UsageError(f"{layout.folder} contains other files; use an empty folder")
    settings = _allocate_addresses(options)
    try:
        _write(layout, settings)
        _start(layout, settings)
    except (ClusterError, OSError, KeyboardInterrupt):
        stop_cluster(layout)
        raise
    return f"up: {options.nodes} nodes of {options.cpus} CPUs"


def _check_running(layout: Layout, settings: Settings, options: Options) -> str:
    if settings.options != options:
        raise UsageError(
            f"already up with {settings.options}; to change the options, run slurm/testcluster "
            "down first"
        )
    daemons = all_daemons(layout, settings)
    missing = [daemon.name for daemon in daemons if daemon.pid() is None]
    if missing:
        raise ClusterError(f"{', '.join(missing)} not running; run slurm/testcluster down, then up")
    return "already up"


def _allocate_addresses(options: Options) -> Settings:
    controller, database, *nodes = free_ports(2 + options.nodes)
    subnet = network.free_subnet() if options.namespaces else None
    return Settings(options, controller, database, nodes, subnet)


def _write(layout: Layout, settings: Settings) -> None:
    shutil.rmtree(layout.log, ignore_errors=True)
    layout.save(settings)
    for name in ("etc", "run/mysql", "run/mysql-tmp", "run/slurmctld", "log", "dev"):
        (layout.folder / name).mkdir(parents=True)
    etc = layout.slurm_conf.parent
    layout.slurm_conf.write_text(config.slurm_conf(layout, settings))
    (etc / "gres.conf").write_text(config.gres_conf(layout))
    for number in range(config.GPUS_PER_NODE):
        # Slurm accepts only device files as GPUs; this one is the same device as /dev/null.
        gpu = layout.folder / "dev" / f"gpu{number}"
        try:
            os.mknod(gpu, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            raise UsageError(
                "can't create the device files of the fake GPUs: CAP_MKNOD is missing"
            ) from None
    layout.hosts.write_text(config.hosts(settings))
    _write_secret(etc / "slurmdbd.conf", config.slurmdbd_conf(layout, settings).encode())
    _write_secret(layout.run / "munge.key", os.urandom(128))


def _write_secret(path: os.PathLike[str], content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _start(layout: Layout, settings: Settings) -> None:
    if settings.subnet:
        network.connect(layout, settings)
    munged(layout).start()
    if settings.options.accounting:
        _start_accounting(layout)
    slurmctld(layout).start()
    nodes = [slurmd(layout, settings, name) for name in settings.node_names]
    for daemon, process in [(node, node.launch()) for node in nodes]:
        daemon.wait_for_pid(process)
    wait_until_idle(layout, settings)


def _start_accounting(layout: Layout) -> None:
    # Not in /tmp, where the temporary tables of clusters that start at the same time collide.
    data = (f"--datadir={layout.run}/mysql", f"--tmpdir={layout.run}/mysql-tmp")
    run_client(
        layout,
        *("mariadb-install-db", "--no-defaults", "--user=root", *data, NO_SYNC),
        *("--skip-test-db", "--auth-root-authentication-method=normal"),
        seconds=120,
    )
    mariadbd(layout).start()
    query = ("mariadb", "--no-defaults", "-u", "root", "-S", str(layout.mysql_socket), "-e")
    wait_for("mariadbd", lambda: try_client(layout, *query, "select 1") is not None, 60)
    slurmdbd(layout).start()
    add = ("sacctmgr", "-i", "add", "cluster", layout.cluster_name)
    wait_for("slurmdbd", lambda: try_client(layout, *add) is not None, 60)


def status(layout: Layout) -> str:
    """List the daemons, and the nodes as sinfo shows them."""
    settings = require_up(layout)
    lines = [
        f"{daemon.name:12}{f'running, pid {pid}' if (pid := daemon.pid()) else 'not running'}"
        for daemon in all_daemons(layout, settings)
    ]
    nodes = try_client(layout, "sinfo", "-N", "-p", "main", "-o", "%N %T %C %E")
    return "\n".join([*lines, "", nodes.rstrip() if nodes else "sinfo: no answer"])


def export_line(layout: Layout) -> str:
    """Return the shell line that makes Slurm commands use this cluster."""
    return f"export SLURM_CONF={layout.slurm_conf}"


def require_up(layout: Layout) -> Settings:
    settings = layout.load()
    if settings is None:
        raise ClusterError(f"no cluster is running in {layout.folder}; run slurm/testcluster up")
    return settings
