"""Where packs run: in this process, or in a pool of workers on this machine."""

from experiments.sweep.runner.inline import InlineRunner
from experiments.sweep.runner.local import LocalRunner
from experiments.sweep.runner.protocol import Outliving, Runner, Tick

__all__ = ["InlineRunner", "LocalRunner", "Outliving", "Runner", "Tick"]
