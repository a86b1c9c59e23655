"""Layers without a formula: an error, or a restart from measured activations."""

from __future__ import annotations

import pytest
import torch
from certified_networks import FAST_THEORIES, images
from torch import Tensor, nn

from fanin.inits import HeNormal
from fanin.theory.certificate import certify
from fanin.theory.layer_kind import UnpredictableLayer


class Residual(nn.Module):
    """Residual block x + W x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class MiddleAverage(nn.Module):
    """Module without weights that mixes units."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True) ** 2


def residual_net(width: int = 128) -> nn.Sequential:
    before = (nn.Flatten(), nn.Linear(64, width), nn.ReLU())
    after = (nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    return nn.Sequential(*before, Residual(width), *after)


def test_residual_block_raises() -> None:
    with pytest.raises(UnpredictableLayer, match="layer 3: Residual is not supported"):
        certify(residual_net(), images(side=8), init=HeNormal(), theories=FAST_THEORIES)


def test_restart_continues_after_the_block() -> None:
    certificate = certify(
        residual_net(), images(side=8), init=HeNormal(), theories=FAST_THEORIES, restart=True
    )
    assert [layer.name for layer in certificate.layers] == ["1", "4", "6"]
    # The weight layer inside the block is also numbered.
    assert [layer.layer for layer in certificate.layers] == [1, 3, 4]
    assert [layer.basis for layer in certificate.layers] == [
        *("theory", "measured restart", "measured restart")
    ]
    assert [layer.restarted_at for layer in certificate.layers] == [None, "3", "3"]
    assert set(certificate.frame.basis) == {"theory", "measured restart"}
    assert "Residual" in certificate.unpredicted["3"]


def test_cotangents_are_predicted_only_after_the_restart() -> None:
    before, *after = certify(
        residual_net(), images(side=8), init=HeNormal(), theories=FAST_THEORIES, restart=True
    ).layers
    assert "vjp_m2" not in before.predicted
    assert all(layer.value("vjp_m2") > 0 for layer in after)


def test_restarted_predictions_agree_with_new_draws() -> None:
    """Predictions restart from the activations of 4 draws and are compared to 16 other draws."""
    certificate = certify(
        *(residual_net(512), images(side=8)),
        init=HeNormal(),
        theories=FAST_THEORIES,
        restart=True,
        measure=16,
    )
    for layer in certificate.layers:
        mean, error = layer.measured["preact_m2"]
        predicted = layer.predicted["preact_m2"]
        assert abs(mean - predicted.value) < 4 * (error**2 + predicted.sampling_se**2) ** 0.5
    # The variation between the four draws is part of the sampling error.
    assert certificate.layers[1].predicted["preact_m2"].sampling_se > 0


def test_several_restarts() -> None:
    net = residual_net(32)
    two_blocks = nn.Sequential(*net[:-1], Residual(32), nn.ReLU(), nn.Linear(32, 10))
    layers = certify(
        two_blocks, images(side=8), init=HeNormal(), theories=FAST_THEORIES, restart=True
    ).layers
    assert [layer.restarted_at for layer in layers] == [None, "3", "6"]


def test_restart_after_a_module_without_weights() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), MiddleAverage(), nn.Linear(32, 10))
    with pytest.raises(UnpredictableLayer, match="layer 2: MiddleAverage"):
        certify(net, images(side=8), init=HeNormal(), theories=("mean_field",))
    layers = certify(
        net, images(side=8), init=HeNormal(), theories=FAST_THEORIES, restart=True
    ).layers
    assert [layer.restarted_at for layer in layers] == [None, "2"]


def test_no_restart_after_group_norm() -> None:
    """The sequence has no formula, but the graph has one."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(800, 10)),
    ).train()
    for restart in (False, True):
        layers = certify(
            net, images(4), init=HeNormal(), theories=("field",), restart=restart
        ).layers
        assert [(layer.name, layer.restarted_at) for layer in layers] == [
            *(("0", None), ("1", None), ("4", None))
        ]


def blocks(between: nn.Module) -> nn.Sequential:
    first = (nn.Flatten(), nn.Linear(64, 32), Residual(32), nn.ReLU(), between)
    return nn.Sequential(*first, Residual(32), nn.Linear(32, 10))


def test_a_sequence_of_blocks_is_read_as_a_graph() -> None:
    rows = ["1", "2.inner", "2.add", "5.inner", "5.add", "6"]
    plain, supported, measured = (
        certify(blocks(between), images(side=8), init=HeNormal(), restart=restart, quiet=True)
        for between, restart in (
            *((nn.Identity(), False), (nn.Identity(), True), (MiddleAverage(), True)),
        )
    )
    for certificate in (supported, measured):
        assert [layer.name for layer in certificate.layers if layer.name != "4.sub"] == rows
    assert not supported.unpredicted
    assert [layer.q for layer in supported.layers] == [layer.q for layer in plain.layers]
    assert {layer.restarted_at for layer in measured.layers[:3]} == {None}
    assert {layer.restarted_at for layer in measured.layers[-3:]} == {"4.sub"}


def test_restart_needs_a_sequential_model() -> None:
    with pytest.raises(UnpredictableLayer, match="for the model: "):
        certify(
            Residual(64), torch.ones(1, 64), init=HeNormal(), theories=FAST_THEORIES, restart=True
        )
