"""Layout of a cluster's folder, which holds its configuration, state and logs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_SOCKET_PATH = 107  # sizeof(sockaddr_un.sun_path) minus the final zero
LONGEST_SOCKET = (
    "run/n99/n99_99999999.4294967291"  # of a batch step, in the spool folder of its node
)


class ClusterError(Exception):
    """A command failed."""

    status = 1


class UsageError(ClusterError):
    """The command cannot work here: a requirement is missing or an argument is wrong."""

    status = 2


@dataclass(frozen=True)
class Options:
    """Options of `up`."""

    nodes: int = 3
    cpus: int = 2
    accounting: bool = True
    namespaces: bool = False
    max_array_size: int = 1001

    def __str__(self) -> str:
        options = [f"--nodes {self.nodes} --cpus {self.cpus}"]
        options += ["--accounting" if self.accounting else "--no-accounting"]
        options += ["--namespaces"] if self.namespaces else []
        return " ".join([*options, f"--max-array-size {self.max_array_size}"])


@dataclass(frozen=True)
class Settings:
    """Options, ports and subnet of a running cluster."""

    options: Options
    controller_port: int
    database_port: int
    node_ports: list[int]
    subnet: str | None  # "10.77.3" with namespaces

    @property
    def node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.options.nodes + 1)]


@dataclass(frozen=True)
class Layout:
    """Paths in a cluster's folder."""

    folder: Path

    @property
    def tag(self) -> str:
        """Six hexadecimal digits that identify this folder on the machine."""
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]

    @property
    def cluster_name(self) -> str:
        return f"fanin{self.tag}"

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def munge_socket(self) -> Path:
        return self.run / "munge.socket"

    @property
    def mysql_socket(self) -> Path:
        return self.run / "mysql.socket"

    @property
    def hosts(self) -> Path:
        return self.folder / "etc" / "hosts"

    @property
    def _settings(self) -> Path:
        return self.folder / "cluster.json"

    def save(self, settings: Settings) -> None:
        self._settings.write_text(json.dumps(asdict(settings), indent=1) + "\n")

    def load(self) -> Settings | None:
        """Read the settings of this folder's cluster; None if it is not running."""
        if not self._settings.exists():
            return None
        fields = json.loads(self._settings.read_text())
        return Settings(**(fields | {"options": Options(**fields["options"])}))

    def is_cluster_folder(self) -> bool:
        """Return True if the folder holds a cluster or only logs, so that it may be used."""
        return self._settings.exists() or {entry.name for entry in self.folder.iterdir()} <= {"log"}


def cluster_layout(folder: str) -> Layout:
    """Return the layout of a folder; raise UsageError if Slurm cannot use this path."""
    path = Path(folder).resolve()
    if not re.fullmatch(r"[\w./-]+", str(path), re.ASCII):
        raise UsageError(f"{path}: slurm.conf allows only letters, digits and . _ - / in a path")
    longest = len(str(path / LONGEST_SOCKET))
    if longest > MAX_SOCKET_PATH:
        maximum = MAX_SOCKET_PATH - len(LONGEST_SOCKET) - 1
        raise UsageError(
            f"{path}: {len(str(path))} characters are too long for the path of a socket; "
            f"use a folder with at most {maximum} characters"
        )
    if path.exists() and not (path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
        raise UsageError(f"{path}: not a folder that this user can read")
    return Layout(path)


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold a lock, so that only one testcluster command at a time changes this cluster."""
    layout.folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(layout.folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
