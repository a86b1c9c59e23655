"""`diagnose` takes batches of any form, and changes nothing."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fanin import diagnose
from fanin.errors import InputError


class TwoInputs(nn.Module):
    """A network with an image and a table as inputs, as keyword or positional arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 36 + 5, 3)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(self.conv(image)).flatten(1), table], 1))


@pytest.fixture
def two_inputs() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return TwoInputs(), torch.randn(8, 1, 8, 8), torch.randn(8, 5), torch.randint(0, 3, (8,))


def test_inputs_as_tuple_dictionary_and_loader(
    two_inputs: tuple[nn.Module, Tensor, Tensor, Tensor],
) -> None:
    """The same problem is found whatever the form of the batch."""
    model, image, table, y = two_inputs
    image = image.clone()
    image[5, 0, 1, 2] = float("inf")
    loader = DataLoader(TensorDataset(image, table, y), batch_size=8)
    batches: list[tuple[Any, Any, str]] = [
        ((image, table, y), None, "input[0]"),
        ((image, table), y, "input[0]"),
        ({"image": image, "table": table, "label": y}, None, "image"),
        ({"image": image, "table": table}, y, "image"),
        ((image.numpy(), table.numpy(), y.numpy()), None, "input[0]"),
        (loader, None, "input[0]"),
    ]
    for batch, targets, name in batches:
        (finding,) = diagnose(model, batch, targets, loss="cross_entropy").findings
        assert finding.cause == "nonfinite_input"
        assert finding.layer == name
        assert finding.text.startswith(f"{name}[5, 0, 1, 2] is inf")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_changes(fails: bool) -> None:
    """Weights, buffers, gradients, mode, hooks and random states stay, also after an exception."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Flatten(), nn.Linear(144, 3)),
    )
    model[1].eval()
    x, y = torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))
    optimizer = torch.optim.Adam(model.parameters(), lr=10.0)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()

    def state() -> list[Any]:
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        moments = [v for s in optimizer.state.values() for v in s.values()]
        return [
            *(tensor.clone() for tensor in model.state_dict().values()),
            *gradients,
            *(value.clone() for value in moments),
            *(module.training for module in model.modules()),
            *(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
            *(torch.get_rng_state(), x.clone(), random.getstate()),
            np.random.get_state()[1].tolist(),  # noqa: NPY002 - the user's state
            optimizer.param_groups[0]["lr"],
        ]

    def failing(output: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError

    before = state()
    if fails:
        with pytest.raises(ZeroDivisionError):
            diagnose(model, x, y, failing, optimizer)
    else:
        assert not diagnose(model, x, y, optimizer=optimizer).ok
    for old, new in zip(before, state(), strict=True):
        assert torch.equal(old, new) if isinstance(old, Tensor) else old == new


@pytest.mark.parametrize(
    ("model", "batch", "loss", "message"),
    [
        (nn.Linear, torch.zeros(1, 2), None, "model is the class Linear"),
        (nn.Linear(2, 2), 3, None, "batch is of type int"),
        (nn.Linear(2, 2), torch.zeros(1, 2), "cross_entropi", "no such function"),
        (nn.Linear(2, 2), torch.ones(1, 2, dtype=torch.uint8), None, r"input.float\(\) / 255"),
        (nn.Linear(2, 2), (torch.zeros(1, 2), torch.tensor([2])), None, "go up to 2, but .* 2 out"),
        (nn.Linear(2, 2), (torch.zeros(4, 2), torch.zeros(4, 2)), F.mse_loss, ""),
    ],
)
def test_bad_arguments(model: Any, batch: Any, loss: Any, message: str) -> None:
    """Wrong arguments raise InputError with one line; a correct call does not."""
    if not message:
        diagnose(model, batch, loss=loss)
        return
    with pytest.raises(InputError, match=message):
        diagnose(model, batch, loss=loss)


def test_a_loss_without_reduction_is_refused() -> None:
    """A loss with several elements raises InputError."""
    with pytest.raises(InputError, match="one element"):
        diagnose(
            nn.Linear(2, 2), torch.randn(4, 2), torch.zeros(4, 2), nn.MSELoss(reduction="none")
        )
