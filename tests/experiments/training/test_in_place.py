"""In-place training equals the loop that people write, and finds the step that diverged."""

import pytest
import torch
import torch.nn.functional as F
from stacks import train_spec
from torch import nn

from experiments.optim import Adam, AdamW, Sgd
from experiments.training.engines import SerialEngine
from experiments.training.in_place import CHECK_INTERVAL, can_be_copied
from experiments.training.in_place_optim import in_place_optimizer
from experiments.training.step import ALIVE

STEPS = 2 * CHECK_INTERVAL + 3
SGD, ADAM = torch.optim.SGD, torch.optim.Adam
OPTIMIZERS = {
    "optim=sgd": (SGD, {}),
    "optim=sgd optim.momentum=0.9 optim.weight_decay=0.01": (
        SGD,
        {"momentum": 0.9, "weight_decay": 0.01},
    ),
    "optim=adam optim.weight_decay=0.01": (ADAM, {"weight_decay": 0.01}),
    "optim=adamw": (torch.optim.AdamW, {"weight_decay": 0.01}),
}
MODELS = ("model=mlp", "model=two_layer data.channels=3", "model=plain model.depth=3 clip=norm")
DATA = (
    *("data=gaussian", "data.side=null", "data.image_side=6", "data.classes=3"),
    *("data.train_size=64", "data.test_size=8", "train.batch_size=8", "probe=none"),
    f"train.steps={STEPS}",
)
pytestmark = pytest.mark.usefixtures("worker_settings")


def engine_of(cell_config, *overrides: str) -> SerialEngine:
    return SerialEngine([train_spec(cell_config(*DATA, *overrides))])


def plain_loop(engine: SerialEngine, model: nn.Module, optimizer, clip: bool) -> None:
    for number in range(STEPS):
        x, y, *_ = engine.loaders[0].at(number)
        optimizer.zero_grad()
        F.cross_entropy(model(x.contiguous()), y).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_training_equals_a_plain_loop(cell_config, case, model):
    spec = train_spec(
        cell_config(*DATA, *case.split(), *model.split(), "optim.lr=0.01", "train.dtype=float64")
    )
    engine = SerialEngine([spec])
    for number in range(STEPS):
        engine.step(number)
    function, options = OPTIMIZERS[case]
    network = spec.step.model
    plain_loop(engine, network, function(network.parameters(), lr=0.01, **options), "clip" in model)
    for name, parameter in network.named_parameters():
        # 35 steps, each with a relative error of about 1e-15, in a network that amplifies little
        torch.testing.assert_close(
            engine.state(0)["params"][name], parameter.detach(), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_gradients_in_another_memory_format_are_used_correctly(memory_format):
    """The fused kernels ignore strides."""
    params = {"w": torch.zeros(2, 3, 2, 2)}
    optim = Sgd(lr=1.0)
    gradient = torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=memory_format)
    in_place_optimizer(optim, params, optim.init(params), 0).update([gradient], 1.0)
    assert torch.equal(params["w"], -gradient)


@pytest.mark.parametrize(
    "optim", [Sgd(momentum=0.9), Adam(), AdamW()], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_equals_that_of_the_functional_optimizer(optim, dtype):
    rng = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(5, generator=rng).to(dtype)}
    expected, state = params, optim.init(params)
    in_place = {"w": params["w"].clone()}
    optimizer = in_place_optimizer(optim, in_place, state, 0)
    for _ in range(3):
        gradient = torch.randn(5, generator=rng).to(dtype)
        optimizer.update([gradient], 0.1)
        expected, state = optim.update(expected, {"w": gradient}, state, 0.1)
    torch.testing.assert_close(in_place, expected)
    torch.testing.assert_close(optimizer.state(3), state)


@pytest.mark.parametrize("bad", [0, 5, CHECK_INTERVAL - 1, CHECK_INTERVAL, STEPS - 1])
@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_the_step_of_divergence_and_the_state_before_it_are_found(
    cell_config, monkeypatch, bad, optim
):
    overrides = (f"optim={optim}", "model=mlp", "init=he_normal", "scaling=standardize")
    engine, usual = (engine_of(cell_config, *overrides) for _ in range(2))
    (loader,) = engine.loaders
    at = loader.at

    def with_bad_batch(number):
        batch = at(number)
        return batch._replace(x=batch.x * torch.inf) if number == bad else batch

    monkeypatch.setattr(loader, "at", with_bad_batch)
    for number in range(STEPS):
        engine.step(number)
    for number in range(bad):
        usual.step(number)
    assert engine.failed_at().item() == bad
    assert usual.failed_at().item() == ALIVE
    state, expected = engine.state(0), usual.state(0)
    torch.testing.assert_close(state["params"], expected["params"], rtol=0, atol=0)
    torch.testing.assert_close(state["optimizer"], expected["optimizer"], rtol=0, atol=0)


def test_a_loss_above_the_bound_is_found_although_later_losses_are_below(cell_config, monkeypatch):
    engine = engine_of(cell_config, "model=linear", "train.loss_bound=100", "optim.lr=0")
    (loader,) = engine.loaders
    at = loader.at

    def large_at_3(number):
        batch = at(number)
        return batch._replace(x=1e4 * batch.x) if number == 3 else batch

    monkeypatch.setattr(loader, "at", large_at_3)
    for number in range(STEPS):
        engine.step(number)
    assert engine.failed_at().item() == 3


def test_training_does_not_change_the_model(cell_config):
    spec = train_spec(cell_config(*DATA, "model=two_layer"))
    before = {name: p.detach().clone() for name, p in spec.step.model.named_parameters()}
    engine = SerialEngine([spec])
    engine.step(0)
    for name, parameter in spec.step.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not torch.equal(engine.state(0)["params"][name], before[name])


class Doubled(nn.Identity):
    """A layer of this test's module."""


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), True),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), True),
        (nn.Sequential(nn.Linear(2, 2), Doubled()), False),
    ],
)
def test_only_models_of_known_layers_are_copied(model, expected):
    assert can_be_copied(model) == expected
