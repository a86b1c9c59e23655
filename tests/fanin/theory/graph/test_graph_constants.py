"""Constants, conversions and reshapes in graphs: exact results, and what theory refuses."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph_draws import digits
from torch import Tensor, nn

from fanin.errors import FaninError
from fanin.inits import to_init
from fanin.theory.certificate import certify
from fanin.theory.graph import predict_graph
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments

Function = Callable[[Tensor], object]


class Net(nn.Module):
    """A convolution, a function, a 1x1 convolution and a function of the output."""

    def __init__(self, inside: Function = F.relu, last: Function = lambda y: y) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)
        self.inside, self.last = inside, last

    def forward(self, x: Tensor) -> object:
        x = F.relu(self.mix(self.inside(self.conv(x))))
        return self.last(self.fc(x.sum((2, 3))))


def second_moments(model: nn.Module, images: int = 2) -> dict[str, np.ndarray]:
    prediction = predict_graph(model, declared_moments(model, to_init("he_normal")), digits(images))
    return dict(zip(prediction.layer_names, prediction.value("preact_m2").T, strict=True))


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(
    "repeat",
    [
        lambda x: mean(x) * torch.ones(8, 8),
        lambda x: torch.zeros_like(x[:, :1]) + mean(x),
        lambda x: mean(x) - torch.zeros(1, 1, 8, 8),
        lambda x: mean(x) / torch.ones(8, 1) * torch.ones(8),
    ],
)
def test_a_constant_may_have_more_positions(repeat: Function):
    """A sum over 64 equal positions is 64 times as large."""
    one, repeated = second_moments(Net(mean)), second_moments(Net(repeat))
    np.testing.assert_allclose(repeated["fc"], 64**2 * one["fc"], rtol=1e-9)


class Embedding(nn.Module):
    """An embedding of positions, which is repeated for each image."""

    def __init__(self, repeats: bool) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 4)
        self.embedding = nn.Parameter(torch.full((1, 4, 8), 0.5))
        self.repeats = repeats

    def forward(self, x: Tensor) -> Tensor:
        added = self.embedding.expand(len(x), -1, -1) if self.repeats else self.embedding
        x = self.conv(x).flatten(2).transpose(1, 2).reshape(len(x), 4, 8) + added
        return self.fc(F.relu(x * torch.ones(len(x), 1, 1)).mean(1))


def test_constants_may_be_repeated_for_each_image():
    expected = second_moments(Embedding(False))["fc"]
    np.testing.assert_allclose(second_moments(Embedding(True))["fc"], expected, rtol=1e-12)


@pytest.mark.parametrize("last", [lambda y: {"logits": y}, lambda y: (y, None)])
def test_a_single_tensor_may_be_returned_in_a_dictionary_or_tuple(last: Function):
    net, images = Net(last=last), digits(2)
    certificate = certify(net, images, init="he_normal", measure=2, quiet=True)
    expected = certify(Net(), images, init="he_normal", measure=2, quiet=True)
    for layer, other in zip(certificate.layers, expected.layers, strict=True):
        assert (layer.q, layer.interval) == (other.q, other.interval)


def trained_batch_norm() -> Net:
    norm = nn.BatchNorm2d(8)
    norm.running_mean = torch.arange(8.0)
    return Net(norm).eval()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Net(lambda x: x * torch.randn(1)), r"layer randn: it draws random .* model.eval\(\) \("),
        (Net(lambda x: x + torch.randn_like(x)), "layer randn_like: it draws random numbers"),
        (
            Net(lambda x: x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5).div_(0.5)),
            r"layer bernoulli: it draws random numbers; call model.eval\(\) \(test_graph_const",
        ),
        (Net(nn.RReLU()), "layer inside: it draws random numbers"),
        (
            Net(lambda x: x / len(x)),
            r"layer div: it depends on the number of images: on 2 instead of 1, an argument of div"
            r" is 2 instead of 1; .*max_images=1",
        ),
        (Net(lambda x: x * (10 if len(x) > 1 else 1)), "an argument of mul is 10 instead of 1"),
        (Net(lambda x: x * torch.tensor(1.0 / len(x))), "a constant differs"),
        (Net(lambda x: x if len(x) > 1 else 2 * x), "in the place of|runs in one case only"),
        (Net(lambda x: x.to(torch.int64).to(x.dtype)), "layer to: no gradient flows through it"),
        (Net(lambda x: x.long().float()), "layer long: no gradient flows through it"),
        (
            Net(lambda x: x.transpose(1, 2).reshape(len(x), 64, 8).reshape(x.shape)),
            "mixes channels and positions",
        ),
        (Net(lambda x: torch.roll(x, 7)), "roll without dims mixes channels and positions"),
        (Net(lambda x: torch.maximum(mean(x), torch.zeros(8, 8))), "has more positions"),
        (Net(lambda x: x * torch.arange(8.0)), "a constant has different values; fanin.probe"),
        (trained_batch_norm(), r"running_mean has different values.*model.train\(\).*running_st"),
        (
            Net(last=lambda y: y.squeeze()),
            r"squeeze to \(4,\) removes.*squeeze\(dim",
        ),
        (Net(lambda x: mean(x).squeeze()[:, :, None, None]), r"on one image, .*write squeeze\(dim"),
        (Net(last=lambda y: {"a": y, "b": 2 * y}), r"several outputs \(a, b\); write a module"),
        (
            Net(lambda x: torch.einsum("bchw,bdhw->bchw", x, x)),
            "einsum is not supported; fanin.probe",
        ),
    ],
)
def test_a_refusal_names_the_cause_and_a_remedy(model: nn.Module, message: str):
    with pytest.raises(FaninError, match=re.compile(message, re.S)):
        predict_graph(model, declared_moments(model, to_init("he_normal")), digits(2))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Net(lambda x: x.float()), r"theory runs the model in float64, so write x.to\(self.weight"),
        (Net(torch.vmap(F.relu)), "torch.vmap or another transformation"),
    ],
)
def test_certify_explains_errors_of_the_model(model: nn.Module, message: str):
    with pytest.raises(UnpredictableLayer, match=message):
        certify(model, digits(2), init="he_normal", quiet=True)
