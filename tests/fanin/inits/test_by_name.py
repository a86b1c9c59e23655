"""Init schemes by name."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from experiments.config.init_options import init_from_config
from fanin.errors import ConfigError
from fanin.inits import (
    SCHEMES,
    HeNormal,
    Init,
    LayerInit,
    Normal,
    Zeros,
    initialize,
    to_init,
    to_scheme,
)

CONF = Path(__file__).parents[3] / "conf" / "init"
OPTIONS = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}


def test_names_are_the_options_of_the_config():
    assert set(SCHEMES) == set(OPTIONS) - {"custom"}  # `custom` names the user's own scheme


@pytest.mark.parametrize("name", SCHEMES)
def test_a_name_gives_the_scheme_of_the_config(name: str):
    assert to_scheme(name) == init_from_config(OPTIONS[name]).scheme


def test_names_are_accepted_in_place_of_schemes():
    assert to_init("he_normal") == Init("he_normal") == Init(HeNormal())
    layers = {"0": LayerInit("zeros")}
    assert Init("normal", gain=2.0, layers=layers).for_layer("0").scheme == Zeros()
    init = Init(Normal(0.5))
    assert to_init(init) is init
    net = nn.Sequential(nn.Linear(3, 2))
    initialize(net, "zeros", lambda name: torch.Generator())
    assert not net[0].weight.any()


@pytest.mark.parametrize("init", [3, None, HeNormal, nn.init.zeros_])
def test_other_types_are_refused(init: object):
    with pytest.raises(ConfigError, match="is not supported; pass a name such as 'he_normal'"):
        to_init(init)


@pytest.mark.parametrize("make", [to_init, Init, LayerInit])
def test_an_unknown_name_is_refused(make):
    with pytest.raises(ConfigError, match="init='xavier': no such init; did you mean xavier_"):
        make("xavier")
