"""Networks with a max-pool see images channels last; what that changes is roundings."""

import pytest
import torch
from stacks import alone, apart, largest, members

from experiments.training.feed import Feed
from experiments.training.layout import layout

CHANNELS_LAST = "model=two_layer data.channels=3"


def feed(cell_config, case: str) -> Feed:
    (member,) = members(cell_config, case, 1)
    return Feed(member.cell, member.task, member.data, member.scaling)


@pytest.mark.parametrize(
    ("case", "memory_format"),
    [
        (CHANNELS_LAST, torch.channels_last),
        (f"{CHANNELS_LAST} train.dtype=bfloat16", torch.channels_last),
        (f"{CHANNELS_LAST} train.dtype=float64", torch.contiguous_format),
        (f"{CHANNELS_LAST} model.pool=false", torch.contiguous_format),
        ("model=mlp data.channels=3", torch.contiguous_format),
    ],
)
def test_images_lie_as_the_network_likes_them(cell_config, case, memory_format):
    assert feed(cell_config, case).at(0).x.is_contiguous(memory_format=memory_format)


def test_a_gpu_takes_images_as_they_are(cell_config):
    (member,) = members(cell_config, CHANNELS_LAST, 1)
    cuda = torch.device("cuda")
    assert layout(member.task.model, torch.float32, cuda) == torch.contiguous_format


def test_training_is_the_same_up_to_rounding(cell_config, monkeypatch, as_in_workers):
    (member,) = members(cell_config, f"{CHANNELS_LAST} train.steps=1", 1)
    ours = alone(member)
    plain = torch.contiguous_format
    monkeypatch.setattr("experiments.training.feed.layout", lambda *_: plain)
    # A sum of at most 8 images x 36 positions x 27 products: its rounding errors at their worst.
    bound = 8 * 36 * 27 * torch.finfo(torch.float32).eps
    assert apart(ours, alone(member)) <= bound * largest(ours)
