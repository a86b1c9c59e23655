"""`diagnose` on models whose forward has residual sums and functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fanin import diagnose
from fanin.diagnosis.prediction import predicted_gradient_norms


class Residual(nn.Module):
    """Residual blocks x + W relu(x), with functions in forward."""

    def __init__(self, depth: int = 4, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(16, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, 10)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(torch.relu(x))
        return self.last(torch.relu(x))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(64, 16), torch.randint(0, 10, (64,))


def test_a_residual_network_is_healthy(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    assert diagnose(Residual(2), batch, optimizer=0.01).ok


def test_a_dead_function_is_found(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = Residual(2)
    nn.init.constant_(model.layers[1].bias, -100.0)
    finding = diagnose(model, batch).findings[0]
    assert finding.cause == "dead_units"
    assert finding.layer == "layers.1"  # the layer before torch.relu


def test_a_wrong_init_is_found_with_measured_and_predicted_gradients(
    batch: tuple[Tensor, Tensor],
) -> None:
    torch.manual_seed(0)
    model = Residual(4)
    for layer in model.layers:
        nn.init.normal_(layer.weight, std=3.0)
    finding = diagnose(model, batch).findings[0]
    assert finding.cause == "init"
    assert "prescribe() computes these factors" in finding.fix
    assert "layers.3" in finding.fix


def test_predicted_gradients_are_those_of_the_residual_network(
    batch: tuple[Tensor, Tensor],
) -> None:
    """At He's init, the squared gradient of the stream doubles in each block."""
    model = Residual(3, 256)
    norms = predicted_gradient_norms(model, batch[0])
    assert list(norms)[-1] == "add_3"
    # Variances estimated from 256 * 256 weights have a relative error of 0.6 %.
    assert norms["first"] == pytest.approx(8**0.5, rel=0.03)
    assert norms["add"] == pytest.approx(2.0, rel=0.03)
