"""Loss and accuracy on a set, whatever its parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.data import Split
from experiments.scaling import Raw, Scaling
from experiments.training import evaluate as room
from fanin.losses import make_objective
from fanin.losses.table import Head, Loss
from fanin.models import Mlp

N = 25


@pytest.fixture
def split() -> Split:
    rng = torch.Generator().manual_seed(0)
    return Split(torch.randn(N, 1, 3, 3, generator=rng), torch.randint(4, (N,), generator=rng))


def evaluated(split: Split, norm: str) -> tuple[nn.Module, room.Evaluation]:
    torch.manual_seed(0)
    model = Mlp(depth=2, width=8, norm=norm).build((1, 3, 3), 4, nn.ReLU).double()
    objective = make_objective(Loss("cross_entropy"), Head("none"), 4)
    scaling = Scaling(Raw()).fit(split.x, 1.0)
    params = dict(model.named_parameters())
    return model, room.evaluate(model, params, split, scaling, objective, torch.float64)


@pytest.mark.parametrize("chunk", [1, 4, N - 1, N, 1000])
def test_parts_add_up_to_the_whole(split, monkeypatch, chunk):
    monkeypatch.setattr(room, "CHUNK", chunk)
    model, found = evaluated(split, "none")
    logits = model(split.x.double())
    assert found.loss == pytest.approx(F.cross_entropy(logits, split.y).item(), rel=1e-12)
    assert found.accuracy == pytest.approx((logits.argmax(1) == split.y).double().mean().item())


def test_one_image_more_than_a_part_is_no_batch_of_one(split, monkeypatch):
    """Batch normalization refuses a single image."""
    monkeypatch.setattr(room, "CHUNK", N - 1)
    _, found = evaluated(split, "batch")
    assert found.loss > 0
