"""TCP ports that nobody uses."""

from __future__ import annotations

import random
import socket


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
