"""`prescribe` scales depthwise convolutions of a network with branches."""

from __future__ import annotations

import pytest
from graph_draws import digits
from rule_modules import Depthwise

from fanin import prescribe
from fanin.theory.certificate import certify


def test_prescribe_gives_depthwise_convolutions_the_target():
    net, images = Depthwise(16), digits()
    prescription = prescribe(net, images, target=2.0)
    assert {"stem", "depthwise", "strided", "fc"} <= set(prescription.gains)
    layers = certify(net, images, init=prescription.init, theories=("field",)).layers
    q = {layer.name: layer.q for layer in layers}
    # The last layers of two branches get half of the target.
    for name, expected in {"stem": 2, "depthwise": 1, "pointwise": 1, "strided": 2}.items():
        assert q[name] == pytest.approx(expected, rel=0.02), name
