"""Hydra sweeper plugin (Hydra 1.3 finds sweepers only in this namespace package)."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

ConfigStore.instance().store(
    name="fanin",
    node={"_target_": "hydra_plugins.fanin.FaninSweeper"},
    group="hydra/sweeper",
    provider="fanin",
)


class FaninSweeper(Sweeper):
    """Sweeper that runs Hydra's `-m` with `experiments.sweep`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store Hydra's config loader and config."""
        self._loader = hydra_context.config_loader
        self._config = config

    def sweep(self, arguments: list[str]) -> None:
        """Run the grid of these overrides and exit with its status."""
        from experiments.sweep.cli import run_command

        hydra_overrides = OmegaConf.to_container(self._config.hydra.overrides.hydra)
        config_name = self._config.hydra.job.config_name
        raise SystemExit(run_command(self._loader, config_name, arguments, hydra_overrides))
