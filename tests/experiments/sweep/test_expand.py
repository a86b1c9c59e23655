"""Large grids cost a sum of options, not a product."""

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


def test_thousands_of_cells_compose_each_option_once(loader, monkeypatch):
    composed = []
    compose = ConfigCatalog._compose
    monkeypatch.setattr(
        ConfigCatalog, "_compose", lambda s, *o: composed.append(o) or compose(s, *o)
    )
    cells = expand(
        ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, WORDS), None)
    )
    assert len({cell.id for cell in cells}) == 2_000
    # The default cell, and each option but those it is made of.
    assert len(composed) == 1 + (5 - 1) + (5 - 1) + (2 - 1)
    assert len(set(composed)) == len(composed)


def test_hydras_own_loader_sees_the_options_that_ours_has_composed(tmp_path):
    """Hydra writes the same places in another way, and says by itself whether -m was given."""
    theirs = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    ours = compose_catalog(config_loader(), "config", ())
    assert compose_catalog(theirs, "config", ("hydra.mode=MULTIRUN",)) is ours
    assert compose_catalog(config_loader(str(tmp_path)), "config", ()) is not ours
    elsewhere = f"hydra.searchpath=[file://{tmp_path}]"
    assert compose_catalog(theirs, "config", (elsewhere,)) is not ours


def test_cells_do_not_share_what_one_could_change_for_another(cells_of):
    first, second = cells_of("seed=0,1")
    assert first.config["seed"] != second.config["seed"]
    assert first.id != second.id


def test_a_cell_says_what_it_was_asked_for(cells_of):
    cells = cells_of("init=zeros,he_normal", "optim.lr=0.5")
    assert [cell.label for cell in cells] == [
        "init=zeros optim.lr=0.5",
        "init=he_normal optim.lr=0.5",
    ]
    assert cells_of()[0].label == "(all defaults)"


def test_an_invalid_cell_is_named_among_the_valid(cells_of):
    with pytest.raises(ConfigError, match=r"in the cell model=alexnet data\.side=7"):
        cells_of("model=two_layer,alexnet", "data.side=28,7")


def test_a_probe_after_the_last_step_is_refused(loader):
    words = ["train.steps=5", "probe.steps=[3,6]"]
    with pytest.raises(
        ConfigError, match=r"probe\.steps names step 6, but training ends after step 5"
    ):
        expand(ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, words), None))


def test_a_target_on_the_command_line_takes_the_place_of_the_option(loader):
    words = ["init._target_=fanin.inits.Normal", "init.std=0.3", "init.gain=2"]
    (cell,) = expand(
        ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, words), None)
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


def test_a_normal_bias_may_be_set_key_by_key(loader):
    words = ["init.bias.std=0.1"]
    (cell,) = expand(
        ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, words), None)
    )
    assert cell.config["init"]["bias"] == {"mean": 0.0, "std": 0.1}


def test_a_probed_image_that_is_not_there_is_refused(loader):
    words = ["data.n_train=2", "probe.images=[0,2]"]
    with pytest.raises(ConfigError, match=r"names image 2, but there are 2 training images"):
        expand(ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, words), None))


def test_an_activation_that_mixes_its_inputs_is_refused(loader):
    words = ["activation._target_=torch.nn.Softmax", "activation.dim=1"]
    with pytest.raises(ConfigError, match="activation: not elementwise"):
        expand(ConfigCatalog(loader, "config"), make_grids(parse_arguments(loader, words), None))
