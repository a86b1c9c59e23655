"""Each step of an optimizer equals torch's, for one cell and for a stack."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from experiments.config.instantiate import instantiate, validate
from experiments.optim import Adam, AdamW, Optimizer, Sgd
from fanin.errors import ConfigError
from fanin.models import TwoLayer

STEPS = 50
OPTIONS = sorted((Path(__file__).parents[2] / "conf" / "optim").glob("*.yaml"))

PAIRS = {
    "sgd": (Sgd(lr=0.05), lambda p, lr: torch.optim.SGD(p, lr)),
    "momentum": (
        Sgd(lr=0.02, momentum=0.9, weight_decay=0.01),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=0.01),
    ),
    "adam": (Adam(lr=0.01), lambda p, lr: torch.optim.Adam(p, lr)),
    "adam_l2": (
        Adam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1),
        lambda p, lr: torch.optim.Adam(p, lr, (0.8, 0.95), 1e-6, weight_decay=0.1),
    ),
    "adamw": (AdamW(lr=0.01), lambda p, lr: torch.optim.AdamW(p, lr)),
    "adamw_decay": (
        AdamW(lr=0.01, weight_decay=0.5),
        lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.5),
    ),
}


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return TwoLayer(channels=4).build((1, 8, 8), 3, nn.Tanh).double()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randn(12, 3, generator=generator, dtype=torch.float64)


def trained(optimizer: Optimizer, network: nn.Module, batch, lr: float | Tensor) -> dict:
    images, targets = batch

    def loss(params: dict[str, Tensor]) -> Tensor:
        return (functional_call(network, params, (images,)) - targets).square().mean()

    params = {name: p.detach() for name, p in network.named_parameters()}
    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state = optimizer.update(params, grad(loss)(params), state, lr)
    return params


def trained_by_torch(make, network: nn.Module, batch, lr: float) -> dict[str, Tensor]:
    images, targets = batch
    params = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    optimizer = make(list(params.values()), lr)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (functional_call(network, params, (images,)) - targets).square().mean().backward()
        optimizer.step()
    return {name: p.detach() for name, p in params.items()}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    # Rounding errors of 50 steps, each a few hundred ulps (sums in convolutions).
    tolerance = STEPS * 200 * torch.finfo(torch.float64).eps
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_yaml_lists_every_number_at_its_default(path: Path):
    node = yaml.safe_load(path.read_text())
    assert validate({"_target_": node["_target_"]}) == node


@pytest.mark.parametrize("name", PAIRS)
def test_fifty_steps_equal_torchs(name: str, network, batch):
    optim, make = PAIRS[name]
    expected = trained_by_torch(make, network, batch, optim.lr)
    assert_close(trained(optim, network, batch, optim.lr), expected)


@pytest.mark.parametrize("name", PAIRS)
def test_each_cell_of_a_stack_equals_torchs_at_its_learning_rate(name: str, network, batch):
    optim, make = PAIRS[name]
    rates = torch.tensor([0.001, 0.003, 0.01], dtype=torch.float64)
    stacked = vmap(lambda lr: trained(optim, network, batch, lr))(rates)
    for index, lr in enumerate(rates.tolist()):
        cell = {name: p[index] for name, p in stacked.items()}
        assert_close(cell, trained_by_torch(make, network, batch, lr))


def test_any_number_of_an_optimizer_can_differ_within_a_stack(network, batch):
    momenta = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)

    def train(momentum: Tensor) -> dict[str, Tensor]:
        return trained(dataclasses.replace(Sgd(), momentum=momentum), network, batch, 0.02)

    stacked = vmap(train)(momenta)
    for index, momentum in enumerate(momenta.tolist()):
        serial = trained(Sgd(momentum=momentum), network, batch, 0.02)
        assert_close({name: p[index] for name, p in stacked.items()}, serial)


@pytest.mark.parametrize("name", PAIRS)
def test_an_update_changes_nothing_in_place(name: str):
    optimizer, _ = PAIRS[name]
    params, grads = {"w": torch.ones(2)}, {"w": torch.full((2,), 3.0)}
    state = optimizer.init(params)
    first = optimizer.update(params, grads, state, optimizer.lr)
    second = optimizer.update(params, grads, state, optimizer.lr)
    assert params["w"].tolist() == [1, 1]
    assert grads["w"].tolist() == [3, 3]
    assert torch.equal(first[0]["w"], second[0]["w"])


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters_and_state_keep_their_dtype_in_a_stack(name: str, dtype: torch.dtype):
    optimizer, _ = PAIRS[name]
    params = {"w": torch.ones(2, dtype=dtype)}

    def two_steps(lr: Tensor) -> tuple[dict[str, Tensor], dict]:
        state = optimizer.init(params)
        stepped, state = optimizer.update(params, params, state, lr)
        return optimizer.update(stepped, params, state, lr)

    stepped, state = vmap(two_steps)(torch.tensor([0.25, 0.5], dtype=torch.float64))
    moments = [state[name]["w"] for name in ("velocity", "mean", "square") if name in state]
    tensors = [stepped["w"], *moments]
    assert {tensor.dtype for tensor in tensors} == {dtype}


def test_sgd_changes_nothing_for_zero_gradients():
    sgd, params = Sgd(), {"w": torch.ones(2)}
    updated, _ = sgd.update(params, {"w": torch.zeros(2)}, sgd.init(params), 0.1)
    assert torch.equal(updated["w"], params["w"])


@pytest.mark.parametrize(
    ("key", "value"), [("lr", -0.1), ("lr", float("nan")), ("momentum", 1.0), ("momentm", 0.5)]
)
def test_a_wrong_number_is_refused(key: str, value: float):
    with pytest.raises(ConfigError, match=f"optim.{key}"):
        instantiate({"_target_": "experiments.optim.Sgd", key: value}, "optim")
