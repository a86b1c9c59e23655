"""The training step: equal to torch's, works under vmap, and never reads values to the host."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import vmap
from torch.utils._pytree import tree_map

from experiments.clip import Clip, ClipNorm, NoClip
from experiments.optim import Adam, AdamW, Optimizer, Sgd
from experiments.training.divergence import Divergence, diagnose
from experiments.training.engines import stacked_step
from experiments.training.loader import Batch
from experiments.training.step import (
    ALIVE,
    NetworkState,
    StepConfig,
    by_autograd,
    by_torch_func,
    initial_state,
    make_step,
)
from fanin.losses import make_objective
from fanin.losses.table import Head, Loss
from fanin.models import Plain, TwoLayer

STEPS = 20
OBJECTIVE = make_objective(Loss("cross_entropy"), Head("none"), 3)
CLOSE = {"rtol": 1e-12, "atol": 1e-15}


def network() -> nn.Sequential:
    return TwoLayer(channels=4).build((1, 8, 8), 3, nn.Tanh)


def step_config(
    optim: Optimizer | None = None, clip: Clip | None = None, bound: float = 1e12
) -> StepConfig:
    torch.manual_seed(0)
    model = network().double()
    return StepConfig(model, OBJECTIVE, optim or Sgd(), clip or Clip(NoClip()), bound)


@pytest.fixture(scope="module")
def data() -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(10, 1, 8, 8, generator=rng, dtype=torch.float64),
            torch.randint(3, (10,), generator=rng),
        )
        for _ in range(STEPS)
    ]


def trained(config: StepConfig, data, lr) -> NetworkState:
    step, state = make_step(config), initial_state(config)
    for x, y in data:
        state, _ = step(state, x, y, lr, {})
    return state


@pytest.mark.parametrize(
    ("optim", "torch_optim"),
    [
        (Sgd(momentum=0.9, weight_decay=0.01), torch.optim.SGD),
        (Adam(), torch.optim.Adam),
    ],
    ids=["sgd", "adam"],
)
def test_steps_equal_those_of_torch(data, optim, torch_optim):
    config = step_config(optim, Clip(ClipNorm(max_norm=0.5)))
    after = trained(config, data, 0.01)["params"]
    kwargs = {"momentum": 0.9, "weight_decay": 0.01} if torch_optim is torch.optim.SGD else {}
    optimizer = torch_optim(config.model.parameters(), lr=0.01, **kwargs)
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(config.model(x), y).backward()
        nn.utils.clip_grad_norm_(config.model.parameters(), 0.5)
        optimizer.step()
    for name, parameter in config.model.named_parameters():
        torch.testing.assert_close(after[name], parameter.detach(), **CLOSE)


@pytest.mark.parametrize("optim", [Sgd(momentum=0.9), Adam()], ids=["sgd", "adam"])
def test_a_stack_of_learning_rates_equals_serial_runs(data, optim):
    config = step_config(optim)
    rates = torch.tensor([0.001, 0.01, 0.03], dtype=torch.float64)
    initial = initial_state(config)
    step = vmap(make_step(config, by_torch_func), in_dims=(0, None, None, 0, None))
    state = {
        "params": {n: p.expand(3, *p.shape) for n, p in initial["params"].items()},
        "optimizer": tree_map(lambda t: t.expand(3, *t.shape), initial["optimizer"]),
        "step": initial["step"].expand(3),
        "failed_at": initial["failed_at"].expand(3),
    }
    for x, y in data:
        state, _ = step(state, x, y, rates, {})
    for place, lr in enumerate(rates.tolist()):
        serial = trained(config, data, lr)["params"]
        for name, parameter in serial.items():
            torch.testing.assert_close(state["params"][name][place], parameter, **CLOSE)


def test_a_step_reads_no_value_to_the_host():
    """Use fake tensors, which have no values and raise if one is read."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        config = StepConfig(network(), OBJECTIVE, Adam(), Clip(ClipNorm()), 1e12)
        x, y = torch.zeros(10, 1, 8, 8), torch.zeros(10, dtype=torch.int64)
        _, loss = make_step(config)(initial_state(config), x, y, 0.1, {})
        with pytest.raises(DataDependentOutputException):
            bool(loss > 0)


@pytest.mark.parametrize("optim", [Sgd(), Adam(), AdamW()], ids=["sgd", "adam", "adamw"])
def test_a_stacked_step_reads_no_value_to_the_host(optim):
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = Plain(depth=2, width=2, norm="batch").build((1, 6, 6), 3, nn.ReLU)
        config = StepConfig(model, OBJECTIVE, optim, Clip(ClipNorm()), 1e12)
        state = tree_map(lambda t: torch.stack([t, t, t]), initial_state(config))
        x, y = torch.zeros(3, 8, 1, 6, 6), torch.zeros(3, 8, dtype=torch.int64)
        rates = torch.zeros(3, dtype=torch.float64)
        state, losses = stacked_step(config)(state, x, y, rates, {}, {"weight_decay": rates})
        assert losses.shape == (3,)


def test_a_diverged_network_keeps_its_state_before_the_bad_step(data):
    config = step_config(Sgd(momentum=0.9))
    step, state = make_step(config), initial_state(config)
    for number, (x, y) in enumerate(data[:8]):
        before = state
        state, _ = step(state, x * (torch.inf if number == 3 else 1), y, 0.01, {})
        if number == 3:
            frozen = before
    assert state["failed_at"] == 3
    for name, parameter in frozen["params"].items():
        assert torch.equal(state["params"][name], parameter)
        velocity = frozen["optimizer"]["velocity"][name]
        assert torch.equal(state["optimizer"]["velocity"][name], velocity)


def test_a_loss_equal_to_the_bound_is_no_divergence(data):
    x, y = data[0]
    loss = make_step(step_config())(initial_state(step_config()), x, y, 0.1, {})[1].item()
    for bound, failed_at in ((loss, ALIVE), (loss * 0.999, 0)):
        config = step_config(bound=bound)
        assert make_step(config)(initial_state(config), x, y, 0.1, {})[0]["failed_at"] == failed_at


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


@pytest.mark.parametrize("differentiate", [by_autograd, by_torch_func])
def test_an_unused_parameter_does_not_change(data, differentiate):
    model = TwoLayer(channels=4).build((1, 8, 8), 3, Unused).double()
    config = replace(step_config(), model=model)
    (x, y), state = data[0], initial_state(config)
    after, _ = make_step(config, differentiate)(state, x, y, 0.1, {})
    assert after["params"]["act1.slope"] == 1
    assert not torch.equal(after["params"]["fc1.weight"], state["params"]["fc1.weight"])


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_one_non_finite_entry_after_an_update_is_divergence(data, bad):
    class NonFiniteSgd(Sgd):
        def update(self, params, grads, state, lr):
            params, state = super().update(params, grads, state, lr)
            weight = params["fc1.weight"].flatten()
            weight = torch.cat([weight[:-1], torch.full_like(weight[-1:], bad)])
            return params | {"fc1.weight": weight.view_as(params["fc1.weight"])}, state

    config = step_config(NonFiniteSgd())
    after, _ = make_step(config)(initial_state(config), *data[0], 0.1, {})
    assert after["failed_at"] == 0
    assert all(p.isfinite().all() for p in after["params"].values())


def test_the_overflowed_gradient_nearest_to_the_loss_is_named():
    model = nn.Sequential()
    for name, weight in (("fc1", 0.18), ("fc2", 1.0)):
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, weight)
        model.add_module(name, layer)
    # The loss is (1.8e19)^2 = 3.2e38; both gradients exceed the largest float32, 3.4e38.
    batch = Batch(torch.tensor([[1e20]]), torch.zeros(1), 0.1, {})
    objective = make_objective(Loss("mse"), Head("none"), None)
    config = StepConfig(model, objective, Sgd(), Clip(NoClip()), torch.inf)
    divergence = diagnose(config, initial_state(config), batch)
    assert divergence == Divergence(ALIVE, "grad of fc2.weight", "inf")
