"""Debian packages that a cluster needs."""

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
ALL_PACKAGES = [*dict.fromkeys(PACKAGES.values()), PLUGIN]


def install() -> str:
    """Install missing packages with apt-get."""
    missing = [package for package in ALL_PACKAGES if not _is_installed(package)]
    if not missing:
        return "all packages are installed"
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise UsageError(f"needs root; run: sudo {' '.join(command)}")
    if shutil.which("apt-get") is None:
        names = ", ".join(missing)
        raise UsageError(
            f"apt-get not found; install the equivalents of the Debian packages {names}"
        )
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        if subprocess.run(step, env=env).returncode:
            raise ClusterError(f"{' '.join(step)} failed")
    return f"installed {', '.join(missing)}"


def check_requirements(accounting: bool, namespaces: bool) -> None:
    """Raise UsageError if this user is not root or a required program is missing."""
    if os.geteuid() != 0:
        raise UsageError("up needs root, because slurmd runs jobs as other users; run it with sudo")
    needed = ["munged", "slurmctld", "slurmd"]
    needed += ["mariadbd", "slurmdbd"] if accounting else []
    needed += ["ip"] if namespaces else []
    for program in needed:
        if shutil.which(program, path=PATH) is None:
            raise UsageError(
                f"{program} is not installed; run: sudo slurm/testcluster install "
                f"(Debian package {PACKAGES[program]})"
            )


def _is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "-W", "-f=${Status}", package]
    output = subprocess.run(query, capture_output=True, text=True).stdout
    return output.endswith("ok installed")
