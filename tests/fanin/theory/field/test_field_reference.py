"""Theory `field` agrees with every convolutional row of the published reference values."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from theory_networks import ACTIVATIONS
from torch import Tensor, nn

from fanin.inits.weight_shape import Moments, WeightShape
from fanin.theory import LayerMoments
from fanin.theory.field import Sampling, predict_field, propagate_field
from fanin.theory.field.forward import interlayer_forward
from fanin.theory.field.interlayer import Interlayer
from fanin.theory.field.state import Preactivation
from fanin.theory.layers import NamedLayer

REFERENCE = pd.read_csv(
    Path(__file__).parents[1] / "reference.csv", comment="#", keep_default_na=False
)
CHANNELS = 64


def reference_rows(*prefixes: str):
    selected = REFERENCE[REFERENCE.case.str.startswith(prefixes)]
    ids = [f"{row.case}-{row.layer}-{row.quantity[:24]}" for row in selected.itertuples()]
    return pytest.mark.parametrize("row", list(selected.itertuples()), ids=ids)


def cnn_input(c: int, h: int, w: int) -> Tensor:
    """Return `cnn_input` of the reference table."""
    k, i, j = (
        axis.double()
        for axis in torch.meshgrid(*(torch.arange(n) for n in (c, h, w)), indexing="ij")
    )
    wave = 0.5 + 0.5 * torch.sin(0.9 * i + 0.4 * k) * torch.cos(0.6 * j)
    return (wave + 0.02 * ((7 * i + 13 * j + 5 * k) % 11 - 5))[None]


def declare_moments(model: nn.Module, sigma_w2: float, sigma_b2: float) -> dict[str, LayerMoments]:
    return {
        name: LayerMoments(
            Moments(0.0, sigma_w2 / WeightShape.of(layer).fan_in), Moments(0.0, sigma_b2)
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def tolerance(row) -> float:
    # neural-tangents integrates tanh with a coarser quadrature (docs/appendix/derivations.md, 2.2).
    return 5e-5 if row.activation == "tanh" and "neural" in row.source else 1e-6


def sigmas(row) -> tuple[float, float]:
    return float(row.sigma_w2), float(row.sigma_b2)


@reference_rows("cnn_relu", "cnn_tanh", "cnn_gelu", "cnn_lrelu", "cnn_erf")
def test_convolutions_match_the_reference(row):
    kernel, stride, depth = map(
        int, re.search(r"conv (\d)x\d stride (\d), (\d+) conv", row.architecture).groups()
    )
    padding = 0 if row.padding == "VALID" else kernel // 2
    mode = "circular" if row.padding == "CIRCULAR" else "zeros"
    model = nn.Sequential()
    for layer in range(depth):
        inputs = 3 if layer == 0 else CHANNELS
        model.append(nn.Conv2d(inputs, CHANNELS, kernel, stride, padding, padding_mode=mode))
        model.append(ACTIVATIONS[row.activation]())
    result = propagate_field(model, declare_moments(model, *sigmas(row)), cnn_input(3, 12, 12))
    last = result.passes[0][int(row.layer) - 1]
    m2_map = last.preact.m2[0, 0, 0].reshape(last.taps.positions)
    side = len(m2_map)
    value = {
        "q mean over positions": m2_map.mean(),
        "q at corner (0,0)": m2_map[0, 0],
        "q at centre": m2_map[side // 2, side // 2],
    }[row.quantity]
    assert value.item() == pytest.approx(row.reference_value, rel=tolerance(row))


def pooled_network(row, readout: list[nn.Module]) -> nn.Sequential:
    activation = ACTIVATIONS[row.activation]
    blocks: list[nn.Module] = []
    for inputs in (3, CHANNELS):
        blocks += [nn.Conv2d(inputs, CHANNELS, 3, padding=1), activation(), nn.AvgPool2d(2)]
    return nn.Sequential(
        *blocks, nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), activation(), *readout
    )


@reference_rows("cnnavg_")
def test_average_pooling_matches_the_reference(row):
    global_pool = "global" in row.quantity
    readout = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)]
    if not global_pool:
        readout = [nn.Flatten(), nn.Linear(9 * CHANNELS, 10)]
    model = pooled_network(row, readout)
    (layers,) = propagate_field(
        model, declare_moments(model, *sigmas(row)), cnn_input(3, 12, 12)
    ).passes
    value = {
        "pool1": lambda: layers[0].outputs.m2,
        "conv2": lambda: layers[1].preact.m2,
        "pool2": lambda: layers[1].outputs.m2,
        "conv3": lambda: layers[2].preact.m2,
        "logit": lambda: layers[3].preact.m2,
    }[row.layer]()
    assert value.mean().item() == pytest.approx(row.reference_value, rel=tolerance(row))


@reference_rows("cnnbwd_")
def test_cotangents_match_the_reference(row):
    activation = ACTIVATIONS[row.activation]

    def convolutions(count: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for layer in range(count):
            inputs = 3 if layer == 0 else CHANNELS
            layers += [nn.Conv2d(inputs, CHANNELS, 3, padding=1), activation()]
        return layers

    if "gap" in row.case:
        global_pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)]
        model = nn.Sequential(*convolutions(3), *global_pool)
    elif "avgpool" in row.case:
        model = pooled_network(row, [nn.Flatten(), nn.Linear(9 * CHANNELS, 10)])
    else:
        model = nn.Sequential(*convolutions(8), nn.Flatten(), nn.Linear(144 * CHANNELS, 10))
    prediction = predict_field(model, declare_moments(model, *sigmas(row)), cnn_input(3, 12, 12))
    quantity = {
        "q mean over positions": "preact_m2",
        "logit variance": "preact_m2",
        "E[(dL/dy)^2] mean over positions": "vjp_m2",
        "E[(dL/dW)^2] per entry": "weight_vjp_m2",
    }[row.quantity]
    value = prediction.value(quantity)[0, int(row.layer) - 1]
    assert value == pytest.approx(row.reference_value, rel=1e-6)


@reference_rows("cnn_maxpool")
def test_max_pooling_matches_the_reference(row):
    activation = ACTIVATIONS[row.activation]
    blocks: list[nn.Module] = []
    for inputs in (3, CHANNELS):
        blocks += [nn.Conv2d(inputs, CHANNELS, 3, padding=1), activation(), nn.MaxPool2d(2)]
    model = nn.Sequential(
        *blocks,
        *(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), activation()),
        *(nn.Flatten(), nn.Linear(9 * CHANNELS, 10)),
    )
    frame = predict_field(
        model,
        declare_moments(model, *sigmas(row)),
        cnn_input(3, 12, 12),
        sampling=Sampling(repeats=16),
    ).to_frame()
    prediction_row = frame[(frame.image == 0) & (frame.quantity == "preact_m2")].iloc[
        int(row.layer) - 1
    ]
    assert_close_to_reference(prediction_row.value, prediction_row.sampling_se, row)


@reference_rows("maxpool_factor")
def test_one_max_pool_window_matches_the_reference(row):
    side = int(row.padding[0])
    rho = float(re.search("rho=(.*)", row.quantity).group(1))
    n = side**2
    cov = rho * torch.ones(n, n).double() + (1 - rho) * torch.eye(n).double()
    zero, one = torch.zeros(1, 1, 1, n).double(), torch.ones(1, 1, 1, n).double()
    preact = Preactivation(zero, one, cov[None, None, None], None, one, zero, zero[..., :1])
    window = Interlayer.of(
        [NamedLayer.of("act", nn.ReLU()), NamedLayer.of("pool", nn.MaxPool2d(side))],
        1,
        (side, side),
    )
    samples = torch.stack(
        [
            interlayer_forward(
                window, preact, needs_products=True, samples=2**14, key=(repeat,)
            ).m2.squeeze()
            for repeat in range(16)
        ]
    )
    assert_close_to_reference(samples.mean().item(), samples.std().item() / 4, row)


def assert_close_to_reference(value: float, sampling_se: float, row) -> None:
    se = float(re.search("se=(.*)", row.source).group(1))
    # 1e-9: rounding errors if neither value is sampled.
    max_error = 3.5 * (se**2 + sampling_se**2) ** 0.5 + 1e-9 * row.reference_value
    assert abs(value - row.reference_value) < max_error
