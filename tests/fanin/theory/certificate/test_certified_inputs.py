"""Certificates check the images and the weights before they predict."""

from __future__ import annotations

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
