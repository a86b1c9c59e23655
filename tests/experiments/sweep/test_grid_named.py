"""YAML of named sweeps, and overrides from the command line."""

import pytest

from fanin.errors import ConfigError


def assigned(cells, *keys):
    return [tuple(cell.assignment.get(key) for key in keys) for cell in cells]


def test_last_axis_varies_fastest(cells_of):
    cells = cells_of(named={"grid": {"activation": ["relu", "tanh"], "seed": [0, 1]}})
    assert assigned(cells, "activation", "seed") == [
        ("relu", 0),
        ("relu", 1),
        ("tanh", 0),
        ("tanh", 1),
    ]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("range(3)", [0, 1, 2]), ("range(1, 3)", [1, 2]), ("range(0,10,5)", [0, 5])],
)
def test_range_gives_integers(cells_of, text, seeds):
    cells = cells_of(named={"grid": {"seed": text}})
    assert [cell.config["seed"] for cell in cells] == seeds


def test_axis_value_may_be_a_mapping(cells_of):
    init = ["zeros", {"init": "uniform", "init.a": -1, "init.b": 1}]
    cells = cells_of(named={"grid": {"init": init}})
    assert [cell.choices["init"] for cell in cells] == ["zeros", "uniform"]
    assert cells[1].config["init"]["a"] == -1.0


def test_axes_move_together(cells_of):
    cells = cells_of(named={"grid": {"model.channels, optim.lr": [[8, 0.1], [16, 0.05]]}})
    pairs = [(c.config["model"]["channels"], c.config["optim"]["lr"]) for c in cells]
    assert pairs == [(8, 0.1), (16, 0.05)]


def test_several_grids_form_one_sweep(cells_of):
    grid = [{"init": ["zeros"], "seed": [0, 1]}, {"init": ["he_normal"], "optim.lr": [0.3]}]
    cells = cells_of(named={"fixed": {"train.steps": 0}, "grid": grid})
    assert assigned(cells, "init", "seed") == [("zeros", 0), ("zeros", 1), ("he_normal", None)]
    assert {cell.config["train"]["steps"] for cell in cells} == {0}


def test_fixed_keys_alone_give_one_cell(cells_of):
    (cell,) = cells_of(named={"question": "?", "fixed": {"optim": "adam", "optim.beta1": 0.8}})
    assert cell.config["optim"]["beta1"] == 0.8


def test_null_is_a_valid_value(cells_of):
    cells = cells_of(named={"grid": {"data.n_train": [None, 100]}})
    assert [cell.config["data"]["n_train"] for cell in cells] == [None, 100]


def test_list_is_a_valid_value(cells_of):
    cells = cells_of(named={"grid": {"probe.steps": [[], [1, 2]]}})
    assert [cell.config["probe"]["steps"] for cell in cells] == [[], [1, 2]]


EXCLUDE = {
    "model": [
        {"model": "plain", "model.depth": 3},
        {"model": "plain", "model.depth": 4},
        "two_layer",
    ],
    "init": ["zeros", "he_normal"],
}


@pytest.mark.parametrize(
    ("exclude", "count"),
    [
        ([{"init": "zeros"}], 3),
        ({"init": "zeros"}, 3),
        ([{"model": "plain", "model.depth": 3}], 4),
        ([{"model": "plain", "model.depth": [3, 4], "init": "zeros"}], 4),
        ([{"init": ["zeros", "he_normal"], "model": "plain"}], 2),
        ([{"optim.lr": 0.1, "init": "zeros"}], 3),  # a default value, not an axis
        ([{"init": "zeros"}, {"model": "two_layer"}], 2),
        ([{"optim.lr": "1e-1", "init": "zeros"}], 3),  # coerced to its type
    ],
)
def test_exclusions_drop_matching_cells(cells_of, exclude, count):
    assert len(cells_of(named={"grid": EXCLUDE, "exclude": exclude})) == count


def test_invalid_combination_can_be_excluded(cells_of):
    named = {
        "grid": {"head": ["none", "softmax"], "loss": ["cross_entropy", "bce"]},
        "exclude": [{"head": "softmax", "loss": "bce"}],
    }
    assert len(cells_of(named=named)) == 3


NAMED = {
    "fixed": {"train.steps": 0},
    "grid": {
        "init": ["zeros", {"init": "normal", "init.std": 0.1}],
        "model": ["two_layer", {"model": "plain", "model.depth": 3}],
        "optim.lr, seed": [[0.1, 0], [0.2, 1]],
    },
}


@pytest.mark.parametrize(
    ("arguments", "count", "holds"),
    [
        (["init=he_normal"], 4, ("init", "_target_", "fanin.inits.HeNormal")),
        (["train.steps=5"], 8, ("train", "steps", 5)),
        (["model.norm=batch"], 8, ("model", "norm", "batch")),
        (["model=plain", "model.depth=4"], 4, ("model", "depth", 4)),
    ],
)
def test_command_line_overrides_the_grid(cells_of, arguments, count, holds):
    cells = cells_of(*arguments, named=NAMED)
    group, key, value = holds
    assert len(cells) == count
    assert {cell.config[group][key] for cell in cells} == {value}


def test_command_line_overrides_keys_within_mappings(cells_of):
    narrow = {"grid": {"size": [{"model.channels": 4, "optim.lr": 0.2}, {"model.channels": 8}]}}
    cells = cells_of("model.channels=6", named=narrow)
    assert [c.config["model"]["channels"] for c in cells] == [6, 6]
    assert len(cells_of("model.channels=6", "optim.lr=0.3", named=narrow)) == 1


def test_command_line_overrides_one_of_joint_keys(cells_of):
    cells = cells_of("optim.lr=0.5", named=NAMED)
    assert len(cells) == 8
    assert {cell.config["seed"] for cell in cells} == {0, 1}
    assert {cell.config["optim"]["lr"] for cell in cells} == {0.5}


def test_command_line_adds_axes(cells_of):
    assert len(cells_of("activation=relu,tanh,gelu", named=NAMED)) == 24


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"gird": {}}, "no key gird; did you mean grid"),
        ({"grid": {"init": ["he_norml"]}}, "did you mean he_normal"),
        ({"grid": {"intt": ["zeros"]}}, "intt: not a config key of a cell.*init"),
        ({"grid": {"optim.lrr": [1]}}, "did you mean lr"),
        ({"grid": {"optim.lr": ["fast"]}}, "optim.lr: .*'fast'"),
        ({"grid": {"optim.lr": [None]}}, "optim.lr: .*null"),
        ({"grid": {"optim.lr": [[0.1]]}}, "optim.lr: "),
        ({"grid": {"optim.lr": [True]}}, "optim.lr: expected a number, got True"),
        ({"grid": {"init": [3]}}, "init=3: expected the name of an option"),
        ({"grid": {"init": [None]}}, "init: expected an option of this group, got None"),
        ({"grid": {"init": [["zeros"]]}}, "expected the name of an option"),
        ({"grid": {"optim.lr": 0.1}}, "optim.lr: expected a list of values"),
        ({"grid": {"optim.lr": []}}, "optim.lr: expected a list of values"),
        ({"grid": {"optim.lr": "0.1,0.2"}}, "expected a list of values"),
        ({"grid": {"optim.lr": {"a": 1}}}, "expected a list of values"),
        ({"grid": {"seed": "range(0)"}}, "seed: .*range"),
        ({"grid": {"seed": "range(0,3,0)"}}, "seed: .*range"),
        ({"grid": {"seed": "range(1,,2)"}}, "seed: .*range"),
        ({"grid": {"seed": "range(1,2,3,4)"}}, "seed: .*range"),
        ({"grid": {"seed": "range(x)"}}, "expected a list of values"),
        ({"grid": {"init": [{"init": "uniform", "init.aa": 1}]}}, "init.aa: .*valid: a, b"),
        ({"grid": {"init, seed": [["zeros"]]}}, "2 keys vary together.*list of 2"),
        ({"grid": {"init, seed": ["zeros"]}}, "2 keys vary together"),
        ({"grid": {"init,": [["zeros", 1]]}}, "not a config key of a cell"),
        ({"grid": "he_normal"}, "expected keys and their values, got 'he_normal'"),
        ({"grid": ["init"]}, "expected keys and their values, got 'init'"),
        ({"grid": {"runner": ["local"]}}, "runner: not a config key of a cell"),
        ({"grid": {"sweep.mode": ["plan"]}}, "not a config key of a cell"),
        ({"grid": {1: [2]}}, "1: not a config key of a cell"),
        ({"fixed": {1: 2}}, "1: not a config key of a cell"),
        ({"fixed": ["init"]}, "sweep.fixed: expected keys and their values"),
        ({"fixed": "zeros"}, "sweep.fixed: expected keys and their values"),
        ({"fixed": {"seed": [0, 1]}}, "seed: "),
        ({"fixed": {"seed": 1}, "grid": {"seed": [0]}}, "seed: two axes of the grid set it"),
        ({"exclude": ["zeros"]}, "sweep.exclude: expected keys and their values"),
        ({"exclude": "zeros"}, "sweep.exclude: expected keys"),
        ({"exclude": [{}]}, "sweep.exclude: expected keys"),
        ({"exclude": [{"intt": "zeros"}]}, "intt: not a config key of a cell"),
        ({"exclude": [{"init": "zeroes"}]}, "did you mean zeros"),
        ({"exclude": [{"optim.lrr": 0.1}]}, "did you mean lr"),
        ({"exclude": [{"runner": "local"}]}, "runner: not a config key of a cell"),
        ({"exclude": [{"model.norm": "bach"}]}, "did you mean batch"),
        ({"exclude": [{"seed": 7}]}, "exclude: no cell of the grid has seed=7"),
        ({"exclude": [{"optim": "adam"}]}, "exclude: no cell of the grid has optim=adam"),
        ({"exclude": [{"init": "he_normal"}]}, "no cells: all are excluded"),
        ({"grid": {"optim.lr": [0.1, 0.1]}}, "same cell twice:\n  optim.lr=0.1\n  optim.lr=0.1"),
        ({"grid": {"optim.lr": [1, 1.0]}}, "same cell twice"),
        ({"grid": [{"seed": [0]}, {"seed": [0]}]}, "same cell twice"),
        ({"grid": {"optim": ["sgd", "adam"], "optim.momentum": [0.9]}}, "with this key: sgd"),
    ],
)
def test_invalid_named_sweep_is_refused(cells_of, named, message):
    with pytest.raises(ConfigError, match=f"(?s){message}") as refused:
        cells_of(named=named)
    assert len(str(refused.value).splitlines()) <= 4
