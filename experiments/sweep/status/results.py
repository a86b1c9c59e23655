"""Results of a command: accuracy and loss, best settings, diverged cells, and what to type next."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.config.groups import SEEDS
from experiments.sweep.differences import ABSENT, full_label, short_labels, varying_keys
from experiments.sweep.status.format import duration, plural
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import DONE, CellState
from fanin.commands import command_line

METRICS = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "train_loss": "training loss",
}
MAX_SHOWN = 3  # best settings, and settings with diverged cells
MIN_SEEDS = 3  # `fanin compare` ranks strategies with fewer seeds only with --few-seeds
TUNED = "optim.lr"  # axis that `fanin compare` tunes by default
MORE_SEEDS = "seed=range(5)"

# Importing the data sets would load torch, which takes seconds.
N_CLASSES = {
    "experiments.data.Cifar10": 10,
    "experiments.data.Cifar100": 100,
    "experiments.data.Digits": 10,
    "experiments.data.FashionMnist": 10,
    "experiments.data.Mnist": 10,
    "experiments.data.Shapes": 2,
}
# A network with a constant prediction counts as chance: with MNIST it scores up to 0.1135.
CHANCE_STANDARD_ERRORS = 2
DEFAULT_TEST_IMAGES = 1000

Assignments = Mapping[str, Mapping[str, Any]]
"""Keys that the command or the named sweep set, by cell id."""


@dataclass(frozen=True)
class SettingResult:
    """Cells that differ only in seeds.

    `scores` are those of the cells that did not diverge. `n_chance` of these cells have a test
    accuracy at or below chance.
    """

    label: str
    scores: Sequence[float]
    n_cells: int
    n_diverged: int
    n_chance: int = 0


def result_lines(
    folder: SweepFolder,
    assignments: Assignments,
    states: Mapping[str, CellState],
    chance: Mapping[str, float] = {},
) -> Iterator[str]:
    """Yield the results of finished cells, and the next commands.

    Parameters
    ----------
    folder
        Folder of the sweep.
    assignments
        Assignments of the cells.
    states
        Latest attempts of the cells; those that are not done are left out.
    chance
        Output of `chance_accuracies`.
    """
    done = {key: state for key, state in states.items() if state.outcome in DONE}
    if not done:
        return
    shown = {cell: assignments.get(cell, {}) for cell in done}
    if len(done) == 1:
        ((cell_id, state),) = done.items()
        yield from cell_lines(state)
        yield from _next_lines(single_cell_commands(folder, shown[cell_id]))
        return
    metric = best_metric(done)
    settings = group_by_setting(shown, done, metric, chance)
    if metric is not None:
        yield from best_lines(settings, metric)
    yield from diverged_lines(settings)
    yield from chance_lines(settings)
    yield from _next_lines(sweep_commands(folder, shown, metric))


def chance_accuracies(plan: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the largest accuracy that counts as chance, for each cell that trains a classifier.

    It is 1 / classes plus two standard errors of the accuracy of guessing on the test images.

    Parameters
    ----------
    plan
        Plan records by cell id. Cells on data of other classes than fanin's are left out.
    """
    bounds = {}
    for cell, record in plan.items():
        data = record["config"]["data"]
        classes = N_CLASSES.get(data["_target_"])
        if data.get("task") == "classification":
            classes = data.get("classes")
        if classes and record["config"]["train"]["steps"] != 0:
            n_images = data["n_test"] or DEFAULT_TEST_IMAGES
            share = 1 / classes
            error = math.sqrt(share * (1 - share) / n_images)
            bound = share + CHANCE_STANDARD_ERRORS * error
            if bound < 1:  # with very few test images, any accuracy may be chance
                bounds[cell] = bound
    return bounds


def cell_lines(state: CellState) -> Iterator[str]:
    """Yield accuracy, loss and time of a cell, and where it diverged."""
    values = {name: getattr(state, key) for key, name in METRICS.items()}
    parts = [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
    if parts:
        time = f" ({duration(state.seconds)})" if state.seconds > 0 else ""
        yield f"  {', '.join(parts)}{time}"
    if state.outcome == "diverged":
        step = "" if state.step is None else f" at step {state.step}"
        reason = f": {state.reason.partition(chr(10))[0]}" if state.reason else ""
        yield f"  diverged{step}{reason}"


def best_metric(states: Mapping[str, CellState]) -> str | None:
    """Return the preferred metric among those that the cells have; None without training."""
    return next(
        (key for key in METRICS if any(getattr(s, key) is not None for s in states.values())), None
    )


def group_by_setting(
    assignments: Assignments,
    states: Mapping[str, CellState],
    metric: str | None,
    chance: Mapping[str, float] = {},
) -> list[SettingResult]:
    """Group cells that differ only in seeds, in the order of the plan."""
    unseeded = {
        cell: {key: value for key, value in row.items() if key not in SEEDS}
        for cell, row in assignments.items()
    }
    keys = varying_keys([*unseeded.values()], missing=ABSENT)
    labels = short_labels(unseeded)
    groups: dict[str, list[str]] = {}
    for cell, row in unseeded.items():
        values = [row.get(key, ABSENT) for key in keys]
        groups.setdefault(json.dumps(values, default=str), []).append(cell)
    settings = []
    for cells in groups.values():
        outcomes = [states[cell] for cell in cells]
        ok = [state for state in outcomes if state.outcome == "ok"]
        scores = [getattr(state, metric) for state in ok] if metric is not None else []
        settings.append(
            SettingResult(
                labels[cells[0]] if keys else "all cells",
                [score for score in scores if score is not None],
                len(cells),
                sum(state.outcome == "diverged" for state in outcomes),
                sum(_is_chance(states[cell], chance.get(cell)) for cell in cells),
            )
        )
    return settings


def _is_chance(state: CellState, bound: float | None) -> bool:
    if state.outcome != "ok" or bound is None or state.test_accuracy is None:
        return False
    return state.test_accuracy <= bound


def best_lines(settings: Sequence[SettingResult], metric: str) -> Iterator[str]:
    """Yield the best settings by the mean over seeds; those with diverged cells come last."""
    sign = -1 if metric == "test_accuracy" else 1
    scored = [setting for setting in settings if setting.scores]
    scored.sort(key=lambda s: (s.n_diverged > 0, sign * statistics.mean(s.scores)))
    best = scored[:MAX_SHOWN]
    if not best:
        return
    direction = "highest" if metric == "test_accuracy" else "lowest"
    title = f"Best of {len(settings)} settings" if len(settings) > 1 else "Result"
    yield f"{title}, by the {direction} mean {METRICS[metric]} over seeds:"
    width = max(len(setting.label) for setting in best)
    for rank, setting in enumerate(best, start=1):
        seeds = plural(len(setting.scores), "seed")
        diverged = f"; {setting.n_diverged} diverged" if setting.n_diverged else ""
        mean = statistics.mean(setting.scores)
        yield f"  {rank}. {setting.label:{width}}  {mean:.4g} ({seeds}{diverged})"


def diverged_lines(settings: Sequence[SettingResult]) -> Iterator[str]:
    """Yield the settings with diverged cells, those with the most first."""
    yield from _counted("Diverged: {}", settings, [setting.n_diverged for setting in settings])


def chance_lines(settings: Sequence[SettingResult]) -> Iterator[str]:
    """Yield the settings with cells at or below chance accuracy, those with the most first."""
    title = "{} ended at or below chance accuracy"
    yield from _counted(title, settings, [setting.n_chance for setting in settings])


def _counted(title: str, settings: Sequence[SettingResult], counts: Sequence[int]) -> Iterator[str]:
    """Yield the settings with a count above 0 in one line, the largest counts first."""
    pairs = [(s, count) for s, count in zip(settings, counts, strict=True) if count]
    if not pairs:
        return
    pairs.sort(key=lambda pair: -pair[1])
    total = sum(setting.n_cells for setting in settings)
    parts = [f"{s.label} ({count} of {s.n_cells})" for s, count in pairs[:MAX_SHOWN]]
    if (more := len(pairs) - MAX_SHOWN) > 0:
        parts.append(f"and {plural(more, 'other setting')}")
    cells = f"{sum(counts)} of {plural(total, 'cell')}"
    yield f"{title.format(cells)}: {', '.join(parts)}"


def single_cell_commands(
    folder: SweepFolder, assignment: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield commands to type after one cell, and their purposes."""
    yield from _check_commands(folder)
    kept = {key: value for key, value in assignment.items() if key not in SEEDS}
    if all(value is None or isinstance(value, str | int | float) for value in kept.values()):
        overrides = full_label(kept).split(" ") if kept else []
        yield command_line("run", "-m", *overrides, MORE_SEEDS), "run it with five seeds"


def sweep_commands(
    folder: SweepFolder, assignments: Assignments, metric: str | None
) -> Iterator[tuple[str, str]]:
    """Yield commands to type after a sweep, and their purposes."""
    axis = comparison_axis([*assignments.values()])
    if axis is not None and metric is not None:
        n_seeds = len({json.dumps([row.get(s) for s in SEEDS]) for row in assignments.values()})
        options = ["--by", axis, "--metric", metric]
        options += ["--tune", "none"] if axis == TUNED else []
        options += ["--few-seeds"] if n_seeds < MIN_SEEDS else []
        command = command_line("compare", folder.argument, *options)
        yield command, f"compare the values of {axis}"
    yield from _check_commands(folder)
    yield command_line("report", folder.argument), "write all results to one HTML page"


def comparison_axis(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the axis to compare: `init` if it varies, else the first axis that is not a seed.

    >>> comparison_axis([{"optim.lr": 0.1, "init": "he"}, {"optim.lr": 0.2, "init": "zeros"}])
    'init'
    >>> comparison_axis([{"optim.lr": 0.1, "seed": 0}, {"optim.lr": 0.2, "seed": 0}])
    'optim.lr'
    """
    keys = [key for key in varying_keys(rows, missing=ABSENT) if key not in SEEDS]
    groups = [key for key in keys if "." not in key]
    if any(key.partition(".")[0] == "init" for key in keys):
        return "init"
    return next(
        (key.partition(".")[0] if key.partition(".")[0] in groups else key for key in keys), None
    )


def _check_commands(folder: SweepFolder) -> Iterator[tuple[str, str]]:
    if any(folder.table("layers").glob("*.parquet")):
        yield command_line("check", folder.argument), "compare each layer with theory"


def _next_lines(commands: Iterator[tuple[str, str]]) -> Iterator[str]:
    pairs = list(commands)
    if not pairs:
        return
    width = max(len(command) for command, _ in pairs)
    yield "Next:"
    for command, purpose in pairs:
        yield f"  {command:{width}}  # {purpose}"
