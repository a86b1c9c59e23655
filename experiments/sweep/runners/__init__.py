"""Where packs run: in this process, or in a pool of workers on this machine."""

from experiments.sweep.runners.inline import InlineRunner
from experiments.sweep.runners.local import LocalRunner
from experiments.sweep.runners.protocol import Outliving, Runner, Tick

__all__ = ["InlineRunner", "LocalRunner", "Outliving", "Runner", "Tick"]
