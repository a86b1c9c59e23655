"""Layout of a cluster: one folder holds a cluster's configuration, state and logs."""

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

SOCKET_PATH_LIMIT = 107  # sizeof(sockaddr_un.sun_path) less its final zero
LONGEST_SOCKET = "run/n99/n99_99999999.4294967291"  # a batch step's, in its node's spool folder


class ClusterError(Exception):
    """The cluster did not do what was asked."""

    status = 1


class UsageError(ClusterError):
    """The request can't work here: something is missing, or has to be typed differently."""

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
        words = [f"--nodes {self.nodes} --cpus {self.cpus}"]
        words += ["--accounting" if self.accounting else "--no-accounting"]
        words += ["--namespaces"] if self.namespaces else []
        return " ".join([*words, f"--max-array-size {self.max_array_size}"])


@dataclass(frozen=True)
class Settings:
    """A cluster as it was brought up: what was asked for, and the addresses it was given."""

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
    """The folder, and the names inside it."""

    folder: Path

    @property
    def tag(self) -> str:
        """Six digits that tell this folder's cluster from any other on the machine."""
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
        """Read how this folder's cluster was brought up; None if it is not up."""
        if not self._settings.exists():
            return None
        fields = json.loads(self._settings.read_text())
        return Settings(**(fields | {"options": Options(**fields["options"])}))

    def is_a_clusters(self) -> bool:
        """Return True if the folder holds nothing else, so that it may be filled and emptied."""
        return self._settings.exists() or {entry.name for entry in self.folder.iterdir()} <= {"log"}


def layout_of(folder: str) -> Layout:
    """Check that a cluster can live in this folder."""
    path = Path(folder).resolve()
    if not re.fullmatch(r"[\w./-]+", str(path), re.ASCII):
        raise UsageError(f"{path}: slurm.conf takes only letters, digits and . _ - / in a folder")
    longest = len(str(path / LONGEST_SOCKET))
    if longest > SOCKET_PATH_LIMIT:
        room = SOCKET_PATH_LIMIT - len(LONGEST_SOCKET) - 1
        raise UsageError(
            f"{path}: {len(str(path))} characters leave no room for a socket's name; "
            f"take a folder of at most {room}"
        )
    if path.exists() and not (path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
        raise UsageError(f"{path}: not a folder this user can read")
    return Layout(path)


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Let only one testcluster command at a time change this folder's cluster."""
    layout.folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(layout.folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
