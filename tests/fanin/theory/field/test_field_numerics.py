"""Theory `field` at its limits: values beyond float64, singular fields, seeds, errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
from field_networks import Weights, image
from torch import nn

from fanin.theory import UnpredictableLayer
from fanin.theory.field import (
    FieldLayer,
    FieldTooLarge,
    Sampling,
    predict,
    predict_field,
    propagate_field,
)
from fanin.theory.field.forward import apply_dropout
from fanin.theory.field.propagate import propagate
from fanin.theory.field.sampling import antithetic, factor, float32_products, whitened
from fanin.theory.layer_kind import DropoutStep


def deep_network(layers: int, activation=nn.ReLU, pool: bool = False) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in range(layers):
        modules += [nn.Conv2d(2 if layer == 0 else 8, 8, 3, padding=1), activation()]
    modules += [nn.MaxPool2d(7)] if pool else []
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(8 if pool else 8 * 49, 10)).double()


def log10_moments(model: nn.Module, weights: Weights) -> np.ndarray:
    (layers,) = propagate_field(
        model, weights.moments(model), image(), sampling=Sampling(repeats=1)
    ).passes
    return np.array(
        [
            math.log10(layer.preact.m2.mean()) + 2 * layer.preact.log_scale / math.log(10)
            for layer in layers
        ]
    )


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("gain", [1e20, 1e-20])
def test_moments_beyond_float64_have_the_correct_logarithm(gain, pool):
    model = deep_network(16, pool=pool)
    reference, extreme = log10_moments(model, Weights()), log10_moments(model, Weights(gain=gain))
    # ReLU networks are homogeneous, so each layer multiplies the moment by its gain^2.
    steps = 2 * math.log10(gain / 2**0.5) * np.arange(1, len(reference) + 1)
    assert extreme == pytest.approx(reference + steps, abs=1e-6)
    assert abs(extreme[-1]) > 600


def test_moments_beyond_float64_are_inf_or_zero_not_nan():
    model = deep_network(16)
    for gain, limit in ((1e20, np.inf), (1e-20, 0.0)):
        moments = Weights(gain=gain).moments(model)
        prediction = predict_field(model, moments, image())
        for quantity in ("preact_m2", "preact_var", "vjp_m2", "weight_vjp_m2"):
            assert not np.isnan(prediction.value(quantity)).any()
        assert prediction.value("preact_m2")[0, -1] == limit
        assert prediction.value("vjp_m2")[0, 0] == limit


@pytest.mark.parametrize("size", [1e-100, 1e100])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_moments_scale_with_the_image_in_a_relu_network(size, pool):
    model = nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 8, 3, padding=1)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)),
    ).double()
    moments = Weights().moments(model)
    small, large = (predict_field(model, moments, s * image()) for s in (1.0, size))
    ratio = large.value("preact_m2") / small.value("preact_m2")
    assert ratio == pytest.approx(size**2, rel=1e-9)
    assert large.value("vjp_m2") == pytest.approx(small.value("vjp_m2"), rel=1e-9)


def test_moments_of_a_black_image_are_zero():
    model = deep_network(2, pool=True)
    prediction = predict_field(model, Weights().moments(model), torch.zeros(1, 2, 7, 7).double())
    assert (prediction.value("preact_m2") == 0).all()
    assert (prediction.value("vjp_m2")[0, :-1] == 0).all()


def test_factor_of_a_singular_covariance_with_zero_rows():
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    x[3] = 0.0
    covariance = 1e-40 * x @ x.T
    root = factor(covariance)
    scale = covariance.diagonal().max()
    # The jitter is at most 1e-6 of the diagonal.
    assert ((root @ root.T - covariance).abs() <= 2e-6 * scale).all()
    assert torch.allclose((root @ root.T).diagonal(), covariance.diagonal(), rtol=1e-12, atol=0)
    assert (root[3] == 0).all()


def test_whitened_normals_have_exact_second_moments():
    z = whitened(4096, 5, 0)
    assert torch.allclose(z.T @ z / len(z), torch.eye(5).double(), atol=1e-12)
    # E z^4 = 3 with standard error sqrt(96 / n) over n / 2 independent pairs.
    se = (96 / (len(z) / 2)) ** 0.5
    assert ((z**4).mean(0) - 3).abs().max() < 4.5 * se


def test_prediction_depends_only_on_the_seed():
    model = deep_network(2, pool=True)
    moments = Weights().moments(model)
    first, repeated, other = (
        predict_field(model, moments, image(), sampling=Sampling(seed=seed)).value("preact_m2")
        for seed in (0, 0, 1)
    )
    assert (first == repeated).all()
    assert (first != other).any()


def test_prediction_does_not_depend_on_other_images():
    model = deep_network(2, pool=True)
    moments = Weights(mean_ratio=1.0).moments(model)
    images = torch.cat([image(seed=seed) for seed in range(3)])
    joint = predict_field(model, moments, images).value("preact_m2")
    for index in range(3):
        single = predict_field(model, moments, images[index : index + 1]).value("preact_m2")
        assert joint[index] == pytest.approx(single[0], rel=1e-12)


def test_joint_and_single_image_predictions_are_equal():
    model = deep_network(3)
    moments = Weights().moments(model)
    images = torch.cat([image(seed=seed) for seed in range(2)])
    single, joint = (predict_field(model, moments, images, joint=j) for j in (False, True))
    for quantity in ("preact_m2", "preact_var", "vjp_m2", "weight_vjp_m2"):
        assert joint.value(quantity) == pytest.approx(single.value(quantity), rel=1e-9)


def test_field_too_large_error_names_mean_field():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model = model.append(nn.Flatten()).append(nn.Linear(4, 10)).double()
    with pytest.raises(FieldTooLarge, match=r"4900 positions.*mean_field"):
        predict_field(model, Weights().moments(model), torch.rand(1, 1, 70, 70).double())


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm2d(4).eval(), nn.GroupNorm(2, 4), nn.Softmax(dim=1), nn.Upsample(scale_factor=2)],
)
def test_unsupported_module_raises_with_its_name(module):
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 4, 3, padding=1))
    model.add_module("unsupported", module)
    model.add_module("conv2", nn.Conv2d(4, 4, 3))
    with pytest.raises(UnpredictableLayer, match="unsupported"):
        predict_field(model.double(), Weights().moments(model), torch.rand(1, 1, 7, 7).double())


def test_linear_layer_on_unflattened_maps_raises():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(5, 10)).double()
    with pytest.raises(UnpredictableLayer, match="Flatten"):
        predict_field(model, Weights().moments(model), torch.rand(1, 1, 7, 7).double())


@pytest.mark.parametrize(
    ("activation", "expected"),
    [(nn.ReLU, 0.5), (nn.Hardtanh, None), (nn.GELU, None), (nn.SiLU, None), (nn.Tanh, None)],
)
def test_zero_fraction_is_nan_unless_the_function_is_flat_at_zero(activation, expected):
    # GELU is 0 below -8.3 in float64, below -5.5 in float32.
    model = deep_network(3, activation)
    prediction = predict_field(model, Weights().moments(model), image() * 10)
    zeros = prediction.value("act_zero_fraction")[:, :-1]
    if expected is not None:
        assert zeros == pytest.approx(expected)
    else:
        assert np.isnan(zeros).all()


def test_points_share_a_dropout_mask_only_if_it_drops_whole_channels():
    ones = torch.ones(4, 4, dtype=torch.float64)  # two images of two points
    by_point = apply_dropout(ones, DropoutStep(0.5, whole_channel=False), images_per_field=2)
    assert torch.equal(by_point, ones + torch.eye(4))
    by_channel = apply_dropout(ones, DropoutStep(0.5, whole_channel=True), images_per_field=2)
    assert torch.equal(by_channel, ones + torch.block_diag(ones[:2, :2], ones[:2, :2]))


@pytest.mark.parametrize("samples", [213, 214])
def test_at_least_the_requested_number_of_samples_is_drawn(samples: int):
    assert len(whitened(samples, 2, 0)) >= samples
    assert len(antithetic(samples, 500, 0)) >= samples


def covariance_numbers(layers: Sequence[FieldLayer]) -> int:
    """Count the numbers in all matrices over pairs of points that the layers keep."""
    storages: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, torch.Tensor) and value.ndim == 5:
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // 8
        elif is_dataclass(value):
            for field in fields(value):
                visit(getattr(value, field.name))

    for layer in layers:
        visit(layer)
    return sum(storages.values())


@pytest.mark.parametrize("mean_ratio", [0.0, 1.0])
def test_memory_does_not_grow_with_the_number_of_images(
    mean_ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deep_network(3, activation=nn.Tanh, pool=True)
    moments = Weights(mean_ratio=mean_ratio).moments(model)
    images = torch.cat([image(seed=seed) for seed in range(5)])
    sampling = Sampling(samples=64, repeats=1)
    whole = predict_field(model, moments, images, sampling=sampling)
    counts: list[tuple[int, int]] = []
    original = propagate

    def counted(plans, inputs, *arguments):
        layers = original(plans, inputs, *arguments)
        counts.append((len(inputs), covariance_numbers(layers)))
        return layers

    # Two images fit: the covariances of three layers of 49 points, with 16 particles or one.
    limit = 250_000 if mean_ratio else 15_000
    monkeypatch.setattr(predict, "propagate", counted)
    monkeypatch.setattr(predict, "MAX_NUMBERS", limit)
    chunked = predict_field(model, moments, images, sampling=sampling)
    assert [n for n, _ in counts] == [2, 2, 1]
    assert all(limit < numbers <= 12 * limit for _, numbers in counts[:2])
    for quantity in ("preact_m2", "vjp_m2"):
        # Products in float32 are rounded differently in chunks of another size.
        assert chunked.value(quantity) == pytest.approx(whole.value(quantity), rel=1e-6)


def test_float32_products_have_the_error_of_float32_at_any_scale():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 256, 40, generator=generator).double()
    b = a.roll(1, -1) + 1
    exact = a.mT @ b / 256
    rms = [x.square().mean(1).sqrt() for x in (a, b)]
    scales = torch.tensor([1e-100, 1.0, 1e80], dtype=torch.float64)[:, None, None]
    relative = float32_products(scales * a, scales * b) / scales / scales
    size = (exact - relative).abs() / (rms[0][:, :, None] * rms[1][:, None])
    # Each product is rounded three times, each sum of 256 at most 256 times.
    assert size.max() < 259 * torch.finfo(torch.float32).eps
    assert size.max() > 0
