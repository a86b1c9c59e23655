"""Operations of a graph without a rule: a restart from measured tensors of drawn networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from certified_networks import images
from scipy.stats import norm
from torch import Tensor, nn

from fanin.inits import HeNormal
from fanin.theory.certificate import Certificate, certify
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.predict import predict_moments

WIDTH = 48
IMAGES = images(2, side=8)


def sorted_channels(x: Tensor) -> Tensor:
    """Combine channels, which no rule does."""
    return x.sort(dim=1).values


class Net(nn.Module):
    """Two residual blocks, with an operation in the branch of the second."""

    def __init__(self, unsupported: Callable[[Tensor], Tensor] = sorted_channels) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, 3, stride=2, bias=False)
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.third = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.head = nn.Linear(WIDTH, 10)
        self.unsupported = unsupported

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x.relu())
        x = x + self.unsupported(self.second(x.relu()))
        x = x + self.third(x.relu())
        return self.head(x.mean((2, 3)))


class AfterTheStem(Net):
    """The operation is before all blocks, so its output is the only measured tensor."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.unsupported(self.stem(x))
        x = x + self.first(x.relu())
        x = x + self.third(x.relu())
        return self.head(x.mean((2, 3)))


class Several(Net):
    """The operation returns several tensors; only their sum can be measured."""

    def forward(self, x: Tensor) -> Tensor:
        y, order = self.stem(x).sort(dim=1)
        return self.head((y * (order > 3)).mean((2, 3)))


def restarted(model: nn.Module, measure: int = 0) -> Certificate:
    return certify(
        *(model, IMAGES),
        init=HeNormal(),
        theories=("field",),
        restart=True,
        measure=measure,
    )


def test_without_restart_the_operation_is_named():
    with pytest.raises(UnpredictableLayer, match="sort is not supported"):
        certify(Net(), IMAGES, init=HeNormal(), theories=("field",))


def test_a_branch_and_its_sum_are_measured():
    """The sum's other term depends on the same weights, so its correlation is unknown."""
    certificate = restarted(Net())
    bases = {layer.name: layer.restarted_at for layer in certificate.layers}
    assert bases == {
        "stem": None,
        "first": None,
        "add": None,
        "second": None,
        "add_2": "add_2",
        "third": "add_2",
        "add_3": "add_2",
        "head": "add_2",
    }
    assert list(certificate.unpredicted) == ["sort", "add_2"]
    assert "sort is not supported" in certificate.unpredicted["sort"]
    assert "same weights" in certificate.unpredicted["add_2"]
    layer_bases = {layer.name: layer.basis for layer in certificate.layers}
    assert layer_bases.pop("add_2") == "measured"
    assert set(layer_bases.values()) == {"theory", "measured restart"}
    rows = certificate.frame[certificate.frame.layer_name == "add_2"]
    bases_by_quantity = dict(zip(rows.quantity, rows.basis, strict=True))
    assert bases_by_quantity["preact_m2"] == "measured"
    assert bases_by_quantity["vjp_m2"] == "measured restart"
    text = " ".join(str(certificate).split())
    assert "add_2†" in text
    assert "† measured in 4 new draws" in text
    assert "third*" in text


class InTwoPlaces(Net):
    """The operation is in two places, and it returns two tensors."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.unsupported(self.stem(x))
        x = self.first(sum(self.unsupported(x).sort(dim=2)[:1]))
        y = F.max_pool2d(x, 2, return_indices=True)
        return self.head(torch.cat(list(y[:1]), 1).mean((2, 3)))


def test_each_unsupported_call_has_a_name_and_each_reason_one_note():
    certificate = restarted(InTwoPlaces())
    assert list(certificate.unpredicted) == ["sort", "sort_2", "sort_3", "max_pool2d"]
    assert certificate.layer("first").restarted_at == "sort_3"
    text = " ".join(str(certificate).split())
    assert 'activations of "sort", "sort_2": ' in text
    assert text.count("* predicted from") == 3


def test_cotangents_before_the_measured_tensor_are_not_predicted():
    certificate = restarted(Net())
    has_backward = {layer.name for layer in certificate.layers if "vjp_m2" in layer.predicted}
    assert has_backward == {"add_2", "third", "add_3", "head"}


@pytest.mark.parametrize("model", [Net, AfterTheStem, Several])
def test_restarted_predictions_agree_with_new_draws(model: type[Net]):
    """Predictions restart from 4 draws and are compared with 40 others, in both directions."""
    certificate = restarted(model(), measure=40)
    scores = []
    for layer in certificate.layers:
        for quantity in ("preact_m2", "vjp_m2", "weight_vjp_m2"):
            predicted = layer.predicted.get(quantity)
            if predicted is None:
                continue
            mean, se = layer.measured[quantity]
            # 2 % for the width: the deviation of a layer is of the order of 1 / WIDTH.
            error = (se**2 + predicted.sampling_se**2 + (0.02 * mean) ** 2) ** 0.5
            scores.append((mean - predicted.value) / error)
    assert np.abs(scores).max() < norm.isf(0.005 / len(scores))
    errors = [layer.predicted["preact_m2"].sampling_se for layer in certificate.layers]
    assert errors[-1] > 0


def test_a_supported_graph_has_no_restart():
    model = Net(unsupported=torch.tanh)
    certificate = restarted(model)
    assert not certificate.unpredicted
    assert set(certificate.frame.basis) == {"theory"}
    moments = certificate.inputs.weights.moments
    frame = predict_moments(model.double(), moments, IMAGES.double(), ("field",))
    rows = certificate.frame.merge(frame, on=["image", "layer_name", "quantity"])
    same = np.isclose(rows.value_x, rows.value_y, rtol=1e-9, equal_nan=True)
    assert len(rows)
    assert same.all()


class OnImages(Net):
    """The operation is before all weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.unsupported(x))
        return self.head((x + self.first(x.relu())).mean((2, 3)))


def test_an_operation_on_the_images_changes_no_prediction():
    """Sorting a single channel does nothing, and the images are the same in all draws."""
    certificate, expected = restarted(OnImages()), restarted(OnImages(lambda x: x))
    assert {layer.restarted_at for layer in certificate.layers} == {"sort"}
    for layer in certificate.layers:
        value = expected.layer(layer.name).predicted["preact_m2"].value
        assert layer.predicted["preact_m2"].value == pytest.approx(value, rel=1e-9)
