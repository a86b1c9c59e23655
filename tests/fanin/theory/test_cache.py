"""The cache key includes everything that the result depends on, and nothing else."""

from __future__ import annotations

import sys
from itertools import count
from types import ModuleType

import pytest
import torch
from torch import nn

from fanin.inits import to_init
from fanin.theory.cache import memoized
from fanin.theory.graph.network import GraphNetwork
from fanin.theory.moments import declared_moments
from fanin.theory.predict import predict_moments

KEYS = count()  # a new key for every call of a helper


class Power(nn.Module):
    """A user-defined activation with a number, and a function that may not be hashable."""

    def __init__(self, exponent: float, function: object = None) -> None:
        super().__init__()
        self.exponent = exponent
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs() ** self.exponent


def is_cached(*depends_on: object) -> bool:
    """Return True if a second call uses the cache."""
    calls: list[int] = []
    name = f"test {next(KEYS)}"
    for _ in range(2):
        memoized(name, lambda: calls.append(1), *depends_on)
    return len(calls) < 2


def have_equal_keys(first: object, second: object) -> bool:
    """Return True if the second argument gets the cached result of the first."""
    calls: list[int] = []
    name = f"test {next(KEYS)}"
    for argument in (first, second):
        memoized(name, lambda: calls.append(1), argument)
    return len(calls) == 1


def make_network(activation: nn.Module, width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), activation, nn.Linear(width, 2))


def test_cache_key_ignores_weights_but_not_structure() -> None:
    assert have_equal_keys(make_network(nn.ReLU()), make_network(nn.ReLU()))
    assert not have_equal_keys(make_network(nn.ReLU()), make_network(nn.Tanh()))
    assert not have_equal_keys(make_network(nn.ReLU()), make_network(nn.ReLU(), width=5))
    assert not have_equal_keys(nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3, padding=1))
    zeros, circular = (nn.Conv2d(1, 2, 3, 1, 1, padding_mode=m) for m in ("zeros", "circular"))
    assert not have_equal_keys(zeros, circular)
    assert not have_equal_keys(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))


def test_cache_key_includes_activation_state() -> None:
    assert have_equal_keys(make_network(Power(2.0)), make_network(Power(2.0)))
    assert not have_equal_keys(make_network(Power(2.0)), make_network(Power(3.0)))
    assert not have_equal_keys(make_network(nn.LeakyReLU(0.1)), make_network(nn.LeakyReLU(0.2)))
    assert not have_equal_keys(make_network(nn.PReLU(init=0.1)), make_network(nn.PReLU(init=0.2)))


def test_cache_key_includes_mode_and_layer_sharing() -> None:
    assert not have_equal_keys(nn.Dropout(0.5).train(), nn.Dropout(0.5).eval())
    layer = nn.Linear(3, 3)
    assert not have_equal_keys(nn.Sequential(layer, layer), nn.Sequential(layer, nn.Linear(3, 3)))


def test_cache_key_includes_tensor_value_shape_and_dtype() -> None:
    x = torch.arange(4.0)
    assert have_equal_keys(x, x.clone())
    assert have_equal_keys(x.bfloat16(), x.bfloat16())
    for changed in (x + 1, x.double(), x.reshape(2, 2)):
        assert not have_equal_keys(x, changed)


def test_unhashable_arguments_disable_the_cache() -> None:
    assert is_cached(make_network(nn.ReLU()))
    assert not is_cached(make_network(Power(2.0, function=object())))
    hooked = make_network(nn.ReLU())
    hooked[0].register_forward_hook(lambda *_: None)
    assert not is_cached(hooked)


FACTOR = 2.0


def halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


class Scaled(nn.Module):
    power = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return FACTOR * halved(x) ** self.power


def redefined_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


def redefined_function(x: torch.Tensor) -> torch.Tensor:
    return x / 3


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (Scaled, "forward", redefined_forward),
        (Scaled, "power", 2),
        (sys.modules[__name__], "FACTOR", 3.0),
        (sys.modules[__name__], "halved", redefined_function),
    ],
)
def test_a_redefined_class_has_another_key(monkeypatch, owner, name, value) -> None:
    calls: list[int] = []

    def compute() -> None:
        memoized(f"test redefined {name}", lambda: calls.append(1), make_network(Scaled()))

    compute()
    compute()
    assert len(calls) == 1
    monkeypatch.setattr(owner, name, value)
    compute()
    assert len(calls) == 2


class Config:
    SCALE = 2.0


class InComprehension(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(FACTOR * y for y in (x, x))


class InLambda(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (lambda y: FACTOR * y)(x)


class InClass(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Config.SCALE * x


class InProperty(nn.Module):
    @property
    def scale(self) -> float:
        return FACTOR

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x


class InAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: FACTOR * x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class OfModule(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return user_module.FACTOR * x


class OfImport(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from user_module import FACTOR

        return FACTOR * x


user_module = ModuleType("user_module")


@pytest.mark.parametrize(
    ("module", "owner", "name"),
    [
        (InComprehension, sys.modules[__name__], "FACTOR"),
        (InLambda, sys.modules[__name__], "FACTOR"),
        (InProperty, sys.modules[__name__], "FACTOR"),
        (InAttribute, sys.modules[__name__], "FACTOR"),
        (InClass, Config, "SCALE"),
    ],
)
def test_cache_key_includes_what_nested_code_reads(monkeypatch, module, owner, name) -> None:
    """Networks with equal code have equal keys until a number that it reads changes."""
    calls: list[int] = []

    def compute() -> None:
        memoized(f"test {module}", lambda: calls.append(1), make_network(module()))

    compute()
    compute()
    assert len(calls) == 1
    monkeypatch.setattr(owner, name, 3.0)
    compute()
    assert len(calls) == 2


@pytest.mark.parametrize("module", [OfModule, OfImport])
def test_code_that_reads_a_module_of_the_user_disables_the_cache(module) -> None:
    assert not is_cached(make_network(module()))


def test_cache_key_includes_attributes_of_weight_layers() -> None:
    networks = [make_network(nn.ReLU()) for _ in range(3)]
    for network, gain in zip(networks, (1.0, 1.0, 2.0), strict=True):
        network[0].gain = gain
    assert have_equal_keys(*networks[:2])
    assert not have_equal_keys(*networks[1:])


class Residual(nn.Module):
    """A residual layer whose scale is in a module, an attribute of a layer, and a comprehension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.layer.gain = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = sum(FACTOR * c for c in (1.0,)) * user_module.FACTOR * self.layer.gain
        x = self.first(x)
        return self.last(x + scale * self.layer(x))


def test_predictions_of_graphs_are_cached_by_what_the_model_computes(monkeypatch) -> None:
    """The sum is 1 + scale^2 times as large as its first summand, since E[W^2] = 1 / fan_in."""
    computed: list[str] = []
    original = GraphNetwork.predict
    monkeypatch.setattr(
        GraphNetwork, "predict", lambda *args: computed.append("") or original(*args)
    )
    monkeypatch.setattr(user_module, "FACTOR", 1.0, raising=False)
    model, images = Residual(), torch.ones(1, 4)
    moments = declared_moments(model, to_init("lecun_normal"))

    def ratio() -> float:
        frame = predict_moments(model, moments, images, ("field",))
        frame = frame[(frame.quantity == "preact_m2") & (frame.image == 0)]
        q = frame.set_index("layer_name").value
        return float(q["add"] / q["first"])

    for owner, name in (
        (sys.modules[__name__], "FACTOR"),
        (user_module, "FACTOR"),
        (model.layer, "gain"),
    ):
        for value in (3.0, 5.0):
            monkeypatch.setattr(owner, name, value)
            scale = FACTOR * user_module.FACTOR * model.layer.gain
            assert ratio() == pytest.approx(1 + scale**2)
    assert len(computed) == 6
    nn.init.zeros_(model.layer.weight)  # weights are drawn, so they do not count
    assert ratio() == pytest.approx(1 + scale**2)
    assert len(computed) == 6
