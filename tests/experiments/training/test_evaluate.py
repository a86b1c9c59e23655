"""Loss and accuracy on a set do not depend on the chunk size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.data import Split
from experiments.scaling import Raw, Scaling
from experiments.training import evaluate as evaluate_module
from fanin.losses import make_objective
from fanin.losses.table import Head, Loss
from fanin.models import Mlp

N = 25


@pytest.fixture
def split() -> Split:
    rng = torch.Generator().manual_seed(0)
    return Split(torch.randn(N, 1, 3, 3, generator=rng), torch.randint(4, (N,), generator=rng))


def run_evaluate(split: Split, norm: str) -> tuple[nn.Module, evaluate_module.Evaluation]:
    torch.manual_seed(0)
    model = Mlp(depth=2, width=8, norm=norm).build((1, 3, 3), 4, nn.ReLU).double()
    objective = make_objective(Loss("cross_entropy"), Head("none"), 4)
    scaling = Scaling(Raw()).fit(split.x, 1.0)
    params = dict(model.named_parameters())
    evaluation = evaluate_module.evaluate(model, params, split, scaling, objective, torch.float64)
    return model, evaluation


@pytest.mark.parametrize("chunk", [1, 4, N - 1, N, 1000])
def test_the_result_does_not_depend_on_the_chunk_size(split, monkeypatch, chunk):
    monkeypatch.setattr(evaluate_module, "CHUNK", chunk)
    model, result = run_evaluate(split, "none")
    logits = model(split.x.double())
    assert result.loss == pytest.approx(F.cross_entropy(logits, split.y).item(), rel=1e-12)
    assert result.accuracy == pytest.approx((logits.argmax(1) == split.y).double().mean().item())


def test_no_chunk_has_a_single_image(split, monkeypatch):
    """Batch normalization raises an error for a single image."""
    monkeypatch.setattr(evaluate_module, "CHUNK", N - 1)
    _, result = run_evaluate(split, "batch")
    assert result.loss > 0
