"""Network namespaces of nodes: a bridge, and for each node a namespace and a link."""

from __future__ import annotations

import json
import shutil
import subprocess

from .config import node_address
from .layout import ClusterError, Layout, Settings, UsageError


def free_subnet() -> str:
    """Return a subnet 10.77.x that no interface of this machine uses."""
    if shutil.which("ip") is None:
        raise UsageError("--namespaces needs the ip command: apt-get install iproute2")
    used = {
        address["local"].rpartition(".")[0]
        for link in json.loads(_ip("-json", "-4", "address"))
        for address in link.get("addr_info", [])
    }
    return next(subnet for x in range(256) if (subnet := f"10.77.{x}") not in used)


def connect(layout: Layout, settings: Settings) -> None:
    """Create the bridge and the namespace of every node."""
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
    """Remove this cluster's links and namespaces."""
    if shutil.which("ip") is None:
        return
    links = [link["ifname"] for link in json.loads(_ip("-json", "link"))]
    namespaces = [space["name"] for space in json.loads(_ip("-json", "netns", "list") or "[]")]
    for name in links:
        if name.startswith(_prefix(layout)):
            _ip("link", "delete", name)
    for name in namespaces:
        if name.startswith(_prefix(layout)):
            _ip("netns", "delete", name)


def set_link(layout: Layout, node: str, state: str) -> None:
    """Connect ("up") or disconnect ("down") a node."""
    _ip("link", "set", link_name(layout, node), state)


def inside(layout: Layout, node: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command that runs in the node's namespace, with the node's host name.

    It does not use `ip netns exec`, which hides /sys/fs/cgroup from slurmd.
    """
    script = f'hostname {node} && mount --bind {layout.hosts} /etc/hosts && exec "$@"'
    namespace = f"--net=/run/netns/{link_name(layout, node)}"
    return ("nsenter", namespace, "unshare", "--uts", "--mount", "sh", "-c", script, "sh", *command)


def link_name(layout: Layout, node: str) -> str:
    """Return the name of a node's link and namespace, at most 15 characters."""
    return f"{_prefix(layout)}{node}"


def _prefix(layout: Layout) -> str:
    return f"fs{layout.tag}-"


def _bridge(layout: Layout) -> str:
    return f"{_prefix(layout)}br"


def _ip(*arguments: str, lines: list[str] | None = None) -> str:
    text = "".join(f"{line}\n" for line in lines or [])
    result = subprocess.run(["ip", *arguments], input=text, capture_output=True, text=True)
    if result.returncode:
        command = " ".join(["ip", *arguments])
        message = result.stderr.strip()
        raise ClusterError(f"{command}: {message} (--namespaces needs CAP_NET_ADMIN)")
    return result.stdout
