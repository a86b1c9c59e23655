"""Nodes as hosts of their own: a bridge, and for each node a network namespace and a link."""

from __future__ import annotations

import json
import shutil
import subprocess

from .config import node_address
from .layout import ClusterError, Layout, Settings, UsageError


def free_subnet() -> str:
    """Find a 10.77.x that no interface of this machine uses."""
    if shutil.which("ip") is None:
        raise UsageError("--namespaces needs the ip command: apt-get install iproute2")
    used = {
        address["local"].rpartition(".")[0]
        for link in json.loads(_ip("-json", "-4", "address"))
        for address in link.get("addr_info", [])
    }
    return next(subnet for x in range(256) if (subnet := f"10.77.{x}") not in used)


def connect(layout: Layout, settings: Settings) -> None:
    """Make the bridge and every node's namespace."""
    bridge = _bridge(layout)
    lines = [
        f"link add {bridge} type bridge",
        f"address add {settings.subnet}.1/24 dev {bridge}",
        f"link set {bridge} up",
    ]
    for node in settings.node_names:
        link = link_name(layout, node)
        _ip("netns", "add", link)
        lines += [
            f"link add {link} type veth peer name eth0 netns {link}",
            f"link set {link} master {bridge} up",
        ]
    _ip("-batch", "-", lines=lines)
    for node in settings.node_names:
        lines = [
            "link set lo up",
            f"address add {node_address(settings, node)}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {settings.subnet}.1",
        ]
        _ip("-netns", link_name(layout, node), "-batch", "-", lines=lines)


def disconnect(layout: Layout) -> None:
    """Remove this cluster's links and namespaces, as many as there are."""
    if shutil.which("ip") is None:
        return
    links = [link["ifname"] for link in json.loads(_ip("-json", "link"))]
    spaces = [space["name"] for space in json.loads(_ip("-json", "netns", "list") or "[]")]
    for name in links:
        if name.startswith(_prefix(layout)):
            _ip("link", "delete", name)
    for name in spaces:
        if name.startswith(_prefix(layout)):
            _ip("netns", "delete", name)


def set_link(layout: Layout, node: str, state: str) -> None:
    """Plug a node's cable in ("up") or pull it ("down")."""
    _ip("link", "set", link_name(layout, node), state)


def inside(layout: Layout, node: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """Make a command run as if on a host that has the node's name.

    Not by `ip netns exec`: that hides /sys/fs/cgroup, and slurmd dies.
    """
    script = f'hostname {node} && mount --bind {layout.hosts} /etc/hosts && exec "$@"'
    space = f"--net=/run/netns/{link_name(layout, node)}"
    return ("nsenter", space, "unshare", "--uts", "--mount", "sh", "-c", script, "sh", *command)


def link_name(layout: Layout, node: str) -> str:
    """Name a node's link and namespace; an interface's name has at most 15 characters."""
    return f"{_prefix(layout)}{node}"


def _prefix(layout: Layout) -> str:
    return f"fs{layout.tag}-"


def _bridge(layout: Layout) -> str:
    return f"{_prefix(layout)}br"


def _ip(*arguments: str, lines: list[str] | None = None) -> str:
    text = "".join(f"{line}\n" for line in lines or [])
    done = subprocess.run(["ip", *arguments], input=text, capture_output=True, text=True)
    if done.returncode:
        words = " ".join(arguments)
        raise ClusterError(f"ip {words}: {done.stderr.strip()} (--namespaces needs CAP_NET_ADMIN)")
    return done.stdout
