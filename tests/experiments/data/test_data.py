"""The `data` group: local and synthetic sources, subsets, resizing, and corruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config.instantiate import instantiate, validate
from experiments.data import Corrupt, Data, Digits, Features, Gaussian, Mnist, Shapes
from experiments.data.dataset import Source
from experiments.data.transforms import choose, resize
from fanin.errors import ConfigError

OWN = ("arrays", "folder")  # need a file: test_own_data.py
OPTIONS = [
    path
    for path in sorted((Path(__file__).parents[3] / "conf" / "data").glob("*.yaml"))
    if path.stem not in OWN
]
SMALL: list[Source] = [
    Digits(),
    Shapes(train_size=200, test_size=50),
    Gaussian(train_size=200, test_size=50),
    Gaussian(train_size=200, test_size=50, task="regression"),
    Features(train_size=200, test_size=50),
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda path: path.stem)
def test_every_option_lists_every_argument_with_its_default(option: Path) -> None:
    node = yaml.safe_load(option.read_text())
    assert node == validate({"_target_": node["_target_"]})
    source = instantiate(node)
    assert len(source.shape) == 3
    assert source.n_classes is None or source.n_classes >= 2


def test_there_are_eight_sources() -> None:
    names = {option.stem for option in OPTIONS}
    images = {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100"}
    assert names == images | {"shapes", "gaussian", "features"}


@pytest.mark.parametrize("source", SMALL, ids=lambda source: type(source).__name__)
def test_the_attributes_of_a_source_describe_its_data(source: Source) -> None:
    data = Data(source).load()
    assert (len(data.train), len(data.test)) == (source.train_size, source.test_size)
    assert data.train.x.shape[1:] == data.test.x.shape[1:] == source.shape
    assert data.n_classes == source.n_classes
    if source.n_classes is not None:
        assert data.train.y.unique().tolist() == list(range(source.n_classes))


def test_digits_are_bright_on_black_and_split_by_class() -> None:
    data = Data(Digits()).load()
    x = torch.cat([data.train.x, data.test.x])
    assert x.dtype == torch.uint8
    assert x.min() == 0
    assert x.max() == 255
    shares = data.test.y.bincount() / torch.cat([data.train.y, data.test.y]).bincount()
    # About 180 images per class; each count is within one of its proportional count.
    assert (shares - 360 / 1797).abs().max() < 1 / 174


def test_no_digit_is_in_both_splits() -> None:
    data = Data(Digits()).load()
    images = torch.cat([data.train.x, data.test.x]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)


def test_the_centre_of_a_cross_is_filled_and_that_of_a_circle_is_empty() -> None:
    data = Data(Shapes(train_size=400, test_size=2)).load()
    x = data.train.x.float()
    background = x[:, :, 0, 0]  # no shape reaches the corner
    filled = (x - background[..., None, None]).abs().amax(1) > 32
    row, column = (torch.arange(32.0)[:, None], torch.arange(32.0))
    n_filled = filled.sum((1, 2))
    centre_row = ((filled * row).sum((1, 2)) / n_filled).round().long()
    centre_column = ((filled * column).sum((1, 2)) / n_filled).round().long()
    at_centre = filled[torch.arange(400), centre_row, centre_column]
    assert torch.equal(at_centre, data.train.y == 0)
    assert data.train.y.bincount().tolist() == [200, 200]


@pytest.mark.parametrize("source", [Shapes(train_size=20, test_size=4)])
def test_rendered_images_depend_on_the_seed(source: Source) -> None:
    first, repeated, other = (Data(source, seed=seed).load() for seed in (0, 0, 1))
    assert torch.equal(first.train.x, repeated.train.x)
    assert not torch.equal(first.train.x, other.train.x)
    assert not torch.equal(first.train.x[:4], first.test.x)


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), data=st.data())
def test_a_subset_keeps_class_shares_to_within_one_image(
    counts: list[int], data: st.DataObject
) -> None:
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    n = data.draw(st.integers(1, len(y)))
    chosen = choose(y, n, rng(data.draw(st.integers(0, 9))))
    assert len(chosen) == len(chosen.unique()) == n
    subset_counts = y[chosen].bincount(minlength=len(counts)).tolist()
    # |subset_count - count * n / len(y)| < 1, in integers.
    errors = [s * len(y) - c * n for s, c in zip(subset_counts, counts, strict=True)]
    assert max(map(abs, errors)) < len(y)


def test_subsets_depend_on_the_seed_only() -> None:
    first, repeated, other = (
        Data(Digits(), n_train=100, n_test=30, seed=seed).load() for seed in (0, 0, 1)
    )
    assert first.train.y.bincount().tolist() == [10] * 10
    assert first.test.y.bincount().tolist() == [3] * 10
    for split in ("train", "test"):
        x, repeated_x, other_x = (getattr(data, split).x for data in (first, repeated, other))
        assert torch.equal(x, repeated_x)
        assert not torch.equal(x, other_x)


def test_real_targets_are_sampled_without_replacement() -> None:
    y = torch.arange(50.0)
    chosen = choose(y, 20, rng())
    assert len(chosen.unique()) == 20
    assert not torch.equal(chosen, choose(y, 20, rng(1)))
    with pytest.raises(ValueError, match="51 images requested, but there are only 50"):
        choose(y, 51, rng())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_train": 60_001}, "n_train=60001, but there are only 60000 images"),
        ({"n_test": 10_001}, "n_test=10001, but there are only 10000 images"),
        ({"n_train": 10, "corrupt": Corrupt(share=0.01)}, "is less than one image"),
    ],
)
def test_impossible_settings_are_refused_before_reading_files(
    keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Data(Mnist(), **keys)


def test_resizing_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="image_side"):
        Data(Gaussian(), side=14)


def test_a_misspelt_corrupt_key_is_refused() -> None:
    node = {"_target_": "experiments.data.Corrupt", "shar": 0.5}
    with pytest.raises(ConfigError, match="did you mean share"):
        instantiate(node)


@pytest.mark.parametrize("side", [7, 14, 28, 40])
def test_resized_images_have_the_given_side_and_stay_uint8(side: int) -> None:
    data = Data(Digits(), side=side, n_train=50, n_test=20)
    images = data.load()
    assert images.train.x.shape == (50, *data.shape) == (50, 1, side, side)
    assert images.test.x.shape == (20, 1, side, side)
    assert images.train.x.dtype == torch.uint8
    assert images.n_classes == data.n_classes == 10


def test_shrinking_averages_stripes() -> None:
    stripes = (255 * (torch.arange(63) % 2)).to(torch.uint8).expand(1, 1, 63, 63)
    inner = resize(stripes, 9)[..., 1:-1]  # without the border, where the filter is cut off
    # A triangular filter of 14 pixels has weight 25/49 on one kind of stripe, 24/49 on the other.
    assert inner.float().sub(127.5).abs().max() <= 255 / 98 + 0.5


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_outliers_multiply_exactly_the_given_share_by_100(share: float) -> None:
    clean = Data(Digits(), n_train=200).load()
    corrupted = Data(Digits(), n_train=200, corrupt=Corrupt(share, "outlier")).load()
    assert corrupted.train.x.dtype == torch.float32
    factor = corrupted.train.x.amax((1, 2, 3)) / clean.train.x.amax((1, 2, 3))
    n_outliers = round(share * 200)
    assert (factor == 100).sum() == n_outliers
    assert share == 1 or not (factor[:n_outliers] == 100).all()  # not simply the first images
    assert ((factor == 100) | (factor == 1)).all()
    assert torch.equal(corrupted.test.x, clean.test.x)


def test_a_quarter_of_the_positions_is_missing_in_the_given_share() -> None:
    source = Shapes(train_size=40, test_size=4)
    clean = Data(source, side=10).load().train.x
    corrupted = Data(source, side=10, corrupt=Corrupt(0.3, "missing")).load().train.x
    missing = corrupted.isnan()
    assert torch.equal(missing[:, 0], missing[:, 2])  # all channels of a position
    counts = missing[:, 0].sum((1, 2))
    assert sorted(counts.tolist()) == [0] * 28 + [25] * 12
    masks = missing[counts > 0]
    assert len(masks.flatten(1).unique(dim=0)) == 12  # the masks of all images differ
    assert torch.equal(corrupted[~missing], clean[~missing].float())
