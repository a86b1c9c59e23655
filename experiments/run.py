"""Run one cell, or with `-m` a grid of cells: `python -m experiments.run --help`."""

from __future__ import annotations

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config.groups import CONF
from experiments.sweep.cli import check_argv, run_command

CONFIG_NAME = "config"


# An absolute path: from a console script Hydra would look for a relative one inside a package.
@hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")
def run_one(config: DictConfig) -> None:
    """Run one cell: a grid with a single point, kept and skipped like any other."""
    about = HydraConfig.get()
    loader = GlobalHydra.instance().config_loader()
    name = about.job.config_name or CONFIG_NAME
    overrides, hydra_overrides = list(about.overrides.task), list(about.overrides.hydra)
    raise SystemExit(run_command(loader, name, overrides, hydra_overrides))


def main() -> None:
    """Check the command line, then let Hydra take it."""
    check_argv(CONFIG_NAME)
    run_one()


if __name__ == "__main__":
    main()
