"""The Debian packages that a cluster is made of."""

from __future__ import annotations

import os
import shutil
import subprocess

from .daemons import PATH
from .layout import ClusterError, UsageError

PACKAGES = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "ip": "iproute2",
}
PLUGIN = "slurm-wlm-mysql-plugin"
EVERYTHING = [*dict.fromkeys(PACKAGES.values()), PLUGIN]


def install() -> str:
    """Install what is missing, with apt-get."""
    missing = [package for package in EVERYTHING if not _has(package)]
    if not missing:
        return "all packages are installed"
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise UsageError(f"needs root; type: sudo {' '.join(command)}")
    if shutil.which("apt-get") is None:
        names = ", ".join(missing)
        raise UsageError(f"no apt-get here; install what Debian calls {names}")
    for one in (["apt-get", "update"], command):
        if subprocess.run(one, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}).returncode:
            raise ClusterError(f"{' '.join(one)} failed")
    return f"installed {', '.join(missing)}"


def require(accounting: bool, namespaces: bool) -> None:
    """Refuse to go on when a program that the cluster needs is missing."""
    if os.geteuid() != 0:
        raise UsageError("up needs root, for slurmd runs jobs as other users; type: sudo ...")
    needed = ["munged", "slurmctld", "slurmd"]
    needed += ["mariadbd", "slurmdbd"] if accounting else []
    needed += ["ip"] if namespaces else []
    for program in needed:
        if shutil.which(program, path=PATH) is None:
            raise UsageError(
                f"{program} is not installed; type: sudo slurm/testcluster install "
                f"(Debian's package {PACKAGES[program]})"
            )


def _has(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "-W", "-f=${Status}", package]
    answer = subprocess.run(query, capture_output=True, text=True).stdout
    return answer.endswith("ok installed")
