"""Small networks with given weight moments, and moments measured over draws."""

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
LEVEL = 1e-3  # significance level of all comparisons of a test together
BACKWARD = ("vjp_m2", "weight_vjp_m2")
# Names as in the reference table.
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
    """Return `depth` linear layers of equal width, with `width` inputs by default."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(inputs or width, width)]
    for _ in range(depth - 1):
        layers += [activation(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def layer_moments(
    model: nn.Module,
    variance: Callable[[WeightShape], float],
    mean: Callable[[WeightShape], float] = lambda shape: 0.0,
    bias: Moments | None = None,
) -> dict[str, LayerMoments]:
    """Return the moments of every weight layer as functions of its shape."""
    return {
        name: LayerMoments(
            Moments(mean(WeightShape.of(layer)), variance(WeightShape.of(layer))),
            bias or Moments(0.0, 0.0),
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def image(values: Tensor) -> Tensor:
    """Return a vector as one image, [1, 1, 1, n]."""
    return values.double().reshape(1, 1, 1, -1)


def reference_input(n: int) -> Tensor:
    """Return the input `mlp_input(n)` of the reference table."""
    return image(torch.sin(0.37 * torch.arange(1, n + 1, dtype=torch.float64)) + 0.25)


def measure_moments(
    model: nn.Sequential, x: Tensor, draws: int, sample: Sampler, seed: int = 0
) -> dict[str, Tensor]:
    """Measure all quantities for one image, [draw, layer], with zero biases, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    weights = {n: sample(WeightShape.of(m), generator, draws) for n, m in layers.items()}
    n_logits = list(layers.values())[-1].weight.shape[0]
    u = torch.randn((draws, n_logits), generator=generator, dtype=torch.float64)
    u = u * n_logits**0.5 / u.norm(dim=1, keepdim=True)

    def one_draw(weights: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
        def logits(shifts: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple:
            y, outputs = x, {}
            for name, module in model.named_children():
                if name in layers:
                    bias = torch.zeros(layers[name].bias.shape, dtype=torch.float64)
                    y = functional_call(module, {"weight": weights[name], "bias": bias}, (y,))
                    outputs[name] = y
                    y = y + shifts.get(name, 0.0)
                else:
                    y = module(y)
            return y[0], outputs

        _, preacts = logits({}, weights)
        zeros = {name: torch.zeros_like(y) for name, y in preacts.items()}
        _, vjp_function, outputs = vjp(logits, zeros, weights, has_aux=True)
        cotangents, gradients = vjp_function(u)
        ys = [outputs[name].flatten() for name in layers]
        return {
            "preact_m2": torch.stack([y.square().mean() for y in ys]),
            "preact_mean": torch.stack([y.mean() for y in ys]),
            "preact_var": torch.stack([y.var() for y in ys]),
            "vjp_m2": torch.stack([cotangents[name].square().mean() for name in layers]),
            "weight_vjp_m2": torch.stack([gradients[name].square().mean() for name in layers]),
        }

    return vmap(one_draw)(weights, u)


def normal(std: Callable[[WeightShape], float], mean: float = 0.0) -> Sampler:
    """Return a sampler of N(mean * std, std^2) weights."""

    def sample(shape: WeightShape, generator: torch.Generator, draws: int) -> Tensor:
        z = torch.randn((draws, *shape.shape), generator=generator, dtype=torch.float64)
        return std(shape) * (mean + z)

    return sample


def uniform(low: float, high: float) -> Sampler:
    """Return a sampler of U(low, high) weights."""

    def sample(shape: WeightShape, generator: torch.Generator, draws: int) -> Tensor:
        u = torch.rand((draws, *shape.shape), generator=generator, dtype=torch.float64)
        return low + (high - low) * u

    return sample


def standard_errors(measured: Tensor, predicted: Tensor, sampling_se: Tensor) -> Tensor:
    """Return the difference of the mean over draws and the prediction in standard errors."""
    se = torch.hypot(measured.std(0) / len(measured) ** 0.5, sampling_se)
    # Allows for rounding errors in moments that do not vary between draws.
    return (measured.mean(0) - predicted) / torch.maximum(se, 1e-9 * predicted.abs())


def assert_same_distribution(first: DrawMoments, second: DrawMoments) -> None:
    """Assert that Kolmogorov-Smirnov tests find no difference, for every layer and image."""
    p_values = []
    for quantity, values in first.values.items():
        pairs = [torch.cat([v, v.mean(1, True)], 1) for v in (values, second.values[quantity])]
        for a, b in zip(*(pair.flatten(1).T for pair in pairs), strict=True):
            if a.std() <= 1e-9 * max(a.abs().mean(), 1):  # equal in all draws, up to rounding
                torch.testing.assert_close(a.mean(), b.mean(), rtol=1e-6, atol=1e-6)
                continue
            p_values.append(stats.ks_2samp(a.numpy(), b.numpy()).pvalue)
    assert min(p_values) > LEVEL / len(p_values)
