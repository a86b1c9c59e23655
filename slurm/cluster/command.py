"""Command line of `slurm/testcluster`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from . import faults
from .layout import ClusterError, Layout, Options, Settings, cluster_layout, locked
from .lifecycle import export_line, require_up, start_cluster, start_node, status, stop_cluster
from .packages import install

NodeFault = Callable[[Layout, Settings, str], str]

NODE_FAULTS: dict[str, tuple[NodeFault, str]] = {
    "kill-node": (faults.kill_node, "simulate a power failure of a node"),
    "start-node": (start_node, "start a killed node and wait until it accepts jobs"),
    "cut-node": (faults.cut_node, "disconnect a node from the network (needs up --namespaces)"),
    "join-node": (faults.join_node, "reconnect a node and wait until it accepts jobs"),
}
CONTROLLER_FAULTS: dict[str, tuple[Callable[[Layout], str], str]] = {
    "stop-controller": (faults.stop_controller, "stop slurmctld cleanly"),
    "kill-controller": (faults.kill_controller, "kill slurmctld with SIGKILL"),
    "start-controller": (faults.start_controller, "start slurmctld and wait until it answers"),
    "restart-controller": (faults.restart_controller, "run kill-controller and start-controller"),
}
DATABASE_FAULTS: dict[str, tuple[Callable[[Layout, Settings], str], str]] = {
    "stop-database": (faults.stop_database, "stop slurmdbd, so that sacct gets no answer"),
    "start-database": (faults.start_database, "start slurmdbd and wait until it answers"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        print(_run(arguments))
    except (ClusterError, OSError) as error:
        print(f"testcluster: {error}", file=sys.stderr)
        return error.status if isinstance(error, ClusterError) else 1
    return 0


def _run(arguments: argparse.Namespace) -> str:
    command = arguments.command
    if command == "install":
        return install()
    layout = cluster_layout(arguments.folder)
    if command == "env":
        require_up(layout)
        return export_line(layout)
    if command == "status":
        return status(layout)
    if command == "down" and not layout.folder.exists():
        return "no cluster was running"
    if command not in {"up", "down"}:
        require_up(layout)
    with locked(layout):
        return _change(arguments, layout)


def _change(arguments: argparse.Namespace, layout: Layout) -> str:
    command = arguments.command
    if command == "up":
        names = Options.__dataclass_fields__
        options = Options(**{name: getattr(arguments, name) for name in names})
        return f"{start_cluster(layout, options)}\n{export_line(layout)}"
    if command == "down":
        return stop_cluster(layout)
    settings = require_up(layout)
    if command in NODE_FAULTS:
        return NODE_FAULTS[command][0](layout, settings, arguments.node)
    if command in DATABASE_FAULTS:
        return DATABASE_FAULTS[command][0](layout, settings)
    return CONTROLLER_FAULTS[command][0](layout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slurm/testcluster",
        description="Start, change and stop a Slurm cluster on this machine, for tests.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        default = os.environ.get("FANIN_SLURM", "/tmp/fanin-slurm")
        command.add_argument("--folder", default=default, help="default: %(default)s")
        return command

    add("install", "install the Debian packages that are missing")
    _add_options(add("up", "start a cluster and wait until all nodes are idle"))
    add("down", "end all processes of the cluster and remove its state")
    add("status", "list the daemons and the states of the nodes")
    add("env", "print the export command that makes Slurm commands use this cluster")
    for name, (_, help) in NODE_FAULTS.items():
        add(name, help).add_argument("node", metavar="NAME", help="n1, n2, ...")
    for name, (_, help) in [*CONTROLLER_FAULTS.items(), *DATABASE_FAULTS.items()]:
        add(name, help)
    return parser


def _add_options(up: argparse.ArgumentParser) -> None:
    ranges = {"nodes": (1, 99), "cpus": (1, 999), "max_array_size": (2, 4000001)}
    for name, (minimum, maximum) in ranges.items():
        option = f"--{name.replace('_', '-')}"
        parse, default = _number_in(minimum, maximum), getattr(Options, name)
        up.add_argument(option, type=parse, default=default, help=f"default: {default}")
    up.add_argument(
        "--accounting",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start the accounting database for sacct",
    )
    up.add_argument(
        "--namespaces", action="store_true", help="give every node its own host name and network"
    )


def _number_in(minimum: int, maximum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text} is not between {minimum} and {maximum}")
        return int(text)

    number.__name__ = "integer"  # argparse shows the name in error messages
    return number
