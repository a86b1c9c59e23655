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


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_running_statistics_are_a_scale_and_a_shift(norm: type[nn.Module]):
    """E[((y - m) / sqrt(v + eps))^2] = (E[y^2] + m^2) / (v + eps) for y of mean 0."""
    layer = norm(8, eps=0.5, track_running_stats=True)
    layer.running_mean.fill_(0.2)
    layer.running_var.fill_(3.0)
    q = second_moments(Net(layer).eval())
    np.testing.assert_allclose(q["inside"], (q["conv"] + 0.04) / 3.5, rtol=1e-9)


def trained_batch_norm() -> Net:
    norm = nn.BatchNorm2d(8)
    norm.running_mean = torch.arange(8.0)
    return Net(norm).eval()


class Vmapped(Net):
    """A network of functions of one image."""

    def forward(self, x: Tensor) -> object:
        return torch.vmap(lambda image: Net.forward(self, image[None])[0])(x)


class WeightStandardDeviation(Net):
    """A network that divides by the standard deviation of a layer's weights."""

    def __init__(self, read: Function = lambda s: s) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor) -> object:
        x = self.mix(F.relu(self.conv(x))) / self.read(self.mix.weight.std() + 1)
        return self.fc(F.relu(x).mean((2, 3)))


class WeightBound(Net):
    """A network that clips at the largest bias of a layer."""

    def forward(self, x: Tensor) -> object:
        return self.fc(torch.clamp(self.conv(x), max=self.conv.bias.max()).mean((2, 3)))


class WeightType(Net):
    """A network that converts to the type of its weights."""

    def forward(self, x: Tensor) -> object:
        return super().forward(x.to(self.conv.weight) + torch.zeros_like(self.mix.weight).sum())


def test_the_type_and_shape_of_weights_may_be_read():
    assert certify(WeightType(), digits(2), init="he_normal", quiet=True).layers


class LearnedScale(Net):
    """A network that reads a scalar of its own as a number, and checks its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> object:
        assert self.mix.weight.isfinite().all()
        return super().forward(self.scale.item() * x)


def test_a_scalar_parameter_may_be_read_as_a_number():
    q, expected = second_moments(LearnedScale()), second_moments(Net())
    np.testing.assert_allclose(q["conv"], expected["conv"] / 4)


REFUSED = {
    "weights": WeightStandardDeviation(),
    "number of weights": WeightStandardDeviation(lambda s: s.item()),
    "bias": WeightBound(),
    "randn": Net(lambda x: x * torch.randn(1)),
    "randn_like": Net(lambda x: x + torch.randn_like(x)),
    "drop path": Net(lambda x: x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5).div_(0.5)),
    "rrelu": Net(nn.RReLU()),
    "batch size": Net(lambda x: x / len(x)),
    "one image": Net(lambda x: x * (10 if len(x) > 1 else 1)),
    "constant of batch size": Net(lambda x: x * torch.tensor(1.0 / len(x))),
    "branch": Net(lambda x: x if len(x) > 1 else 2 * x),
    "int64": Net(lambda x: x.to(torch.int64).to(x.dtype)),
    "long": Net(lambda x: x.long().double()),
    "transposed": Net(lambda x: x.transpose(1, 2).reshape(len(x), 64, 8).reshape(x.shape)),
    "roll": Net(lambda x: torch.roll(x, 7)),
    "maximum": Net(lambda x: torch.maximum(mean(x), torch.zeros(8, 8))),
    "constants": Net(lambda x: x * torch.arange(8.0)),
    "batch norm": trained_batch_norm(),
    "squeeze": Net(last=lambda y: y.squeeze()),
    "squeeze inside": Net(lambda x: mean(x).squeeze()[:, :, None, None]),
    "outputs": Net(last=lambda y: {"a": y, "b": 2 * y}),
    "einsum": Net(lambda x: torch.einsum("bchw,bdhw->bchw", x, x)),
    "float": Net(lambda x: x.float()),
    "vmap": Vmapped(),
}
"""Apart from the messages, because these contain the line of the function."""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "weights",
            r"layer div: it uses a number that is computed from mix.weight, and an init draws the"
            r" weights of layer mix anew; fanin.probe.* \(test_graph_constants.py:\d+: x = ",
        ),
        (
            "number of weights",
            r"layer div: with other weights, an argument of div is .*; Python code reads the value"
            r" of weights, and an init draws them anew",
        ),
        ("bias", "layer clamp: it uses a number that is computed from conv.bias"),
        ("randn", r"layer randn: it draws random numbers; call model.eval\(\).* \("),
        ("randn_like", "layer randn_like: it draws random numbers"),
        (
            "drop path",
            r"layer bernoulli: it draws random numbers; call model.eval\(\).* \(test_gra",
        ),
        (
            "rrelu",
            r"layer inside: it draws random numbers; call model.get_submodule\('inside'\).eval\(\)",
        ),
        (
            "batch size",
            r"layer div: it depends on the number of images: on 2 instead of 1, an argument of div"
            r" is 2 instead of 1; .*max_images=1",
        ),
        ("one image", "an argument of mul is 10 instead of 1"),
        ("constant of batch size", "a constant differs"),
        ("branch", "in the place of|runs in one case only"),
        ("int64", "layer to: no gradient flows through it"),
        ("long", "layer long: no gradient flows through it"),
        ("transposed", "mixes channels and positions"),
        ("roll", "roll without dims mixes channels and positions"),
        ("maximum", "a constant has more positions"),
        ("constants", "layer mul: a constant has different values.*; fanin.probe"),
        ("batch norm", r"running_mean has different values.*model.train\(\).*reset_running_stats"),
        ("squeeze", r"squeeze to \(4,\) removes.*squeeze\(dim"),
        ("squeeze inside", r"on one image, .*write squeeze\(dim"),
        ("outputs", r"several outputs \(a, b\); write a module"),
        ("einsum", "einsum is not supported; fanin.probe"),
        ("float", r"theory runs the model in float64, so write x.to\(self.weight.dtype"),
        ("vmap", "torch.vmap or another transformation"),
    ],
)
def test_a_refusal_names_the_cause_and_a_remedy(name: str, message: str):
    with pytest.raises(UnpredictableLayer, match=re.compile(message, re.S)):
        certify(REFUSED[name], digits(2), init="he_normal", theories=("field",), quiet=True)
