"""`explain`: each assumption of He's formula has its own factor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fanin.inits import HeNormal, Init, Normal
from fanin.theory.assumptions import Subsample, use_circular_padding, use_subsampling
from fanin.theory.explain import Explanation, explain
from fanin.theory.explanation_steps import STEPS

INFINITE_WIDTH_STEPS = [step for step in STEPS if step not in ("width", "rest")]


def image(side: int = 10) -> torch.Tensor:
    t = torch.linspace(0, 3, side, dtype=torch.float64)
    return (torch.sin(t)[:, None] * torch.cos(t)[None, :] + 1)[None, None]


def significant_steps(explanation: Explanation, quantity: str = "preact_m2") -> set[str]:
    """Return the steps with a factor other than 1 in any layer, without `width` and `rest`."""
    rows = explanation.frame[explanation.frame.quantity == quantity]
    rows = rows[rows.step.isin(INFINITE_WIDTH_STEPS)]
    # Errors come from 4 repeats: t-distribution with 3 degrees of freedom, at level 0.001.
    return set(rows.step[np.log(rows.factor).abs() > 1e-9 + 12.9 * rows.log_se])


def mlp(activation: nn.Module, depth: int = 3, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(100, width)]
    for _ in range(depth - 1):
        layers += [activation, nn.Linear(width, width)]
    return nn.Sequential(*layers)


strided = nn.Sequential(
    *(nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular"), nn.ReLU()),
    *(nn.Conv2d(8, 8, 2, stride=2), nn.Flatten()),
)


def test_factors_multiply_to_measured_over_he() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 6, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(54, 10)),
    )
    explanation = explain(net, image(6), Init(Normal(std=0.2), bias=0.1), draws=6)
    ends = explanation.ends.set_index(["quantity", "layer_name"])
    for quantity in ("preact_m2", "vjp_m2"):
        for name, factors in explanation.factors(quantity).iterrows():
            end = ends.loc[quantity, name]
            assert np.prod(factors.to_numpy()) == pytest.approx(end.measured / end.he, rel=1e-9)


@pytest.mark.parametrize(
    ("net", "init", "steps"),
    [
        (mlp(nn.ReLU()), HeNormal(), set()),
        (mlp(nn.Tanh()), HeNormal(), {"activation"}),
        (mlp(nn.ReLU()), Normal(std=0.1, mean=0.01), {"weight mean"}),
        (mlp(nn.ReLU()), Init(HeNormal(), bias=0.5), {"biases"}),
        (nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten()), HeNormal(), {"padding"}),
        (nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten()), HeNormal(), {"real data"}),
        (strided, HeNormal(), set()),
    ],
    ids=["nothing", "activation", "mean", "biases", "padding", "data", "stride"],
)
def test_single_violated_assumption_is_the_only_factor(
    net: nn.Module, init: Init | Normal | HeNormal, steps: set[str]
) -> None:
    """A linear layer reads all of an image; circular padding reads each pixel equally often."""
    assert significant_steps(explain(net, image(), init, draws=2)) == steps


def test_stride_factor_backward() -> None:
    """Each output cotangent reaches one of four positions."""
    backward = explain(strided, image(), HeNormal(), draws=2).factors("vjp_m2").stride
    assert backward.tolist() == pytest.approx([1 / 4, 1])


def test_pooling_factor_of_later_layers() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(200, 10)),
    )
    constant = torch.ones(1, 1, 10, 10, dtype=torch.float64)
    noise = torch.randn(1, 1, 10, 10, generator=torch.Generator().manual_seed(0)).double()
    factors = explain(net, constant, HeNormal(), draws=2).factors()
    assert factors.pooling.tolist() == pytest.approx([1, 1])
    first, last = explain(net, noise, HeNormal(), draws=2).factors().pooling
    assert first == 1
    assert last > 1.2  # a maximum of several values


def test_layer_factors_multiply_to_factors() -> None:
    frame = explain(mlp(nn.Tanh(), depth=4), image(), HeNormal(), draws=2).frame
    forward = frame[(frame.quantity == "preact_m2") & (frame.step == "activation")]
    assert forward.layer_factor.cumprod().tolist() == pytest.approx(forward.factor.tolist())
    backward = frame[(frame.quantity == "vjp_m2") & (frame.step == "activation")][::-1]
    assert backward.layer_factor.cumprod().tolist() == pytest.approx(backward.factor.tolist())


def test_rest_is_within_its_error() -> None:
    explanation = explain(mlp(nn.ReLU(), depth=4), image(), HeNormal(), draws=48)
    rest = explanation.frame[explanation.frame.step == "rest"]
    assert (np.log(rest.factor).abs() < 4 * rest.log_se + 1e-9).all()


def test_printed_explanation_has_sentences_and_a_row_per_layer() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(200, 10)),
    )
    explanation = explain(net, image(), Init(HeNormal(), bias=0.1), draws=2)
    text = str(explanation)
    assert all(word in text for step in STEPS for word in step.split())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith('The mean square of the signal in layer 3 (Linear "6") is ')
    assert text.count("8, 3)") == 2  # the two convolutions in the table of the layers
    assert text.count("Conv2d") == 2 + 4 + 1  # ... and in the two tables of factors and a sentence
    assert "8×5×5" in text
    assert "Factors of 1 in every layer: weight mean, stride" in text
    assert repr(explanation) == "Explanation(3 layers, 2 draws)"
    assert explanation._repr_html_().startswith("<pre")


def test_subsample_takes_the_middle_of_windows() -> None:
    """Pooling over windows of equal values does not change the values."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    blocks = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    for pool in (nn.MaxPool2d(3), nn.AvgPool2d(3), nn.AdaptiveAvgPool2d(4)):
        assert torch.equal(Subsample(pool)(blocks), x)
    subsampled = use_subsampling(nn.Sequential(nn.MaxPool2d(3, 2, padding=1)))(blocks)
    assert subsampled.shape == nn.MaxPool2d(3, 2, padding=1)(blocks).shape


def test_variants_do_not_change_the_network() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Sequential(nn.MaxPool2d(2)))
    use_circular_padding(net), use_subsampling(net)
    assert net[0].padding_mode == "zeros"
    assert isinstance(net[1][0], nn.MaxPool2d)
