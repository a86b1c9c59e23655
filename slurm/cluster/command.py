"""The command line of `slurm/testcluster`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from . import faults
from .layout import ClusterError, Layout, Options, Settings, layout_of, locked
from .lifecycle import bring_up, export_line, require_up, start_node, status, take_down
from .packages import install

NodeFault = Callable[[Layout, Settings, str], str]

NODE_FAULTS: dict[str, tuple[NodeFault, str]] = {
    "kill-node": (faults.kill_node, "a power cut at one node"),
    "start-node": (start_node, "start a killed node, wait until it takes jobs"),
    "cut-node": (faults.cut_node, "pull a node's network cable (needs up --namespaces)"),
    "join-node": (faults.join_node, "plug it in again, wait until the node takes jobs"),
}
CONTROLLER_FAULTS: dict[str, tuple[Callable[[Layout], str], str]] = {
    "stop-controller": (faults.stop_controller, "end slurmctld cleanly"),
    "kill-controller": (faults.kill_controller, "end slurmctld with SIGKILL"),
    "start-controller": (faults.start_controller, "start it again, wait until it answers"),
    "restart-controller": (faults.restart_controller, "kill-controller and start-controller"),
}
DATABASE_FAULTS: dict[str, tuple[Callable[[Layout, Settings], str], str]] = {
    "stop-database": (faults.stop_database, "end slurmdbd: sacct gets no answers"),
    "start-database": (faults.start_database, "start it again, wait until it answers"),
}


def main(words: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = _parser().parse_args(words)
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
    layout = layout_of(arguments.folder)
    if command == "env":
        require_up(layout)
        return export_line(layout)
    if command == "status":
        return status(layout)
    if command == "down" and not layout.folder.exists():
        return "nothing was up"
    if command not in {"up", "down"}:
        require_up(layout)
    with locked(layout):
        return _change(arguments, layout)


def _change(arguments: argparse.Namespace, layout: Layout) -> str:
    command = arguments.command
    if command == "up":
        names = Options.__dataclass_fields__
        options = Options(**{name: getattr(arguments, name) for name in names})
        return f"{bring_up(layout, options)}\n{export_line(layout)}"
    if command == "down":
        return take_down(layout)
    settings = require_up(layout)
    if command in NODE_FAULTS:
        return NODE_FAULTS[command][0](layout, settings, arguments.node)
    if command in DATABASE_FAULTS:
        return DATABASE_FAULTS[command][0](layout, settings)
    return CONTROLLER_FAULTS[command][0](layout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slurm/testcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        default = os.environ.get("FANIN_SLURM", "/tmp/fanin-slurm")
        command.add_argument("--folder", default=default, help="default: %(default)s")
        return command

    add("install", "install the Debian packages that are missing")
    _add_options(add("up", "start a cluster and wait until its nodes are idle"))
    add("down", "end every process of the cluster and remove its state")
    add("status", "which daemons run, and how the nodes are")
    add("env", "print the line that points a shell's Slurm commands at the cluster")
    for name, (_, help) in NODE_FAULTS.items():
        add(name, help).add_argument("node", metavar="NAME", help="n1, n2, ...")
    for name, (_, help) in [*CONTROLLER_FAULTS.items(), *DATABASE_FAULTS.items()]:
        add(name, help)
    return parser


def _add_options(up: argparse.ArgumentParser) -> None:
    limits = {"nodes": (1, 99), "cpus": (1, 999), "max_array_size": (2, 4000001)}
    for name, (least, most) in limits.items():
        option = f"--{name.replace('_', '-')}"
        kind, default = _between(least, most), getattr(Options, name)
        up.add_argument(option, type=kind, default=default, help=f"default: {default}")
    truth = argparse.BooleanOptionalAction
    up.add_argument("--accounting", action=truth, default=True, help="sacct and its database")
    up.add_argument("--namespaces", action="store_true", help="nodes as hosts of their own")


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return int(text)

    number.__name__ = "whole number"
    return number
