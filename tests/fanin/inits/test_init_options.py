"""The YAML files under conf/init/ say the same as the classes they name."""

from inspect import Parameter
from pathlib import Path

import pytest
import yaml

from fanin.errors import ConfigError
from fanin.inits import Init
from fanin.instantiate import TARGET, arguments, locate

CONF = Path(__file__).parents[3] / "conf" / "init"
OPTIONS = sorted(path for path in CONF.glob("*.yaml") if path.stem != "custom")


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_an_option_lists_every_argument_with_the_target_s_default(path):
    node = yaml.safe_load(path.read_text())
    known = arguments(locate(node, path.stem))
    assert node.keys() - {TARGET} == known.keys()
    for name, parameter in known.items():
        if parameter.default is not Parameter.empty:
            assert (type(node[name]), node[name]) == (type(parameter.default), parameter.default)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_an_option_is_already_of_the_declared_types(path):
    node = yaml.safe_load(path.read_text())
    coerced = Init.coerce_config(node)
    assert coerced == node | {"gain": 1.0, "bias": None, "layers": {}}
    assert {name: type(coerced[name]) for name in node} == {n: type(v) for n, v in node.items()}


def test_the_issue_s_schemes_are_all_there():
    names = {path.stem for path in OPTIONS}
    assert names >= {"zeros", "constant", "normal", "truncated_normal", "uniform", "orthogonal"}
    assert names >= {"xavier_normal", "xavier_uniform", "he_normal", "he_uniform", "lsuv"}
    assert names >= {"lecun_normal", "lecun_uniform", "pytorch_default", "alexnet2012"}
    assert "delta_orthogonal" in names


def test_custom_asks_for_its_target():
    node = yaml.safe_load((CONF / "custom.yaml").read_text())
    assert node == {TARGET: "???"}
    with pytest.raises(ConfigError, match=r"init\._target_: expected package\.module\.Name"):
        Init.coerce_config(node)
