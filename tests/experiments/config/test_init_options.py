"""The `init` group: options, common keys, per-layer overrides, and users' schemes."""

import sys
from inspect import Parameter
from types import ModuleType

import pytest
import torch
import yaml

from experiments.config.catalog import CONF
from experiments.config.init_options import init_from_config, validate_init
from experiments.config.instantiate import TARGET, arguments, locate
from fanin.errors import ConfigError
from fanin.inits import (
    FunctionScheme,
    HeNormal,
    Init,
    Moments,
    Normal,
    NormalBias,
    WeightShape,
)

HE = {"_target_": "fanin.inits.HeNormal"}
NORMAL = {"_target_": "fanin.inits.Normal", "std": 0.1}
WEIGHT = WeightShape(3, 4)
OPTIONS = sorted(path for path in (CONF / "init").glob("*.yaml") if path.stem != "custom")


def my_init(weight: WeightShape, generator: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    return torch.full(weight.shape, scale)


def needs_scale(weight, generator, *, scale: float):
    return torch.full(weight.shape, scale)


def takes_gain(weight, generator, gain=1.0):
    return torch.full(weight.shape, gain)


def transposed(weight, generator):
    return torch.ones(weight.shape[::-1])


def returns_scheme(std: float = 2.0):
    return Normal(std=std)


class MyInit:
    """A scheme that is not a dataclass and has no known moments."""

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def sample(self, weight, generator):
        return torch.full(weight.shape, self.scale)


@pytest.fixture(autouse=True)
def my_package(monkeypatch):
    module = ModuleType("my_package")
    vars(module).update(
        {
            f.__name__: f
            for f in (my_init, needs_scale, takes_gain, transposed, returns_scheme, MyInit)
        }
    )
    monkeypatch.setitem(sys.modules, "my_package", module)


def test_common_keys_have_defaults():
    coerced = validate_init(HE)
    assert coerced == HE | {
        "fan": "fan_in",
        "negative_slope": 0.0,
        "per_group": False,
        "gain": 1.0,
        "bias": None,
        "layers": {},
    }
    assert init_from_config(HE) == Init(HeNormal())


def test_coercing_twice_changes_nothing():
    layers = {
        "conv1": {"gain": 2, "std": 1, "bias": {"std": 1}},
        "fc1": {"_target_": "fanin.inits.HeUniform", "bias": 0},
    }
    once = validate_init(NORMAL | {"gain": 1, "bias": {"mean": 1}, "layers": layers})
    assert validate_init(once) == once
    assert once["bias"] == {"mean": 1.0, "std": 1.0}
    assert once["layers"]["conv1"] == {"gain": 2.0, "std": 1.0, "bias": {"mean": 0.0, "std": 1.0}}
    assert once["layers"]["fc1"]["fan"] == "fan_in"
    assert isinstance(once["layers"]["conv1"]["std"], float)


def test_a_layer_can_override_gain_bias_field_or_scheme():
    layers = {
        "conv1": {"gain": 0.5},
        "conv2": {"std": 0.02},
        "conv3": {"bias": {"mean": 1, "std": 2}},
        "conv4": HE | {"fan": "fan_out"},
        "conv5": {"bias": None},
    }
    init = init_from_config(NORMAL | {"gain": 3, "bias": 1, "layers": layers})
    assert init.for_layer("conv1").gain == 0.5
    assert init.for_layer("conv2").scheme == Normal(std=0.02)
    assert init.for_layer("conv2").gain == 3.0
    assert init.for_layer("conv3").bias == NormalBias(mean=1.0, std=2.0)
    assert init.for_layer("conv3").bias_moments(WEIGHT) == Moments(mean=1.0, var=4.0)
    assert init.for_layer("conv4").scheme == HeNormal(fan="fan_out")
    assert init.for_layer("conv5").bias is None
    assert init.for_layer("fc1").bias_moments(WEIGHT) == Moments(mean=1.0, var=0.0)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"gian": 1}, r"init\.gian: no such key; did you mean gain\?"),
        ({"stdd": 1}, r"init\.stdd: no such key; did you mean std\?"),
        ({"gain": "big"}, r"init\.gain: .*number.*got 'big'"),
        ({"gain": float("nan")}, r"init\.gain: .*finite"),
        ({"std": -1}, r"init\.std: .*greater than or equal to 0"),
        ({"bias": True}, r"init\.bias: expected"),
        ({"bias": {"sd": 1}}, r"init\.bias\.sd: no such key; did you mean std\?"),
        ({"layers": {"conv1": 3}}, r"init\.layers\.conv1: "),
        ({"layers": {"conv1": {"gian": 1}}}, r"init\.layers\.conv1\.gian: .*did you mean gain\?"),
        ({"layers": {"conv1": {"std": "x"}}}, r"init\.layers\.conv1\.std: .*number"),
        ({"layers": {"conv1": HE | {"fan": "fanin"}}}, r"conv1\.fan: .*did you mean fan_in"),
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [validate_init, init_from_config])
def test_the_error_names_a_wrong_key_or_value_and_the_nearest(read, extra, message):
    with pytest.raises(ConfigError, match=message):
        read(NORMAL | extra)


def test_a_layer_override_that_the_scheme_rejects_is_an_error():
    node = {"_target_": "fanin.inits.Uniform", "a": 0, "b": 1, "layers": {"fc1": {"a": 2}}}
    with pytest.raises(ConfigError, match=r"init\.layers\.fc1: a must be less than b"):
        init_from_config(node)


def test_a_bare_function_is_a_scheme():
    init = init_from_config({"_target_": "my_package.my_init", "scale": 3, "gain": 2})
    assert isinstance(init.scheme, FunctionScheme)
    layer = init.for_layer("conv1")
    assert layer.weight_moments(WEIGHT) is None
    expected = torch.full((3, 4), 6.0, dtype=torch.float64)
    assert torch.equal(layer.sample_weight(WEIGHT, torch.Generator()), expected)
    assert torch.equal(layer.sample_bias(WEIGHT, torch.Generator()), torch.zeros(3).double())


def test_arguments_of_a_bare_function_are_type_checked():
    coerced = validate_init({"_target_": "my_package.my_init"})
    assert coerced["scale"] == 1.0
    assert isinstance(validate_init({"_target_": "my_package.my_init", "scale": 3})["scale"], float)
    with pytest.raises(ConfigError, match=r"init\.scal: no such key; did you mean scale\?"):
        validate_init({"_target_": "my_package.my_init", "scal": 3})


@pytest.mark.parametrize("read", [validate_init, init_from_config])
def test_arguments_of_a_bare_function_in_a_layer_are_type_checked(read):
    override = {"_target_": "my_package.needs_scale"}
    with pytest.raises(ConfigError, match=r"init\.layers\.fc1\.scale: must be given"):
        read(HE | {"layers": {"fc1": override}})
    with pytest.raises(ConfigError, match=r"init\.layers\.fc1\.scal: .*did you mean scale\?"):
        read(HE | {"layers": {"fc1": override | {"scal": 1}}})
    layer = init_from_config(HE | {"layers": {"fc1": override | {"scale": 2}}}).for_layer("fc1")
    assert float(layer.sample_weight(WEIGHT, torch.Generator()).mean()) == 2.0


def test_a_class_without_moments_is_a_scheme_with_unknown_moments():
    layer = init_from_config({"_target_": "my_package.MyInit", "scale": 2}).for_layer("fc1")
    assert layer.weight_moments(WEIGHT) is None
    assert float(layer.sample_weight(WEIGHT, torch.Generator()).mean()) == 2.0


def test_a_function_may_return_a_scheme():
    init = init_from_config({"_target_": "my_package.returns_scheme", "std": 3})
    assert init.scheme == Normal(std=3.0)


@pytest.mark.parametrize("name", ["my_init", "MyInit"])
def test_only_fields_of_a_dataclass_can_be_changed_per_layer(name):
    node = {"_target_": f"my_package.{name}", "layers": {"fc1": {"gain": 2.0, "bias": 1.0}}}
    assert init_from_config(node).for_layer("fc1").gain == 2.0
    with pytest.raises(ConfigError, match=r"init\.layers\.fc1\.scale: .*give _target_"):
        init_from_config(node | {"layers": {"fc1": {"scale": 2.0}}})


def test_an_argument_with_the_name_of_a_common_key_is_refused():
    with pytest.raises(ConfigError, match="takes_gain has an argument gain"):
        init_from_config({"_target_": "my_package.takes_gain"})


def test_a_target_that_is_not_a_scheme_is_refused():
    with pytest.raises(ConfigError, match="got Identity, which has no method sample"):
        init_from_config({"_target_": "torch.nn.Identity"})


def test_a_sample_of_the_wrong_shape_is_refused():
    layer = init_from_config({"_target_": "my_package.transposed"}).for_layer("fc1")
    with pytest.raises(ConfigError, match=r"tensor of shape \(3, 4\), got \(4, 3\)"):
        layer.sample_weight(WEIGHT, torch.Generator())


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_an_option_lists_every_argument_with_its_default(path):
    node = yaml.safe_load(path.read_text())
    known = arguments(locate(node, path.stem))
    assert node.keys() - {TARGET} == known.keys()
    for name, parameter in known.items():
        if parameter.default is not Parameter.empty:
            assert (type(node[name]), node[name]) == (type(parameter.default), parameter.default)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_the_values_of_an_option_have_the_declared_types(path):
    node = yaml.safe_load(path.read_text())
    coerced = validate_init(node)
    assert coerced == node | {"gain": 1.0, "bias": None, "layers": {}}
    assert {name: type(coerced[name]) for name in node} == {n: type(v) for n, v in node.items()}


def test_custom_requires_a_target():
    node = yaml.safe_load((CONF / "init" / "custom.yaml").read_text())
    assert node == {TARGET: "???"}
    with pytest.raises(ConfigError, match=r"init\._target_=package\.module\.Name"):
        validate_init(node)
