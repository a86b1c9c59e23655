"""Which configurations are one cell, and which are two."""

import json

import pytest

from experiments.config.catalog import ConfigCatalog, assign
from experiments.config.identity import (
    EXCLUDED,
    MIGRATIONS,
    cell_id,
    fingerprint,
    flatten,
    scientific,
)
from experiments.schema import coerce_cell
from experiments.sweep.expand import expand
from experiments.sweep.grid import Axis, Grid

# Another valid value for every leaf of the default cell (`group=option` stands for its target).
FLIPS = {
    "init._target_": ("init", "xavier_normal"),
    "init.fan": "fan_out",
    "init.negative_slope": 0.1,
    "init.gain": 2.0,
    "init.bias": 0.0,
    "init.layers": {"conv1": {"gain": 2.0}},
    "data._target_": ("data", "shapes"),
    "data.n_train": 100,
    "data.n_test": 100,
    "data.side": 14,
    "data.seed": 1,
    "data.corrupt.share": 0.5,
    "data.corrupt.kind": "missing",
    "scaling._target_": ("scaling", "unit"),
    "scaling.scale": 2.0,
    "scaling.shift": 1.0,
    "clip._target_": ("clip", "norm"),
    "clip.bias": "mean_of_weights",
    "clip.factors": {"conv1": 0.5},
    "model._target_": ("model", "plain"),
    "model.channels": 17,
    "model.kernel_size": 5,
    "model.pool": False,
    "model.padding_mode": "circular",
    "model.norm": "batch",
    "activation._target_": ("activation", "tanh"),
    "head._target_": None,  # the same class for all heads
    "head.name": "softmax",
    "loss._target_": None,
    "loss.name": "mse",
    "loss.form": "naive",
    "optim._target_": ("optim", "adam"),
    "optim.lr": 0.2,
    "optim.momentum": 0.9,
    "optim.weight_decay": 0.1,
    "schedule._target_": ("schedule", "cosine"),
    "probe._target_": None,
    "probe.draws": 9,
    "probe.images": [0, 1],
    "probe.size": 33,
    "probe.steps": [1],
    "probe.histograms": True,
    "probe.bins": 65,
    "probe.sharpness": True,
    "probe.layer_sharpness": True,
    "probe.tensors": ["act"],
    "train._target_": None,
    "train.steps": 10,
    "train.epochs": 4.0,
    "train.batch_size": 65,
    "train.dtype": "float64",
    "train.evaluate_every": 5,
    "train.loss_bound": 1e6,
    "seed": 1,
    "seed_weights": 1,
    "seed_data": 1,
}

# Ids that results out there bear. Where a change of the code breaks one, either the change is a
# mistake (a default moved), or it adds an option: then put (its dotted key, the value that means
# what was there before) into `identity.MIGRATIONS`, and these stay as they are. Ids change only
# with `SCHEMA_VERSION`.
GOLDEN = {
    "digits-twolayer-relu-henormal-s0-dfcf1f8fa6286dc7": {},
    "mnist-plain-tanh-normal-s3-0cec6b754a314eca": {
        "data": "mnist",
        "model": "plain",
        "activation": "tanh",
        "init": "normal",
        "init.std": 0.1,
        "optim": "adam",
        "seed": 3,
    },
    "cifar10-alexnet-gelu-lsuv-s0-bbd12ecb87eb26e5": {
        "data": "cifar10",
        "model": "alexnet",
        "activation": "gelu",
        "init": "lsuv",
        "init.layers.conv1.gain": 0.5,
        "clip": "norm",
        "schedule": "cosine",
        "probe": "none",
        "train.steps": 100,
    },
}


@pytest.fixture(scope="module")
def default(space: ConfigCatalog) -> dict:
    return space.base


def test_every_leaf_of_the_default_cell_has_a_flip(default):
    assert set(FLIPS) == set(scientific(coerce_cell(default), migrations=()))


@pytest.mark.parametrize("key", [key for key, value in FLIPS.items() if value is not None])
def test_a_changed_value_is_another_cell(space, default, key):
    value = FLIPS[key]
    if isinstance(value, tuple):
        changed = default | {value[0]: space.node(*value)}
    else:
        changed = assign(default, key, value)
    assert fingerprint(coerce_cell(changed)) != fingerprint(coerce_cell(default))


def test_all_flips_differ_from_each_other(space, default):
    ids = []
    for key, value in FLIPS.items():
        if isinstance(value, tuple):
            ids.append(fingerprint(coerce_cell(default | {value[0]: space.node(*value)})))
        elif value is not None:
            ids.append(fingerprint(coerce_cell(assign(default, key, value))))
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.root", "/elsewhere"),
        ("data.download", False),
        ("runner.workers", 7),
        ("sweep.name", "mine"),
        ("sweep.mode", "plan"),
        ("engine", "stacked"),
    ],
)
def test_where_and_how_a_cell_runs_is_not_what_it_is(default, key, value):
    changed = assign(default, key, value)
    assert fingerprint(coerce_cell(changed)) == fingerprint(coerce_cell(default))
    assert not any(name.startswith(EXCLUDED) for name in scientific(changed))


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [("init.gain", 1, 1.0), ("scaling.scale", 2, 2.0), ("seed", 3.0, 3), ("optim.lr", "0.1", 0.1)],
)
def test_a_number_has_one_id_however_it_is_written(default, key, value, same):
    first, second = (coerce_cell(assign(default, key, v)) for v in (value, same))
    assert fingerprint(first) == fingerprint(second)


def test_the_order_of_keys_does_not_matter(default):
    config = coerce_cell(default)
    reordered = {key: config[key] for key in reversed(config)}
    reordered["train"] = dict(reversed(config["train"].items()))
    assert cell_id(reordered) == cell_id(config)


def test_an_id_survives_json(default):
    config = coerce_cell(default)
    assert cell_id(json.loads(json.dumps(config))) == cell_id(config)


def test_coercing_twice_changes_nothing(default):
    config = coerce_cell(default)
    assert coerce_cell(config) == config


def test_epochs_count_for_nothing_once_steps_are_given(default):
    ten = assign(default, "train.steps", 10)
    assert cell_id(coerce_cell(ten)) == cell_id(coerce_cell(assign(ten, "train.epochs", 99)))


def test_seed_stands_in_for_the_seeds_that_are_not_given(default):
    one = assign(default, "seed", 1)
    spelt = assign(assign(one, "seed_weights", 1), "seed_data", 1)
    assert coerce_cell(one) == coerce_cell(spelt)
    assert coerce_cell(assign(one, "seed_data", 5))["seed_weights"] == 1


def test_a_mapping_flattens_to_dotted_keys():
    config = {"a": {"b": {"c": 1}, "d": {}}, "e": [1, {"f": 2}]}
    assert dict(flatten(config)) == {"a.b.c": 1, "a.d": {}, "e": [1, {"f": 2}]}


def test_an_option_added_later_leaves_old_ids_valid(default):
    old = coerce_cell(default)
    migrations = (*MIGRATIONS, ("optim.nesterov", False), ("init.noise.share", 0.0))
    new = assign(assign(old, "optim.nesterov", False), "init.noise.share", 0.0)
    assert fingerprint(new) != fingerprint(old)
    assert fingerprint(new, migrations) == fingerprint(old)
    used = assign(new, "optim.nesterov", True)
    assert fingerprint(used, migrations) != fingerprint(old)


@pytest.mark.parametrize("golden", GOLDEN)
def test_ids_of_published_cells_stay(space, golden):
    axes = tuple(Axis(key, ({key: value},)) for key, value in GOLDEN[golden].items())
    (cell,) = expand(space, [Grid(axes)])
    assert cell.id == golden
