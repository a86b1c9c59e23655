"""Exact results of theory `field` on graphs, and models that it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph_draws import digits
from residual_modules import ResidualMlp, ResNet
from torch import Tensor, nn

from fanin.inits import to_init
from fanin.theory.field import FieldTooLarge, Sampling, predict_field
from fanin.theory.graph import channel, predict_graph
from fanin.theory.graph.plan import plan_graph
from fanin.theory.graph.predict import run_plan
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments
from fanin.theory.prediction import Prediction


def predict(model: nn.Module, images: Tensor, init: str = "he_normal", **options) -> Prediction:
    moments = declared_moments(model, to_init(init))
    return predict_graph(model, moments, images, **options)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_sequence_has_the_moments_of_theory_field(activation: type[nn.Module]):
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), activation(), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 16, 3, stride=2), activation(), nn.Flatten(), nn.Linear(16, 10)),
    )
    moments = declared_moments(model, to_init("pytorch_default"))
    images = digits(3)
    on_graph = predict_graph(model, moments, images)
    sequence = predict_field(model, moments, images)
    assert on_graph.layer_names == sequence.layer_names
    assert on_graph.method == sequence.method == "exact"
    for quantity in ("preact_m2", "preact_var", "vjp_m2", "weight_vjp_m2"):
        torch.testing.assert_close(
            on_graph.value(quantity), sequence.value(quantity), rtol=1e-9, atol=0
        )


def test_the_signal_doubles_in_each_residual_block_of_relus():
    """X + W relu(x) adds E[relu(x)^2] Var w fan_in = E[x^2] at He's init, and so does backward."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 32)
            self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1))
            for layer in self.layers:
                x = x + layer(x.relu())
            return x

    prediction = predict(Net(), digits())
    assert prediction.layer_names == (
        *("first", "layers.0", "add", "layers.1", "add_2", "layers.2", "add_3"),
    )
    assert prediction.method == "exact"
    q = prediction.value("preact_m2")[0]
    torch.testing.assert_close(q[2::2] / q[0], torch.tensor([2.0, 4.0, 8.0]).double().numpy())
    vjp = prediction.value("vjp_m2")[0]
    torch.testing.assert_close(vjp[::2], torch.tensor([8.0, 4.0, 2.0, 1.0]).double().numpy())


def test_the_variance_after_a_normalization_is_one():
    prediction = predict(ResidualMlp("layer"), digits(2))
    is_norm = [name.startswith("norms") for name in prediction.layer_names]
    m2 = prediction.value("preact_m2")[:, is_norm]
    torch.testing.assert_close(m2, torch.ones(2, 3).double().numpy(), rtol=1e-5, atol=0)


def test_repeats_differ_only_where_samples_are_needed():
    exact = predict(ResNet(version=2, width=16), digits())
    assert exact.method == "exact"
    sampled = predict(ResNet(version=1, width=16), digits())
    assert sampled.method == "sampled"
    spread = sampled.repeats["vjp_m2"].std(0)[0]
    names = dict(zip(sampled.layer_names, spread, strict=True))
    assert names["fc"] == 0
    assert names["stem"] > 0


class Refused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3)
        self.fc = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.arange(4.0)[:, None, None])
        self.drop = nn.Dropout(0.5)
        self.gate = nn.Conv2d(1, 1, 1)
        self.multiply = nn.Conv2d(4, 8, 3, groups=4)
        self.norm = nn.GroupNorm(2, 6)
        self.six = nn.Conv2d(6, 4, 3)
        self.response = nn.LocalResponseNorm(3)


class WeightsTwice(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.again(F.relu(self.again(self.conv(x)))).flatten(1)


class Detached(Refused):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.again(x.detach())


class Transposed(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.conv(x))


class PositionsAsChannels(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x))


class DifferentScales(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.conv(x)


class ChannelShuffle(Refused):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.again(x.view(-1, 2, 2, 8, 8).transpose(1, 2).reshape(-1, 4, 8, 8))


class SoftmaxInside(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.conv(x).softmax(1))


class OverImages(Refused):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x - x.mean(dim=(0, 2, 3), keepdim=True)


class WithoutGradient(Refused):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        with torch.no_grad():
            gate = x.sigmoid()
        return self.again(x * gate)


class TiedWeights(Refused):
    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.again.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(F.relu(self.again(self.conv(x))))


class OtherStride(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.conv(x), self.again.weight, self.again.bias, stride=2, padding=1)


class WithoutBias(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.conv(x).mean(2), self.fc.weight)


class OneGate(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.conv(x) * self.gate(x).sigmoid())


class MultipliedChannels(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(self.conv(x))


class ImageInGroup(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.six(self.norm(torch.cat([self.conv(x), x, x], 1)))


class ResponseOfTwoTensors(Refused):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.response(torch.cat([x, self.again(x)], 1))


class MaximumOfChannels(Refused):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.again(x - torch.max(x, 1, keepdim=True)[0])


class DropoutInTraining(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.drop(self.conv(x)))


class DropoutFunction(Refused):
    def forward(self, x: Tensor) -> Tensor:
        return self.again(F.dropout(self.conv(x)))


class FlatMaps(nn.Module):
    """The sum of two flattened maps of 4x8x8 and 16x4x4, or of such a map and a linear layer."""

    def __init__(self, is_linear: bool) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.other = nn.Linear(64, 256) if is_linear else nn.Conv2d(1, 16, 2, 2)
        self.fc = nn.Linear(256, 4)
        self.is_linear = is_linear

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(x.flatten(1)) if self.is_linear else self.other(x).flatten(1)
        return self.fc(y + self.one(x).flatten(1))


class TwoOutputs(Refused):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        return {"a": x, "b": self.again(x)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WeightsTwice, "layer again: the weights of layer again are used twice"),
        (Detached, r"layer detach: detach\(\) stops the gradient.*x.detach\(\)"),
        (Transposed, "layer up: transposed convolutions are not supported"),
        (PositionsAsChannels, "layer fc: it reads positions of the image as channels"),
        (DifferentScales, r"layer mul: scale has different values.*self.scale"),
        (ChannelShuffle, r"reshape to \(1, 2, 2, 8, 8\) mixes.*test_predict_graph.py:\d+: return"),
        (SoftmaxInside, "layer softmax: softmax is supported only at the output"),
        (OverImages, "layer mean: mean over images or channels is not supported"),
        (
            DropoutInTraining,
            r"drop: dropout in training mode.*; call model.get_submodule\('drop'\)",
        ),
        (
            DropoutFunction,
            r"layer dropout: .*; pass training=self.training and call model.eval\(\)",
        ),
        (lambda: DropoutFunction().eval(), r"layer dropout: .*; pass training=self.training \("),
        (lambda: FlatMaps(False), r"layer add: it combines a flattened map.*16×4×4, 4×8×8"),
        (lambda: FlatMaps(True), r"layer add: it combines a flattened map.*\(256, 4×8×8\)"),
        (TwoOutputs, r"several outputs \(a, b\)"),
        (WithoutGradient, "layer sigmoid: no gradient flows through it"),
        (TiedWeights, "layer tied: the weights of layer again are used twice"),
        (OtherStride, "layer conv2d: it uses the weight of layer again with another bias, stride"),
        (WithoutBias, "layer linear: it uses the weight of layer fc with another bias"),
        (OneGate, "layer mul: one channel is used with several others"),
        (MultipliedChannels, "layer multiply: it computes several channels from one"),
        (ImageInGroup, "layer norm: a group that contains channels of the images"),
        (ResponseOfTwoTensors, "layer response: it combines channels of different tensors"),
        (MaximumOfChannels, "layer max: the operation max is not supported"),
    ],
)
def test_a_refusal_names_the_layer_and_the_line(model: type[nn.Module], message: str):
    with pytest.raises(UnpredictableLayer, match=re.compile(message, re.S)):
        predict(model(), digits())


class NormTwice(nn.Module):
    """A normalization that is called twice, and another one with the name of its second call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1)
        self.norm, self.norm_2 = nn.GroupNorm(1, 8), nn.GroupNorm(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        return self.norm_2(self.b(self.norm(x))).flatten(1)


def test_each_tensor_has_a_name_of_its_own():
    names = predict(NormTwice(), digits()).layer_names
    assert names == ("a", "norm", "norm_3", "b", "norm_2", "flatten")


def test_weights_of_another_mean_are_refused():
    with pytest.raises(
        UnpredictableLayer, match="layer stem: its weights have a mean other than 0"
    ):
        predict(ResNet(width=4), digits(), init="uniform")


def test_a_large_map_is_refused_with_its_size():
    with pytest.raises(FieldTooLarge, match="layer input: it has 4225 positions"):
        predict(ResNet(width=4), torch.rand(1, 1, 65, 65))


def test_a_seed_gives_the_same_prediction():
    first, same, other = (
        predict(ResNet(width=4), digits(), sampling=Sampling(seed=seed)).repeats["vjp_m2"][0]
        for seed in (0, 0, 1)
    )
    assert (first == same).all()
    assert (first != other).any()


def test_freed_samples_do_not_change_the_moments():
    model, images = ResNet("group", width=8), digits(2)
    moments = declared_moments(model, to_init("he_normal"))
    plan = plan_graph(model, moments, images, Sampling())
    fields = (run_plan(plan, images, 0, 0, summarize=freed) for freed in (False, True))
    for kept, freed in zip(*fields, strict=True):
        for step in plan.reported.values():
            torch.testing.assert_close(freed[step].value.m2, kept[step].value.m2)
            assert freed[step].cotangent is not None
            torch.testing.assert_close(freed[step].cotangent.m2, kept[step].cotangent.m2)
        assert [t.is_sampled for t in freed] == [t.is_sampled for t in kept]


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_large_fields_have_the_moments_of_whitened_ones(norm: str, monkeypatch: pytest.MonkeyPatch):
    """Large fields have float32 samples whose covariances are not exact."""
    model, images = ResNet(norm, width=8), digits(3)
    exact = predict(model, images, sampling=Sampling(repeats=4))
    monkeypatch.setattr(channel, "MAX_WHITENED_POINTS", 0)
    monkeypatch.setattr(channel, "LARGE", 0)
    monkeypatch.setattr(channel, "is_whitened", lambda samples, dimensions: False)
    large = predict(model, images, sampling=Sampling(repeats=4, seed=1))
    for quantity in ("preact_m2", "vjp_m2"):
        logs = [np.log(p.repeats[quantity].mean(1)) for p in (exact, large)]
        errors = [x.std(0, ddof=1) / len(x) ** 0.5 for x in logs]
        z = (logs[0].mean(0) - logs[1].mean(0)) / np.hypot(np.hypot(*errors), 1e-3)
        assert np.abs(z).max() < 5, quantity


class Halves(nn.Module):
    """A function of the halves of a linear layer's outputs, whose second moment is q."""

    def __init__(self, combine) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 16), nn.Linear(8, 10)
        self.wide = nn.Linear(16, 10)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        y = self.combine(self.first(x.flatten(1)))
        return self.last(y) if y.shape[1] == 8 else self.wide(y)


def swapped(x: Tensor) -> Tensor:
    return torch.cat([x[:, 8:], x[:, :8]], 1)


@pytest.mark.parametrize(
    ("combine", "tensor", "expected"),
    [
        (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], "mul", lambda q: q**2),
        (lambda x: x[:, :8] * x[:, :8], "mul", lambda q: 3 * q**2),
        (lambda x: x[:, :8] - x[:, 8:], "sub", lambda q: 2 * q),
        (lambda x: x + swapped(x), "add", lambda q: 2 * q),
        (lambda x: x + swapped(swapped(x)), "add", lambda q: 4 * q),
        (lambda x: x - torch.cat(x.chunk(2, 1), 1), "sub", lambda q: 0 * q),
        (lambda x: F.pad(x[:, 8:], (8, 0)) - x, "sub", lambda q: q / 2),
        (lambda x: torch.rsub(x[:, :8], x[:, 8:], alpha=3), "rsub", lambda q: 10 * q),
        (lambda x: torch.rsub(x, 1.0, alpha=3), "wide", lambda q: 2 * (9 * q + 1)),
        (lambda x: x * (x > 0).float(), "mul", lambda q: q / 2),
        (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), "wide", lambda q: q),
        (nn.PReLU(16), "wide", lambda q: (1 + 0.25**2) * q),
    ],
)
def test_channels_of_different_places_are_independent(combine, tensor: str, expected):
    """For two channels of a Gaussian layer, E[a^2 b^2] = q^2, or 3 q^2 if they are the same."""
    prediction = predict(Halves(combine), digits(2))
    m2 = dict(zip(prediction.layer_names, prediction.value("preact_m2").T, strict=True))
    errors = dict(
        zip(prediction.layer_names, prediction.repeats["preact_m2"].std(0).T, strict=True)
    )
    tolerance = 3 * errors[tensor].max() + 1e-9
    np.testing.assert_allclose(m2[tensor], expected(m2["first"]), atol=tolerance)
