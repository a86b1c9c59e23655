"""Small networks with declared moments, and their moments measured over fresh draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from fanin.activations import Erf
from fanin.inits.weight_shape import Moments, WeightShape
from fanin.theory import LayerMoments
from fanin.theory.finite_width.simulate import DrawMoments

Sampler = Callable[[WeightShape, torch.Generator, int], Tensor]
LEVEL = 1e-3  # of all comparisons of a test together
BACKWARD = ("vjp_m2", "weight_vjp_m2")
# By the names of the reference table.
ACTIVATIONS = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu(0.01)": partial(nn.LeakyReLU, 0.01),
    "lrelu0.2": partial(nn.LeakyReLU, 0.2),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "erf": Erf,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
}


def mlp(
    activation: Callable[[], nn.Module], width: int, depth: int, inputs: int | None = None
) -> nn.Sequential:
    """`depth` linear layers of one width, on `width` inputs unless said otherwise."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(inputs or width, width)]
    for _ in range(depth - 1):
        layers += [activation(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def declared(
    model: nn.Module,
    variance: Callable[[WeightShape], float],
    mean: Callable[[WeightShape], float] = lambda shape: 0.0,
    bias: Moments | None = None,
) -> dict[str, LayerMoments]:
    """The same scheme's moments for every weight layer."""
    return {
        name: LayerMoments(
            Moments(mean(WeightShape.of(layer)), variance(WeightShape.of(layer))),
            bias or Moments(0.0, 0.0),
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def image(values: Tensor) -> Tensor:
    """A vector as one image, [1, 1, 1, n]."""
    return values.double().reshape(1, 1, 1, -1)


def reference_input(n: int) -> Tensor:
    """`mlp_input(n)` of the reference table."""
    return image(torch.sin(0.37 * torch.arange(1, n + 1, dtype=torch.float64)) + 0.25)


def measure(
    model: nn.Sequential, x: Tensor, draws: int, sample: Sampler, seed: int = 0
) -> dict[str, Tensor]:
    """Every quantity of every weight layer for one image, [draw, layer]; zero biases, float64."""
    generator = torch.Generator().manual_seed(seed)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    weights = {n: sample(WeightShape.of(m), generator, draws) for n, m in layers.items()}
    n_logits = list(layers.values())[-1].weight.shape[0]
    u = torch.randn((draws, n_logits), generator=generator, dtype=torch.float64)
    u = u * n_logits**0.5 / u.norm(dim=1, keepdim=True)

    def one_draw(weights: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        def logits(shifts: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple:
            y, seen = x, {}
            for name, module in model.named_children():
                if name in layers:
                    bias = torch.zeros(layers[name].bias.shape, dtype=torch.float64)
                    y = functional_call(module, {"weight": weights[name], "bias": bias}, (y,))
                    seen[name] = y
                    y = y + shifts.get(name, 0.0)
                else:
                    y = module(y)
            return y[0], seen

        _, shapes = logits({}, weights)
        zeros = {name: torch.zeros_like(y) for name, y in shapes.items()}
        _, pull, seen = vjp(logits, zeros, weights, has_aux=True)
        cotangents, gradients = pull(u)
        ys = [seen[name].flatten() for name in layers]
        return {
            "preact_m2": torch.stack([y.square().mean() for y in ys]),
            "preact_mean": torch.stack([y.mean() for y in ys]),
            "preact_var": torch.stack([y.var() for y in ys]),
            "vjp_m2": torch.stack([cotangents[name].square().mean() for name in layers]),
            "weight_vjp_m2": torch.stack([gradients[name].square().mean() for name in layers]),
        }

    return vmap(one_draw)(weights, u)


def normal(std: Callable[[WeightShape], float], mean: float = 0.0) -> Sampler:
    """N(mean * std, std^2) weights."""

    def sample(shape: WeightShape, generator: torch.Generator, draws: int) -> Tensor:
        z = torch.randn((draws, *shape.shape), generator=generator, dtype=torch.float64)
        return std(shape) * (mean + z)

    return sample


def uniform(low: float, high: float) -> Sampler:
    """U(low, high) weights."""

    def sample(shape: WeightShape, generator: torch.Generator, draws: int) -> Tensor:
        u = torch.rand((draws, *shape.shape), generator=generator, dtype=torch.float64)
        return low + (high - low) * u

    return sample


def standard_errors(measured: Tensor, predicted: Tensor, sampling_se: Tensor) -> Tensor:
    """How many standard errors the mean over draws lies from the prediction, per layer."""
    se = torch.hypot(measured.std(0) / len(measured) ** 0.5, sampling_se)
    # Where a layer's moment has no scatter at all, only rounding is left.
    return (measured.mean(0) - predicted) / torch.maximum(se, 1e-9 * predicted.abs())


def assert_same_law(one: DrawMoments, other: DrawMoments) -> None:
    """Kolmogorov and Smirnov find no difference, in any layer's moment on any image."""
    chances = []
    for quantity, values in one.values.items():
        pairs = [torch.cat([v, v.mean(1, True)], 1) for v in (values, other.values[quantity])]
        for mine, theirs in zip(*(pair.flatten(1).T for pair in pairs), strict=True):
            if mine.std() <= 1e-9 * mine.abs().mean():  # certain, but for rounding
                torch.testing.assert_close(mine.mean(), theirs.mean(), rtol=1e-6, atol=0)
                continue
            chances.append(stats.ks_2samp(mine.numpy(), theirs.numpy()).pvalue)
    assert min(chances) > LEVEL / len(chances)
