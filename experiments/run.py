"""Run one cell, or a grid of cells with `-m`: `fanin run --help`."""

from __future__ import annotations

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config.groups import CONF
from experiments.sweep.cli import check_argv, exit_if_finished, run_command

CONFIG_NAME = "config"


# The path is absolute because in a console script Hydra resolves a relative one inside a package.
@hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")
def run_one(config: DictConfig) -> None:
    """Run one cell as a grid with a single point."""
    hydra_config = HydraConfig.get()
    loader = GlobalHydra.instance().config_loader()
    name = hydra_config.job.config_name or CONFIG_NAME
    overrides = list(hydra_config.overrides.task)
    hydra_overrides = list(hydra_config.overrides.hydra)
    raise SystemExit(run_command(loader, name, overrides, hydra_overrides))


def main() -> None:
    """Check the command line, then pass it to Hydra unless all of its cells are done."""
    command = check_argv(CONFIG_NAME)
    if command is not None:
        exit_if_finished(command)
    run_one()


if __name__ == "__main__":
    main()
