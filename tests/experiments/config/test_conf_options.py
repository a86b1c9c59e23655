"""What all of conf/ must keep to, so that composing each option once, alone, is sound."""

import re
from pathlib import Path

import pytest
import yaml
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments.config.catalog import CONF, ConfigCatalog
from experiments.config.groups import CELL_KEYS, EXECUTION_GROUPS
from experiments.config.instantiate import instantiate
from experiments.schema import GROUP_TYPES, build_cell, coerce_cell, coerce_group
from experiments.sweep.runners.inline import InlineRunner
from experiments.sweep.runners.pool import LocalRunner
from experiments.sweep.types import Runner

OPTIONS = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name != "sweep")
SWEEPS = sorted(CONF.glob("sweep/*.yaml"))
PRIMARY = sorted(CONF.glob("*.yaml"))
GROUPS = {
    group: sorted(path.stem for path in OPTIONS if path.parent.name == group) for group in CELL_KEYS
}
MOST = max(map(len, GROUPS.values()))
# What each group needs beside it to be a cell that means something.
COMPANIONS = {
    ("head", "sigmoid"): {"loss": "bce"},
    ("head", "tanh"): {"loss": "mse"},
}


def name(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


@pytest.mark.parametrize("path", [*OPTIONS, *SWEEPS, *PRIMARY], ids=name)
def test_no_yaml_looks_at_another_key(path):
    assert "${" not in path.read_text()


@pytest.mark.parametrize("path", [*OPTIONS, *SWEEPS], ids=name)
def test_an_option_stays_in_its_own_group(path):
    text = path.read_text()
    assert not re.search(r"^\s*#\s*@package", text, re.MULTILINE)
    assert "defaults" not in yaml.safe_load(text)


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_an_option_is_a_mapping_with_a_target(path):
    assert "." in yaml.safe_load(path.read_text())["_target_"] or path.stem == "custom"


def test_options_lie_one_folder_deep():
    assert set(CONF.rglob("*.yaml")) == {*OPTIONS, *SWEEPS, *PRIMARY}


def test_every_group_has_a_default(space):
    folders = {path.parent.name for path in [*OPTIONS, *SWEEPS]}
    assert folders == set(space.defaults)
    assert set(CELL_KEYS) <= set(space.base)
    assert {*GROUP_TYPES, "init"} == (folders - set(EXECUTION_GROUPS)) | {"train"}


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_every_option_composes_to_its_yaml_and_the_common_keys(space: ConfigCatalog, path):
    group, option = path.parent.name, path.stem
    node = space.node(group, option)
    written = yaml.safe_load(path.read_text())
    assert {key: node[key] for key in written} == written
    common = yaml.safe_load((CONF / "config.yaml").read_text()).get(group, {})
    assert set(node) == set(written) | set(common)


@pytest.mark.parametrize("turn", range(MOST))
def test_options_composed_alone_are_what_hydra_composes_together(
    loader, space: ConfigCatalog, turn
):
    """Each option takes part at least once, among options that are not the defaults."""
    chosen = {group: names[turn % len(names)] for group, names in GROUPS.items() if names}
    words = [f"{group}={option}" for group, option in chosen.items()]
    together = OmegaConf.to_container(loader.load_configuration("config", words, RunMode.RUN))
    alone = space.base | {group: space.node(group, option) for group, option in chosen.items()}
    assert {key: alone[key] for key in CELL_KEYS} == {key: together[key] for key in CELL_KEYS}


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_every_option_builds(space: ConfigCatalog, path):
    group, option = path.parent.name, path.stem
    if (group, option) == ("init", "custom"):
        pytest.skip("has a target only once the user names one")
    if group == "runner":
        assert isinstance(instantiate(space.node(group, option), group), Runner)
        return
    choices = {group: option} | COMPANIONS.get((group, option), {})
    nodes = {key: space.node(key, chosen) for key, chosen in choices.items()}
    built = build_cell(coerce_cell(space.base | nodes))
    assert built.data.shape[1] >= 7


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_an_options_yaml_already_has_the_declared_types(space: ConfigCatalog, path):
    """Else 1 in one YAML and 1.0 in another would read as different defaults."""
    group, option = path.parent.name, path.stem
    if group == "runner" or option == "custom":
        pytest.skip("no part of a cell by itself")
    node = space.node(group, option)
    coerced = coerce_group(group, node)
    assert {key: repr(coerced[key]) for key in node} == {key: repr(node[key]) for key in node}


def test_runners_build(space: ConfigCatalog):
    assert isinstance(instantiate(space.node("runner", "inline")), InlineRunner)
    assert isinstance(instantiate(space.node("runner", "local")), LocalRunner)
