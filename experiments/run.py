"""Run one cell, or with `-m` a grid of cells: `python -m experiments.run --help`."""

from __future__ import annotations

import sys
from argparse import Namespace

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config.loader import CONF, config_loader
from experiments.errors import ConfigError, FaninError
from experiments.sweep.command import UNUSABLE, check_command, run_command

CONFIG_NAME = "config"


# An absolute path: from a console script Hydra would look for a relative one inside a package.
@hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")
def run_one(config: DictConfig) -> None:
    """One cell: a grid with a single point, kept and skipped like any other."""
    about = HydraConfig.get()
    loader = GlobalHydra.instance().config_loader()
    name = about.job.config_name or CONFIG_NAME
    overrides, hydra_overrides = list(about.overrides.task), list(about.overrides.hydra)
    raise SystemExit(run_command(loader, name, overrides, hydra_overrides))


def main() -> None:
    """Check the command line, then let Hydra take it."""
    arguments = get_args_parser().parse_args()
    if not (arguments.help or arguments.hydra_help or arguments.shell_completion):
        try:
            sys.argv[1:] = checked(arguments, sys.argv[1:])
        except FaninError as error:
            print(error, file=sys.stderr)
            raise SystemExit(UNUSABLE) from None
    run_one()


def checked(arguments: Namespace, argv: list[str]) -> list[str]:
    """The command line with its overrides checked; see `check_command`."""
    if arguments.multirun and (arguments.cfg or arguments.info):
        raise ConfigError("--cfg and --info show one cell: leave out -m")
    loader = config_loader(arguments.config_dir)
    name = arguments.config_name or CONFIG_NAME
    checked = check_command(loader, name, arguments.overrides, arguments.multirun)
    renamed = dict(zip(arguments.overrides, checked, strict=True))
    return [renamed.get(word, word) for word in argv]


if __name__ == "__main__":
    main()
