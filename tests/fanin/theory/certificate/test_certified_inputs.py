"""Certificates check the images and the weights before they predict."""

from __future__ import annotations

import threading

import pytest
import torch
from certified_networks import FAST_THEORIES, images, mlp
from torch import nn

from fanin import UnhealthyInit, assert_healthy, certify, diagnose, prescribe
from fanin.errors import FaninWarning, InputError


def raw_pixels() -> torch.Tensor:
    return 255 * images(side=8).abs() / images(side=8).abs().max()


def test_raw_pixels_are_found_with_the_words_of_diagnose() -> None:
    model, pixels = mlp(nn.ReLU(), 3), raw_pixels()
    certificate = certify(model, pixels, init="he_normal", theories=FAST_THEORIES)
    (finding,) = certificate.input_findings
    diagnosed = diagnose(model.double(), {"input": pixels}).findings[0]
    assert finding.cause == diagnosed.cause == "input_scale"
    assert finding.text == diagnosed.text.replace("input", "images")
    assert "✗ The root mean square of images" in str(certificate)
    assert "✓ Healthy" not in str(certificate)
    with pytest.raises(UnhealthyInit, match="root mean square of images") as caught:
        assert_healthy(certificate)
    assert caught.value.findings == certificate.input_findings


def test_prescribe_warns_about_raw_pixels() -> None:
    with pytest.warns(FaninWarning, match="root mean square of images"):
        prescribe(mlp(nn.ReLU(), 3), raw_pixels())


def test_weights_that_are_read_must_be_finite() -> None:
    model = mlp(nn.ReLU(), 3)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"1 values of 1\.weight are NaN"):
        certify(model, images(side=8), theories=FAST_THEORIES)
    certify(model, images(side=8), init="he_normal", theories=FAST_THEORIES)


class LogOfSignal(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 10)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def test_a_nan_is_not_healthy() -> None:
    certificate = certify(
        LogOfSignal(torch.log), torch.randn(2, 4), init="he_normal", theories=("field",), quiet=True
    )
    (verdict,) = certificate.verdicts
    assert (verdict.layer, verdict.problem) == ("last", "exploding")
    assert verdict.message.endswith("is NaN")
    assert "Healthy" not in str(certificate)
    with pytest.raises(UnhealthyInit, match="NaN"):
        assert_healthy(certificate)


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(InputError, match=r"outside torch\.inference_mode"):
        certify(mlp(nn.ReLU(), 3), images(side=8), init="he_normal")


def test_computed_weights_are_refused() -> None:
    model = mlp(nn.ReLU(), 3)
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    torch.nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(InputError, match="its weight is not a parameter but is computed"):
        certify(model, images(side=8), init="he_normal")
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    certify(model, images(side=8), init="he_normal", theories=FAST_THEORIES)


def test_a_model_that_stores_its_features_can_be_certified() -> None:
    class Stores(LogOfSignal):
        def forward(self, x):
            self.features = self.first(x)
            return self.last(self.function(self.features))

    model, x = Stores(torch.relu), torch.randn(2, 4)
    model(x)
    assert certify(model, x, init="he_normal", theories=("field",), quiet=True).layers


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = mlp(nn.ReLU(), 3)
    model.lock = threading.Lock()
    with pytest.raises(InputError, match=r"cannot be copied by copy.deepcopy: .*lock"):
        certify(model, images(side=8), init="he_normal")
