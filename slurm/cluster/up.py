"""Bringing a cluster up, and saying how it is."""

from __future__ import annotations

import os
import shutil
import stat

from . import config, network
from .client import ask, tell
from .down import take_down
from .errors import ClusterError, UsageError
from .layout import Layout, Options, Settings
from .nodes import wait_until_idle
from .packages import require
from .ports import free_ports
from .services import NO_SYNC, all_daemons, mariadbd, munged, slurmctld, slurmd, slurmdbd
from .waiting import wait_for


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
