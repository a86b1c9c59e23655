"""Expansion of grids: cost, labels, and refused cells."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path

from experiments.config.catalog import CONF, ConfigCatalog, config_loader
from experiments.sweep.cli import compose_catalog
from experiments.sweep.expand import expand
from experiments.sweep.grid import make_grids
from experiments.sweep.overrides import parse_arguments
from fanin.errors import ConfigError

WORDS = [
    "init=he_normal,xavier_normal,normal,uniform,zeros",
    "activation=relu,tanh,gelu,erf,sigmoid",
    "model=two_layer,plain",
    "optim.lr=0.1,0.2,0.3,0.01,0.001",
    "seed=range(8)",
]


def test_thousands_of_cells_read_each_option_once(loader, monkeypatch):
    read = []
    read_option = ConfigCatalog._read_option
    monkeypatch.setattr(
        ConfigCatalog, "_read_option", lambda s, *o: read.append(o) or read_option(s, *o)
    )
    cells = expand(
        ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, WORDS), None)
    )
    assert len({cell.id for cell in cells}) == 2_000
    # Each option that is not a default.
    assert len(read) == (5 - 1) + (5 - 1) + (2 - 1)
    assert len(set(read)) == len(read)


def test_catalog_is_shared_with_hydras_own_loader(tmp_path):
    """Hydra's loader writes the search path differently and adds an override for -m."""
    hydra_loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    catalog = compose_catalog(config_loader(), "config", ())
    assert compose_catalog(hydra_loader, "config", ("hydra.mode=MULTIRUN",)) is catalog
    assert compose_catalog(config_loader(str(tmp_path)), "config", ()) is not catalog
    searchpath = f"hydra.searchpath=[file://{tmp_path}]"
    assert compose_catalog(hydra_loader, "config", (searchpath,)) is not catalog


def test_cells_do_not_share_mutable_config(cells_of):
    first, second = cells_of("seed=0,1")
    assert first.config["seed"] != second.config["seed"]
    assert first.id != second.id


def test_label_is_the_assignment(cells_of):
    cells = cells_of("init=zeros,he_normal", "optim.lr=0.5")
    assert [cell.label for cell in cells] == [
        "init=zeros optim.lr=0.5",
        "init=he_normal optim.lr=0.5",
    ]
    assert cells_of()[0].label == "(all defaults)"


def test_error_names_the_invalid_cell(cells_of):
    with pytest.raises(ConfigError, match=r"in the cell model=alexnet data\.side=7"):
        cells_of("model=two_layer,alexnet", "data.side=28,7")


def test_probe_after_the_last_step_is_refused(loader):
    arguments = ["train.steps=5", "probe.steps=[3,6]"]
    with pytest.raises(
        ConfigError, match=r"probe\.steps contains 6, but training ends after step 5"
    ):
        expand(
            ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, arguments), None)
        )


def test_target_on_the_command_line_replaces_the_option(loader):
    arguments = ["init._target_=fanin.inits.Normal", "init.std=0.3", "init.gain=2"]
    (cell,) = expand(
        ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, arguments), None)
    )
    assert cell.config["init"] == {
        "_target_": "fanin.inits.Normal",
        "std": 0.3,
        "mean": 0.0,
        "gain": 2.0,
        "bias": None,
        "layers": {},
    }
    assert cell.choices["init"] == "custom"


def test_normal_bias_is_set_key_by_key(loader):
    arguments = ["init.bias.std=0.1"]
    (cell,) = expand(
        ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, arguments), None)
    )
    assert cell.config["init"]["bias"] == {"mean": 0.0, "std": 0.1}


def test_missing_probe_image_is_refused(loader):
    arguments = ["data.n_train=2", "probe.images=[0,2]"]
    with pytest.raises(
        ConfigError, match=r"index 2; the 2 training images have the indices 0 to 1"
    ):
        expand(
            ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, arguments), None)
        )


def test_activation_that_is_not_elementwise_is_refused(loader):
    arguments = ["activation._target_=torch.nn.Softmax", "activation.dim=1"]
    with pytest.raises(ConfigError, match="activation: not elementwise"):
        expand(
            ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, arguments), None)
        )
