"""A cluster's life: brought up, asked how it is, and taken down."""

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
    ask,
    mariadbd,
    munged,
    slurmctld,
    slurmd,
    slurmdbd,
    tell,
    wait_for,
)
from .layout import ClusterError, Layout, Options, Settings, UsageError
from .network import disconnect
from .packages import require
from .processes import kill_all, of_cluster, processes

WORKING = {"idle", "mixed", "allocated", "completing"}


def free_ports(count: int) -> list[int]:
    """Pick ports below the range from which the kernel gives ports to outgoing connections."""
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


def bring_up(layout: Layout, options: Options) -> str:
    """Start everything and wait until all nodes are idle; do nothing if that is so already."""
    settings = layout.load()
    if settings:
        return _is_up(layout, settings, options)
    require(options.accounting, options.namespaces)
    if not layout.is_a_clusters():
        raise UsageError(f"{layout.folder} holds other files; take an empty folder")
    settings = _settle(options)
    try:
        _write(layout, settings)
        _start(layout, settings)
    except (ClusterError, OSError, KeyboardInterrupt):
        take_down(layout)
        raise
    return f"up: {options.nodes} nodes of {options.cpus} CPUs"


def _is_up(layout: Layout, settings: Settings, options: Options) -> str:
    if settings.options != options:
        raise UsageError(f"up already, with {settings.options}; for others type down first")
    missing = [one.name for one in all_daemons(layout, settings) if one.pid() is None]
    if missing:
        raise ClusterError(f"half up: {', '.join(missing)} not running; type down, then up")
    return "up already"


def _settle(options: Options) -> Settings:
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
        # Slurm takes only devices for GPUs: this one is the same as /dev/null.
        gpu = layout.folder / "dev" / f"gpu{number}"
        try:
            os.mknod(gpu, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            raise UsageError("can't make the fake GPUs' devices: needs CAP_MKNOD") from None
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
    for daemon, launched in [(one, one.launch()) for one in nodes]:
        daemon.await_pid(launched)
    wait_until_idle(layout, settings)


def _start_accounting(layout: Layout) -> None:
    # MariaDB's temporary tables would else lie in /tmp, where clusters that start at once clash.
    data = (f"--datadir={layout.run}/mysql", f"--tmpdir={layout.run}/mysql-tmp")
    tell(
        layout,
        *("mariadb-install-db", "--no-defaults", "--user=root", *data, NO_SYNC),
        *("--skip-test-db", "--auth-root-authentication-method=normal"),
        seconds=120,
    )
    mariadbd(layout).start()
    query = ("mariadb", "--no-defaults", "-u", "root", "-S", str(layout.mysql_socket), "-e")
    wait_for("mariadbd", lambda: ask(layout, *query, "select 1") is not None, 60)
    slurmdbd(layout).start()
    add = ("sacctmgr", "-i", "add", "cluster", layout.cluster_name)
    wait_for("slurmdbd", lambda: ask(layout, *add) is not None, 60)


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
