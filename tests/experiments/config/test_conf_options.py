"""Rules for all files in conf/; they make it valid to compose each option only once."""

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
MAX_OPTIONS = max(map(len, GROUPS.values()))
# Options of other groups that an option needs for a valid cell.
REQUIRED_OPTIONS = {
    ("data", "features"): {"loss": "mse", "model": "mlp"},
    ("head", "sigmoid"): {"loss": "bce"},
    ("head", "tanh"): {"loss": "mse"},
}
NEEDS_A_VALUE = [("init", "custom"), ("data", "arrays"), ("data", "folder")]


def name(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


@pytest.mark.parametrize("path", [*OPTIONS, *SWEEPS, *PRIMARY], ids=name)
def test_no_yaml_file_has_interpolations(path):
    assert "${" not in path.read_text()


@pytest.mark.parametrize("path", [*OPTIONS, *SWEEPS], ids=name)
def test_an_option_changes_only_its_own_group(path):
    text = path.read_text()
    assert not re.search(r"^\s*#\s*@package", text, re.MULTILINE)
    assert "defaults" not in yaml.safe_load(text)


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_an_option_is_a_mapping_with_a_target(path):
    assert "." in yaml.safe_load(path.read_text())["_target_"] or path.stem == "custom"


def test_all_options_are_in_group_folders():
    assert set(CONF.rglob("*.yaml")) == {*OPTIONS, *SWEEPS, *PRIMARY}


def test_every_group_has_a_default(catalog):
    folders = {path.parent.name for path in [*OPTIONS, *SWEEPS]}
    assert folders == set(catalog.defaults)
    assert set(CELL_KEYS) <= set(catalog.base)
    assert {*GROUP_TYPES, "init"} == (folders - set(EXECUTION_GROUPS)) | {"train"}


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_every_option_composes_to_its_yaml_and_the_common_keys(catalog: ConfigCatalog, path):
    group, option = path.parent.name, path.stem
    node = catalog.node(group, option)
    written = yaml.safe_load(path.read_text())
    assert {key: node[key] for key in written} == written
    common = yaml.safe_load((CONF / "config.yaml").read_text()).get(group, {})
    assert set(node) == set(written) | set(common)


@pytest.mark.parametrize("index", range(MAX_OPTIONS))
def test_assembled_configs_equal_those_that_hydra_composes(loader, catalog: ConfigCatalog, index):
    """Use each option at least once, in combinations with options that are not defaults."""
    chosen = {group: names[index % len(names)] for group, names in GROUPS.items() if names}
    overrides = [f"{group}={option}" for group, option in chosen.items()]
    config = loader.load_configuration("config", overrides, RunMode.RUN)
    composed = OmegaConf.to_container(config)
    assembled = catalog.base | {
        group: catalog.node(group, option) for group, option in chosen.items()
    }
    assert {key: assembled[key] for key in CELL_KEYS} == {key: composed[key] for key in CELL_KEYS}


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_every_option_can_be_instantiated(catalog: ConfigCatalog, path):
    group, option = path.parent.name, path.stem
    if (group, option) in NEEDS_A_VALUE:
        pytest.skip("the user sets the target or the file")
    if group == "runner":
        assert isinstance(instantiate(catalog.node(group, option), group), Runner)
        return
    choices = {group: option} | REQUIRED_OPTIONS.get((group, option), {})
    nodes = {key: catalog.node(key, chosen) for key, chosen in choices.items()}
    cell = build_cell(coerce_cell(catalog.base | nodes))
    assert cell.data.shape[1] >= 7 or option == "features"  # not images


@pytest.mark.parametrize("path", OPTIONS, ids=name)
def test_the_values_of_an_option_have_the_declared_types(catalog: ConfigCatalog, path):
    """Check that defaults are not written as 1 in one file and as 1.0 in another."""
    group, option = path.parent.name, path.stem
    if group == "runner" or (group, option) in NEEDS_A_VALUE:
        pytest.skip("not part of a cell, or the user sets a value")
    node = catalog.node(group, option)
    coerced = coerce_group(group, node)
    assert {key: repr(coerced[key]) for key in node} == {key: repr(node[key]) for key in node}


def test_runners_can_be_instantiated(catalog: ConfigCatalog):
    assert isinstance(instantiate(catalog.node("runner", "inline")), InlineRunner)
    assert isinstance(instantiate(catalog.node("runner", "local")), LocalRunner)
