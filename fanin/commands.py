"""Commands of `fanin`: the module of each, its purpose and examples."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

PROGRAM = "fanin"


@dataclass(frozen=True)
class Command:
    """A command of `fanin`.

    Attributes
    ----------
    module
        Module that runs as `__main__`, as with `python -m`.
    summary
        Purpose in one line.
    examples
        Arguments and purpose of each example.
    first, last
        Arguments that are added before and after those of the user.
    is_hydra
        True if the arguments are Hydra overrides (`key=value`).
    """

    module: str
    summary: str
    examples: tuple[tuple[str, str], ...]
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    is_hydra: bool = False

    @property
    def package(self) -> str:
        """Top-level package of the module."""
        return self.module.partition(".")[0]


COMMANDS_BY_TASK = {
    "Diagnose your own network": {
        "diagnose": Command(
            "fanin.diagnosis",
            "find out why a network does not train",
            (
                ("my_module:make_model --batch batch.pt", "check a model on a saved batch"),
                ("my_module:make_model --batch batch.pt --lr 0.1", "also check the learning rate"),
            ),
        ),
    },
    "Predict a network before training": {
        "predict": Command(
            "analysis.predict",
            "predict every layer of one network",
            (
                ("model=alexnet init=he_normal", "print the verdict and a table"),
                ("init=pytorch_default format=explain", "explain measured / He in factors"),
            ),
            is_hydra=True,
        ),
    },
    "Run experiments": {
        "run": Command(
            "experiments.run",
            "run one cell, or a grid of cells with -m",
            (
                ("optim.lr=0.1", "run one cell"),
                ("-m init=he_normal,xavier_normal 'seed=range(3)'", "run a grid of six cells"),
            ),
            is_hydra=True,
        ),
        "plan": Command(
            "experiments.run",
            "show what `fanin run` would do, and how long it would take",
            (
                ("-m sweep=he_vs_glorot", "plan a named sweep (conf/sweep/)"),
                ("-m init=he_normal,zeros optim.lr=0.1,0.01", "plan a grid of four cells"),
            ),
            first=("--config-name=plan",),
            last=("sweep.mode=plan",),
            is_hydra=True,
        ),
        "status": Command(
            "experiments.status",
            "print the progress of a sweep",
            (("", "list all sweeps"), ("NAME --watch", "follow one sweep until it ends")),
        ),
        "cancel": Command(
            "experiments.cancel",
            "stop a sweep and its Slurm jobs; finished cells are kept",
            (("NAME", "stop results/NAME"), ("NAME --results DIR", "stop DIR/NAME")),
        ),
        "compact": Command(
            "experiments.compact",
            "merge a sweep's part files into fewer, larger ones",
            (
                ("NAME", "merge the files of results/NAME"),
                ("NAME --results DIR", "merge the files of DIR/NAME"),
            ),
        ),
        "drop": Command(
            "experiments.drop",
            "remove cells and their results from a sweep",
            (
                ("NAME optim.lr=0.3", "remove the cells with this learning rate, after a question"),
                ("NAME outcome=error --yes", "remove the failed cells without a question"),
            ),
        ),
        "data": Command(
            "experiments.datasets",
            "download data sets, for example on a login node",
            (
                ("fetch cifar10", "download CIFAR-10 to ~/.cache/fanin"),
                (
                    "fetch mnist cifar10 --root /scratch/data",
                    "download two data sets to another folder",
                ),
            ),
        ),
    },
    "Analyze a sweep": {
        "check": Command(
            "analysis.check",
            "compare each layer's measurements with theory",
            (("NAME", "print a summary"), ("NAME --tables", "add a table for every setting")),
        ),
        "compare": Command(
            "analysis.compare",
            "compare inits (or other settings) by accuracy or loss",
            (
                ("NAME --by init --metric test_accuracy", "compare inits by test accuracy"),
                (
                    "NAME --by init --within activation",
                    "compare them separately for each activation",
                ),
            ),
        ),
        "figures": Command(
            "analysis.figures",
            "draw a sweep's figures as PDF, SVG and PNG",
            (
                ("NAME", "draw the figures of results/NAME"),
                ("NAME --results DIR", "draw those of DIR/NAME"),
            ),
        ),
        "export": Command(
            "analysis.export",
            "write a sweep's tables for other tools",
            (
                ("NAME --to csv", "write one CSV file per table"),
                ("NAME --to tensorboard", "write one TensorBoard run per cell"),
            ),
        ),
        "report": Command(
            "analysis.report",
            "write a sweep's results to one HTML page",
            (("NAME", "write the report"), ("--all", "write an index of all sweeps")),
        ),
    },
}
COMMANDS = {name: command for group in COMMANDS_BY_TASK.values() for name, command in group.items()}


def command_line(name: str, *arguments: str) -> str:
    """Return a command as the user types it.

    >>> command_line("cancel", "my sweep")
    "fanin cancel 'my sweep'"
    """
    return shlex.join([PROGRAM, name, *arguments])


def examples(name: str) -> str:
    """Return the examples of a command, one per line, indented."""
    lines = [
        (f"{PROGRAM} {name} {arguments}".rstrip(), purpose)
        for arguments, purpose in COMMANDS[name].examples
    ]
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"  {line:{width}}   {purpose}" for line, purpose in lines)
