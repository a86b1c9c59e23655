"""Scaling methods, with the statistics of the training images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from experiments.config.instantiate import instantiate, validate
from experiments.scaling import (
    CHUNK,
    FittedScaling,
    Method,
    PerFeatureMinmax,
    PixelMean,
    Raw,
    Scaling,
    Signed,
    Standardize,
    Unit,
)

OPTIONS = sorted((Path(__file__).parents[2] / "conf" / "scaling").glob("*.yaml"))
EPS = torch.finfo(torch.float64).eps


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Return more than one chunk of random bytes; the ranges of the channels differ."""
    rng = torch.Generator().manual_seed(0)
    shape = (CHUNK + 300, 1, 6, 5)
    limits = (256, 100, 7)
    channels = [torch.randint(0, n, shape, generator=rng, dtype=torch.uint8) for n in limits]
    return torch.cat(channels, 1)


def scaled(method: Method, x: torch.Tensor) -> torch.Tensor:
    return Scaling(method).fit(x, full_scale=255).apply(x, torch.float64)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda path: path.stem)
def test_every_option_lists_every_argument_with_its_default(option: Path) -> None:
    node = yaml.safe_load(option.read_text())
    assert node == validate({"_target_": node["_target_"]})
    assert hasattr(instantiate(node), "fit")


def test_there_are_six_methods() -> None:
    names = {option.stem for option in OPTIONS}
    affine = {"raw", "unit", "signed"}
    assert names == affine | {"standardize", "per_feature_minmax", "pixel_mean"}


def test_fixed_scalings_map_every_byte_as_defined() -> None:
    x = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    value = torch.arange(256, dtype=torch.float64).reshape(256, 1, 1, 1)
    assert torch.equal(scaled(Raw(), x), value)
    assert torch.equal(scaled(Unit(), x), value / 255)
    # (x - 127.5) / 127.5 is exact at both ends, and rounds once, like 2 x / 255 - 1.
    torch.testing.assert_close(scaled(Signed(), x), 2 * value / 255 - 1, rtol=0, atol=2 * EPS)
    assert scaled(Signed(), x).aminmax() == (-1, 1)


def test_standardized_channels_have_mean_zero_and_variance_one(images: torch.Tensor) -> None:
    z = scaled(Standardize(), images)
    # The rounding error of a sum of n terms is at most n eps.
    n = z[:, 0].numel()
    assert z.mean((0, 2, 3)).abs().max() < n * EPS
    assert (z.square().mean((0, 2, 3)) - 1).abs().max() < n * EPS


def test_statistics_in_chunks_equal_those_of_all_images(images: torch.Tensor) -> None:
    fitted = Scaling(Standardize()).fit(images, 255)
    x = images.double()
    n = x[:, 0].numel()
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
    torch.testing.assert_close(fitted.center.flatten(), mean, rtol=n * EPS, atol=0)
    torch.testing.assert_close(fitted.spread.flatten(), std, rtol=n * EPS, atol=0)


def test_a_small_spread_around_a_large_mean_is_exact() -> None:
    # The squares, about 1e18, would be rounded to multiples of 128.
    x = 1e9 + torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    assert Scaling(Standardize()).fit(x, 1.0).spread.item() == 0.5


def test_a_constant_channel_standardizes_to_zero() -> None:
    x = torch.full((5, 1, 2, 2), 9, dtype=torch.uint8)
    assert torch.equal(scaled(Standardize(), x), torch.zeros(5, 1, 2, 2, dtype=torch.float64))


def test_every_feature_spans_zero_to_one(images: torch.Tensor) -> None:
    z = scaled(PerFeatureMinmax(), images)
    assert (z.amin(0) == 0).all()
    assert (z.amax(0) == 1).all()


def test_a_pixel_constant_in_training_is_zero_in_every_image() -> None:
    train = torch.tensor([[4, 1], [4, 3]], dtype=torch.uint8).reshape(2, 1, 1, 2)
    test = torch.tensor([200, 5], dtype=torch.uint8).reshape(1, 1, 1, 2)
    fitted = Scaling(PerFeatureMinmax()).fit(train, 255)
    assert fitted.apply(test).flatten().tolist() == [0, 2]


def test_pixel_mean_leaves_a_mean_image_of_zero(images: torch.Tensor) -> None:
    z = scaled(PixelMean(), images)
    assert z.mean(0).abs().max() < len(images) * EPS
    spread = images.double().amax(0) - images.double().amin(0)
    torch.testing.assert_close(z.amax(0) - z.amin(0), spread / 255)


def test_scale_and_shift_are_applied_last(images: torch.Tensor) -> None:
    fitted = Scaling(Unit(), scale=-3.0, shift=0.5).fit(images, 255)
    expected = -3 * (images.double() / 255) + 0.5
    assert torch.equal(fitted.apply(images, torch.float64), expected)


def test_statistics_depend_only_on_the_training_images(images: torch.Tensor) -> None:
    fitted = Scaling(Standardize()).fit(images, 255)
    image = images[:1] // 2
    assert torch.equal(fitted.apply(image), fitted.apply(torch.cat([image, images]))[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_types_are_rounded_once_at_the_end(images: torch.Tensor, dtype: torch.dtype) -> None:
    fitted = Scaling(Standardize()).fit(images, 255)
    z = fitted.apply(images, dtype)
    assert z.dtype == dtype
    exact = fitted.apply(images, torch.float64)
    # One rounding to the type, and a few in float32 arithmetic, of terms up to 255 / std.
    largest = (fitted.center / fitted.spread).max() + exact.abs().max()
    arithmetic = 4 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * largest
    error = (z.double() - exact).abs()
    assert (error <= torch.finfo(dtype).eps * exact.abs() + arithmetic).all()


def test_noise_has_full_scale_one() -> None:
    x = torch.tensor([0.25, -1.5]).reshape(2, 1, 1, 1)
    assert torch.equal(Scaling(Unit()).fit(x, 1.0).apply(x), x)


def test_a_missing_value_makes_only_its_channel_nan() -> None:
    x = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    x[1, 0, 2, 2] = torch.nan
    z = scaled(Standardize(), x)
    assert z[:, 0].isnan().all()
    assert z[:, 1].isfinite().all()


def test_images_stay_on_their_device(images: torch.Tensor) -> None:
    fitted = Scaling(PixelMean()).fit(images, 255)
    assert isinstance(fitted, FittedScaling)
    assert fitted.apply(images.to("meta")).device.type == "meta"
