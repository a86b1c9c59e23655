"""Cell ids: equal for equivalent configs, different for all others, and stable."""

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

# Another valid value for each key of the default cell (a tuple is a group and another option).
OTHER_VALUES = {
    "init._target_": ("init", "xavier_normal"),
    "init.fan": "fan_out",
    "init.negative_slope": 0.1,
    "init.per_group": True,
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
    "probe.sums": True,
    "probe.quantities": ["torch.numel"],
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

# Ids of existing results. If a code change breaks one, either the change is a mistake (a changed
# default), or it adds an option. In that case add (its dotted key, the value with the old
# behaviour) to `identity.MIGRATIONS`. These ids only change with `SCHEMA_VERSION`.
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
    "digits-twolayer-relu-orthogonal-s0-795bc738ea7c8785": {
        "init": "orthogonal",
        "init.layers.conv1._target_": "fanin.inits.XavierUniform",
    },
}


@pytest.fixture(scope="module")
def default(catalog: ConfigCatalog) -> dict:
    return catalog.base


def test_every_key_of_the_default_cell_has_another_value(default):
    assert set(OTHER_VALUES) == set(scientific(coerce_cell(default), migrations=()))


@pytest.mark.parametrize("key", [key for key, value in OTHER_VALUES.items() if value is not None])
def test_a_changed_value_changes_the_id(catalog, default, key):
    value = OTHER_VALUES[key]
    if isinstance(value, tuple):
        changed = default | {value[0]: catalog.node(*value)}
    else:
        changed = assign(default, key, value)
    assert fingerprint(coerce_cell(changed)) != fingerprint(coerce_cell(default))


def test_all_flips_differ_from_each_other(catalog, default):
    ids = []
    for key, value in OTHER_VALUES.items():
        if isinstance(value, tuple):
            ids.append(fingerprint(coerce_cell(default | {value[0]: catalog.node(*value)})))
        elif value is not None:
            ids.append(fingerprint(coerce_cell(assign(default, key, value))))
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.root", "/elsewhere"),
        ("data.download", False),
        ("runner.workers", 7),
        ("sweep.name", "my_sweep"),
        ("sweep.mode", "plan"),
        ("engine", "stacked"),
    ],
)
def test_execution_settings_do_not_change_the_id(default, key, value):
    changed = assign(default, key, value)
    assert fingerprint(coerce_cell(changed)) == fingerprint(coerce_cell(default))
    assert not any(name.startswith(EXCLUDED) for name in scientific(changed))


@pytest.mark.parametrize(
    ("key", "value", "equivalent"),
    [("init.gain", 1, 1.0), ("scaling.scale", 2, 2.0), ("seed", 3.0, 3), ("optim.lr", "0.1", 0.1)],
)
def test_notations_of_a_number_have_the_same_id(default, key, value, equivalent):
    first, second = (coerce_cell(assign(default, key, v)) for v in (value, equivalent))
    assert fingerprint(first) == fingerprint(second)


def test_the_order_of_keys_does_not_matter(default):
    config = coerce_cell(default)
    reordered = {key: config[key] for key in reversed(config)}
    reordered["train"] = dict(reversed(config["train"].items()))
    assert cell_id(reordered) == cell_id(config)


def test_an_id_is_unchanged_after_a_json_round_trip(default):
    config = coerce_cell(default)
    assert cell_id(json.loads(json.dumps(config))) == cell_id(config)


def test_coercing_twice_changes_nothing(default):
    config = coerce_cell(default)
    assert coerce_cell(config) == config


def test_epochs_are_ignored_if_steps_are_given(default):
    ten = assign(default, "train.steps", 10)
    assert cell_id(coerce_cell(ten)) == cell_id(coerce_cell(assign(ten, "train.epochs", 99)))


def test_seed_is_the_default_of_the_other_seeds(default):
    config = assign(default, "seed", 1)
    explicit = assign(assign(config, "seed_weights", 1), "seed_data", 1)
    assert coerce_cell(config) == coerce_cell(explicit)
    assert coerce_cell(assign(config, "seed_data", 5))["seed_weights"] == 1


def test_a_mapping_flattens_to_dotted_keys():
    config = {"a": {"b": {"c": 1}, "d": {}}, "e": [1, {"f": 2}]}
    assert dict(flatten(config)) == {"a.b.c": 1, "a.d": {}, "e": [1, {"f": 2}]}


def test_adding_an_option_does_not_change_existing_ids(default):
    old = coerce_cell(default)
    migrations = (*MIGRATIONS, ("optim.nesterov", False), ("init.noise.share", 0.0))
    new = assign(assign(old, "optim.nesterov", False), "init.noise.share", 0.0)
    assert fingerprint(new) != fingerprint(old)
    assert fingerprint(new, migrations) == fingerprint(old)
    changed = assign(new, "optim.nesterov", True)
    assert fingerprint(changed, migrations) != fingerprint(old)


def test_a_migrated_option_of_a_layer_does_not_change_existing_ids(default):
    migrations = (("init.layers.*.noise", 0.0),)
    old, new, changed = (
        assign(default, "init.layers", {"conv1": {"gain": 2.0} | noise})
        for noise in ({}, {"noise": 0.0}, {"noise": 0.1})
    )
    assert fingerprint(new) != fingerprint(old)
    assert fingerprint(new, migrations) == fingerprint(old, migrations)
    assert fingerprint(changed, migrations) != fingerprint(old, migrations)


@pytest.mark.parametrize("golden", GOLDEN)
def test_ids_of_existing_results_are_unchanged(catalog, golden):
    axes = tuple(Axis(key, ({key: value},)) for key, value in GOLDEN[golden].items())
    (cell,) = expand(catalog, [Grid(axes)])
    assert cell.id == golden
