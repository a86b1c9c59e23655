"""A cell built from single options equals the cell that Hydra composes."""

from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.config.groups import CELL_KEYS
from experiments.schema import coerce_cell

AXES = {
    "data": ["digits", "shapes", "mnist"],
    "scaling": ["raw", "unit", "standardize", "pixel_mean"],
    "model": ["two_layer", "plain"],
    "activation": ["relu", "tanh", "leaky_relu", "gelu"],
    "init": ["he_normal", "xavier_normal", "uniform", "zeros", "he_uniform"],
    "optim": ["sgd", "adam", "adamw"],
    "schedule": ["constant", "cosine"],
    "clip": ["none", "norm", "value"],
    "probe": ["default", "none"],
    "optim.lr": ["0.1", "1e-3", "1", ".5"],
    "optim.weight_decay": ["0", "0.1"],
    "init.gain": ["2", "0.5", "-1.5"],
    "init.bias": ["null", "0.1", "{mean:0.5,std:0.1}"],
    "init.layers.conv1.gain": ["3", "0.25"],
    "init.layers": ["{conv1:{gain:2}}", "{conv1:{bias:1}}"],
    "scaling.scale": ["2", "0.5"],
    "clip.factors.fc1": ["0", "0.5"],
    "data.n_train": ["null", "100", "200"],
    "data.side": ["14", "20"],
    "data.corrupt": ["{share:0.5}", "{kind:missing,share:0.25}"],
    "data.corrupt.kind": ["outlier", "missing"],
    "train": ["{steps:3}", "{steps:5,batch_size:8}"],
    "train.dtype": ["float32", "bfloat16"],
    "train.batch_size": ["8", "16"],
    "model.norm": ["none", "batch", "mean_only"],
    "probe.draws": ["0", "3"],
    "seed": ["0", "7"],
    "seed_data": ["null", "5"],
}


@st.composite
def grids(draw):
    keys = draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=5, unique=True))
    return {
        key: draw(st.lists(st.sampled_from(AXES[key]), min_size=1, max_size=2, unique=True))
        for key in keys
    }


def shared_key(grid: dict) -> bool:
    """Return True if a key and one nested in it are both swept, which may duplicate cells."""
    return any(a != b and b.startswith(f"{a}.") and a not in GROUPS for a in grid for b in grid)


GROUPS = {key for key in AXES if "." not in key} - {"train", "seed", "seed_data"}


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(grid=grids().filter(lambda g: not shared_key(g)), data=st.data())
def test_cell_equals_what_hydra_composes(cells_of, loader, grid, data):
    cells = cells_of(*(f"{key}={','.join(values)}" for key, values in grid.items()))
    size = 1
    for values in grid.values():
        size *= len(values)
    assert len(cells) == size
    assert len({cell.id for cell in cells}) == size
    for index in data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=1)):
        values_of_cell, rest = {}, index
        for key, values in reversed(grid.items()):  # the last axis runs fastest
            rest, digit = divmod(rest, len(values))
            values_of_cell[key] = values[digit]
        arguments = [
            f"{key}={value}" if key in GROUPS else f"++{key}={value}"
            for key, value in reversed(values_of_cell.items())
        ]
        composed = loader.load_configuration("config", arguments, RunMode.RUN)
        expected = {
            key: OmegaConf.to_container(composed[key])
            if OmegaConf.is_config(composed[key])
            else composed[key]
            for key in CELL_KEYS
        }
        assert cells[index].config == coerce_cell(expected)


def test_nested_keys_apply_in_order(cells_of, loader):
    arguments = ["init.layers={conv1:{gain:2}}", "init.layers.conv1.bias=1", "train={steps:4}"]
    (cell,) = cells_of(*arguments, "train.batch_size=8")
    assert cell.config["init"]["layers"] == {"conv1": {"gain": 2.0, "bias": 1.0}}
    assert (cell.config["train"]["steps"], cell.config["train"]["batch_size"]) == (4, 8)
