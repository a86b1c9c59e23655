"""Lines after a command: accuracy and loss, best settings, diverged cells, and next commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_loader import ConfigLoader
from sweep_process import TINY

from experiments.sweep.cli import run_command
from experiments.sweep.status.results import N_CLASSES, chance_accuracies, result_lines
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.tables import CellState
from fanin.commands import COMMANDS

FOLDER = SweepFolder(Path("results/s"))


def ok(accuracy: float | None, **metrics: Any) -> CellState:
    return CellState("ok", 1, 2.0, test_accuracy=accuracy, **metrics)


DIVERGED = CellState("diverged", 1, 2.0, "loss is inf\nmore", step=7)


def lines_for(
    cells: list[tuple[dict[str, Any], CellState]], config: dict[str, Any] | None = None
) -> list[str]:
    assignments = {f"cell{n}": assignment for n, (assignment, _) in enumerate(cells)}
    states = {f"cell{n}": state for n, (_, state) in enumerate(cells)}
    chance = chance_accuracies({cell: {"config": config} for cell in states} if config else {})
    return list(result_lines(FOLDER, assignments, states, chance))


def test_one_cell_shows_accuracy_losses_and_a_grid_to_run_next() -> None:
    cell = {"model": "mlp", "optim.lr": 0.1, "seed": 3}
    assert lines_for([(cell, ok(0.9, test_loss=0.5, train_loss=0.25))]) == [
        "  test accuracy 0.9, test loss 0.5, training loss 0.25 (2.0 s)",
        "Next:",
        "  fanin run -m model=mlp optim.lr=0.1 'seed=range(5)'  # run it with five seeds",
    ]


def test_a_diverged_cell_shows_where_it_diverged() -> None:
    assert "  diverged at step 7: loss is inf" in lines_for([({}, DIVERGED)])


def test_a_regression_shows_no_accuracy() -> None:
    assert lines_for([({}, ok(None, test_loss=0.5))])[0] == "  test loss 0.5 (2.0 s)"


def test_the_three_best_settings_are_ordered_by_mean_accuracy() -> None:
    accuracies = {0.1: (0.5, 0.75), 0.2: (0.9, 0.9), 0.3: (0.1, 0.1), 0.4: (0.8, 0.6)}
    cells = [
        ({"optim.lr": lr, "seed": seed}, ok(value))
        for lr, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    assert lines_for(cells)[:4] == [
        "Best of 4 settings, by the highest mean test accuracy over seeds:",
        "  1. lr=0.2  0.9 (2 seeds)",
        "  2. lr=0.4  0.7 (2 seeds)",
        "  3. lr=0.1  0.625 (2 seeds)",
    ]


def test_the_lowest_loss_is_best_without_accuracy() -> None:
    cells = [({"init": name}, ok(None, test_loss=loss)) for name, loss in (("a", 2.0), ("b", 1.0))]
    lines = lines_for(cells)
    assert lines[0] == "Best of 2 settings, by the lowest mean test loss over seeds:"
    assert lines[1].startswith("  1. b")


def test_settings_with_diverged_cells_come_last_and_are_listed() -> None:
    cells = [
        ({"init": "a", "seed": 0}, ok(0.99)),
        ({"init": "a", "seed": 1}, DIVERGED),
        ({"init": "b", "seed": 0}, ok(0.5)),
        ({"init": "b", "seed": 1}, ok(0.5)),
    ]
    lines = lines_for(cells)
    assert lines[1:4] == [
        "  1. b  0.5 (2 seeds)",
        "  2. a  0.99 (1 seed; 1 diverged)",
        "Diverged: 1 of 4 cells: a (1 of 2)",
    ]


def test_many_diverged_settings_are_counted() -> None:
    cells = [({"optim.lr": lr}, DIVERGED) for lr in range(5)]
    (line,) = [line for line in lines_for(cells) if line.startswith("Diverged")]
    assert line == "Diverged: 5 of 5 cells: lr=0 (1 of 1), lr=1 (1 of 1), lr=2 (1 of 1), and 2 " + (
        "other settings"
    )


DIGITS = {
    "data": {"_target_": "experiments.data.Digits", "n_test": 300},
    "train": {"steps": 5},
}


def test_settings_at_chance_accuracy_are_listed() -> None:
    """The bound is 0.1 plus two standard errors of 300 guesses: 0.1346."""
    cells = [
        *(({"init": "a", "seed": seed}, ok(0.1)) for seed in range(3)),
        *(({"init": "b", "seed": seed}, ok(0.135)) for seed in range(2)),
        ({"init": "b", "seed": 2}, ok(0.134)),
        ({"init": "b", "seed": 3}, DIVERGED),
    ]
    line = "4 of 7 cells ended at or below chance accuracy: a (3 of 3), b (1 of 4)"
    assert line in lines_for(cells, DIGITS)
    few_images = {"data": DIGITS["data"] | {"_target_": "experiments.data.Shapes", "n_test": 2}}
    for config in (None, DIGITS | {"train": {"steps": 0}}, DIGITS | few_images):
        assert not any("chance" in line for line in lines_for(cells, config))


def test_chance_accuracy_knows_the_classes_of_every_data_set() -> None:
    from experiments import data

    for name, classes in N_CLASSES.items():
        assert getattr(data, name.rpartition(".")[2])().n_classes == classes
    options = {path.stem for path in (Path(__file__).parents[3] / "conf" / "data").glob("*.yaml")}
    assert len(N_CLASSES) == len(options - {"gaussian", "arrays", "folder", "features"})


@pytest.mark.parametrize(
    ("rows", "command"),
    [
        (
            [{"optim.lr": r, "init": i, "seed": s} for r in (1, 2) for i in "ab" for s in range(3)],
            "fanin compare s --by init --metric test_accuracy",
        ),
        (
            [{"model": m, "seed": s} for m in ("mlp", "plain") for s in (0, 1)],
            "fanin compare s --by model --metric test_accuracy --few-seeds",
        ),
        ([{"init.gain": gain} for gain in (1, 2)], "fanin compare s --by init"),
        ([{"seed": 0}, {"seed": 1}], None),
    ],
)  # fmt: skip
def test_the_next_command_compares_the_axis_of_the_sweep(
    rows: list[dict[str, Any]], command: str | None
) -> None:
    lines = lines_for([(row, ok(0.5)) for row in rows])
    compare = [line for line in lines if "fanin compare" in line]
    assert (command is None and not compare) or (command is not None and command in compare[0])


def test_failed_cells_have_no_results() -> None:
    assert lines_for([({}, CellState("error", 1, 1.0, "ValueError"))]) == []


@pytest.fixture
def output_of(
    loader: ConfigLoader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Return a function that runs a command in this process and returns its lines."""

    def run(*arguments: str) -> list[str]:
        words = [*TINY, "runner=inline", f"sweep.results={tmp_path}", *arguments]
        assert run_command(loader, "config", words) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_a_repeated_command_shows_the_results_again(output_of: Callable[..., list[str]]) -> None:
    first, second = (output_of("init=he_normal,zeros", "seed=range(3)") for _ in range(2))
    (start,) = [n for n, line in enumerate(first) if line.startswith("Best of 2 settings")]
    assert second[-len(first[start:]) :] == first[start:]


def test_the_next_commands_of_a_sweep_run(output_of: Callable[..., list[str]]) -> None:
    """Run the commands, so that a renamed option or an axis that cannot be compared fails here."""
    lines = output_of("optim.lr=0.1,0.2", "seed=range(3)", "init=zeros")
    commands = [line.partition("#")[0].split("fanin ")[1] for line in lines if "fanin " in line]
    assert [command.split()[0] for command in commands] == ["compare", "report"]
    for command in commands:
        name, *arguments = shlex.split(command)
        import_module(f"{COMMANDS[name].module}.__main__").main(arguments)
