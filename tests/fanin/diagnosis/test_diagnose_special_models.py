"""Models, batches and optimizers of unusual form are neither refused nor blamed."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from fanin import diagnose
from fanin.diagnosis.arguments import _moved
from fanin.errors import InputError

MASK = torch.triu(torch.full((6, 6), float("-inf")), 1)
Pair = namedtuple("Pair", ["features", "label"])


def data(features: int = 20) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(16, features), torch.arange(16) % 4


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))


class Attention(nn.Module):
    """Causal attention of one head; `mask` says where the mask comes from."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 16)
        self.project = nn.Linear(16, 48)
        self.head = nn.Linear(16, 4)
        self.kind = mask
        if mask == "buffer":
            self.register_buffer("mask", MASK)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project(self.embedding(tokens)).chunk(3, -1)
        scores = q @ k.mT / 4
        if self.kind == "fill":
            scores = scores.masked_fill(MASK < 0, float("-inf"))
        elif self.kind == "padding":
            scores = scores.masked_fill((tokens == 0)[:, None], float("-inf"))
        else:
            scores = scores + (self.mask if self.kind == "buffer" else mask)
        return self.head((scores.softmax(-1) @ v).mean(1))


@pytest.mark.parametrize("kind", ["fill", "buffer", "input"])
def test_masks_of_minus_infinity_are_healthy(kind: str) -> None:
    tokens = torch.randint(1, 50, (16, 6), generator=torch.Generator().manual_seed(0))
    batch = (tokens, MASK) if kind == "input" else tokens
    assert diagnose(Attention(kind), batch, data()[1], optimizer=0.1).ok


def test_a_row_that_is_entirely_masked_is_found() -> None:
    """The softmax is named, not the mask before it."""
    tokens = torch.randint(1, 50, (16, 6), generator=torch.Generator().manual_seed(0))
    tokens[3] = 0
    finding = diagnose(Attention("padding"), tokens, data()[1]).findings[0]
    assert finding.cause == "overflow"
    assert finding.layer.startswith("softmax")
    assert "masked" in finding.text


class GraphNet(nn.Module):
    """Graph convolution whose adjacency matrix is an argument or a buffer."""

    def __init__(self, adjacency: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(20, 32), nn.Linear(32, 4)
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: Tensor, adjacency: Tensor | None = None) -> Tensor:
        matrix = self.adjacency if adjacency is None else adjacency
        return self.last(torch.sparse.mm(matrix, self.first(x)).relu())


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_inputs_and_buffers(layout: str) -> None:
    x, y = data()
    matrix = torch.eye(16).to_sparse() if layout == "coo" else torch.eye(16).to_sparse_csr()
    assert diagnose(GraphNet(), (x, matrix), y, optimizer=0.1).ok
    if layout == "coo":  # torch does not copy modules with CSR matrices
        assert diagnose(GraphNet(matrix), x, y, optimizer=0.1).ok


def test_sparse_gradients_of_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Flatten(), nn.Linear(48, 4))
    nn.init.zeros_(model[0].weight)
    tokens = torch.randint(0, 50, (16, 6), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    diagnose(model, tokens, data()[1], optimizer=optimizer)


class LossInModel(nn.Module):
    """A model that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)


def test_a_model_that_returns_its_loss() -> None:
    x, y = data()
    assert diagnose(LossInModel(), {"x": x, "y": y}, loss=lambda output: output, optimizer=0.1).ok


def test_an_optimizer_that_needs_a_closure() -> None:
    model = mlp()
    diagnosis = diagnose(model, *data(), optimizer=torch.optim.LBFGS(model.parameters()))
    assert diagnosis.ok
    assert "learning rate" not in diagnosis.checked
    assert "closure" in diagnosis.not_checked[0]


class PackedGru(nn.Module):
    """GRU on a PackedSequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.head = nn.GRU(8, 16), nn.Linear(16, 4)

    def forward(self, sequence: Any) -> Tensor:
        return self.head(self.gru(sequence)[1][-1])


class ListOfImages(nn.Module):
    """Model with a list of images and a table as arguments, as detection models have."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, images: list[Tensor], table: Tensor) -> Tensor:
        return self.net(torch.stack(images) + table)


def test_batches_of_special_types() -> None:
    x, y = data()
    sequence = pack_sequence([torch.randn(5, 8) for _ in range(16)])
    assert diagnose(PackedGru(), sequence, y, optimizer=0.1).ok
    assert diagnose(mlp(), Pair(x, y), optimizer=0.1).ok
    assert diagnose(nn.DataParallel(mlp()), (x, y), optimizer=0.1).ok
    assert diagnose(mlp(), x.numpy().astype(np.float64), y.numpy(), optimizer=0.1).ok


def test_inputs_of_a_list_are_one_finding() -> None:
    x, y = data()
    (finding,) = diagnose(ListOfImages(), {"images": list(100 * x), "table": x}, y).findings
    assert (finding.cause, finding.layer) == ("input_scale", "images[0]")
    assert "15 more inputs" in finding.text


def test_a_batch_that_is_on_the_device_is_not_moved() -> None:
    """`pack_padded_sequence` takes lengths on the CPU only."""
    device, x, lengths = torch.device("meta"), torch.zeros(4, 2), torch.ones(4, dtype=torch.int64)
    assert [t.device.type for t in _moved((x.to(device), lengths), device)] == ["meta", "cpu"]
    assert [t.device.type for t in _moved((x, lengths), device)] == ["meta", "meta"]


def test_optimizers_that_cannot_train_the_model_are_refused() -> None:
    x, y = data()
    frozen, other = mlp().requires_grad_(False), mlp()
    with pytest.raises(InputError, match="requires_grad"):
        diagnose(frozen, x, y, optimizer=torch.optim.SGD(frozen.parameters(), lr=0.1))
    with pytest.raises(InputError, match="none of the model's parameters"):
        diagnose(mlp(), x, y, optimizer=torch.optim.SGD(other.parameters(), lr=0.1))


def test_a_loader_with_targets_is_refused() -> None:
    x, y = data()
    with pytest.raises(InputError, match="loader"):
        diagnose(mlp(), DataLoader(TensorDataset(x, y)), y)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = mlp()
    model.steps = (i for i in range(3))
    with pytest.raises(InputError, match="cannot be copied"):
        diagnose(model, *data())


def test_learning_rates_of_groups_keep_their_ratio() -> None:
    model = mlp()
    groups = [
        {"params": model[0].parameters(), "lr": 1.0},
        {"params": model[2].parameters(), "lr": 300.0},
    ]
    (finding,) = diagnose(model, *data(), optimizer=torch.optim.SGD(groups)).findings
    assert finding.fix.endswith('group["lr"] *= 0.1')


def weight_normed(std: float | None, depth: int = 12) -> nn.Sequential:
    """Return a deep network with weight normalization, with a small normal init or He's."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(20, 20)
        if std is None:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        else:
            nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(linear.bias)
        layers += [weight_norm(linear), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(20, 4))


class UnrolledRnn(nn.Module):
    """A cell with ReLU whose recurrent weights are too large, on 28 steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.RNNCell(20, 64, nonlinearity="relu")
        self.head = nn.Linear(64, 4)
        nn.init.normal_(self.cell.weight_hh, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 64)
        for _ in range(28):
            state = self.cell(x, state)
        return self.head(state)


def transposed() -> nn.Sequential:
    """Return a decoder of transposed convolutions with a small init."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(20, 128), nn.Unflatten(1, (16, 8))]
    for _ in range(6):
        layers += [nn.ConvTranspose1d(16, 16, 3, padding=1), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=0.01)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 4))


@pytest.mark.parametrize("make", [lambda: weight_normed(0.01), UnrolledRnn, transposed])
def test_the_fix_of_an_init_is_code_that_fixes_the_model(make: Any) -> None:
    model = make()
    finding = diagnose(model, *data()).findings[0]
    assert finding.cause == "init"
    torch.manual_seed(0)
    exec(finding.fix, {"nn": nn, "model": model})
    assert diagnose(model, *data()).ok


def test_layers_with_spectral_norm_are_measured() -> None:
    layers: list[nn.Module] = []
    torch.manual_seed(0)
    for _ in range(15):
        layers += [spectral_norm(nn.Linear(20, 20)), nn.Sigmoid()]
    (finding,) = diagnose(nn.Sequential(*layers, nn.Linear(20, 4)), *data()).findings
    assert (finding.cause, finding.layer) == ("vanishing_gradients", "0")


class SigmoidImages(nn.Module):
    """Autoencoder that ends with a sigmoid and a change of the shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).sigmoid().view_as(images)


def test_a_sigmoid_before_a_change_of_the_shape_is_seen() -> None:
    torch.manual_seed(0)
    images = torch.randn(16, 1, 8, 8)
    (finding,) = diagnose(SigmoidImages(), images, images).findings
    assert finding.cause == "loss_mismatch"
    assert "sigmoid" in finding.text
    assert diagnose(SigmoidImages(), images, images.sigmoid()).ok


def test_one_target_for_all_outputs_is_healthy() -> None:
    """The loss of a least-squares GAN compares all outputs with 1."""
    x, _ = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.LeakyReLU(), nn.Linear(32, 1))
    assert diagnose(model, x, loss=lambda output: F.mse_loss(output, torch.tensor(1.0))).ok
    (finding,) = diagnose(model, x, torch.randn(16), loss="mse_loss").findings
    assert finding.cause == "loss_mismatch"


class SmallUNet(nn.Module):
    """U-Net with torch's default init, whose bottleneck has small gradients but is bypassed."""

    def __init__(self, bottleneck: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(1, 8, 3, padding=1)
        layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(8)]
        self.bottleneck = bottleneck or nn.Sequential(*layers)
        self.up = nn.Conv2d(16, 2, 1)
        self.skip = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x).relu()
        y = F.interpolate(self.bottleneck(F.max_pool2d(x, 2)), scale_factor=2)
        return self.up(torch.cat([x if self.skip else 0 * x, y], 1))


def test_a_branch_around_which_a_skip_connection_leads_may_have_small_gradients() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 1, 16, 16)
    labels = (images[:, 0] > 0).long()
    model = SmallUNet()
    assert diagnose(model, images, labels, optimizer=0.1).ok
    model.skip = False
    assert diagnose(model, images, labels).findings[0].cause == "init"


def test_gradients_are_not_judged_on_a_batch_of_one() -> None:
    """Batch normalization in evaluation mode does not normalize an untrained network."""
    torch.manual_seed(0)
    layers = [(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(12)]
    model = nn.Sequential(*(layer for block in layers for layer in block), nn.Flatten())
    x = torch.randn(1, 8, 4, 4)
    diagnosis = diagnose(model, x, torch.rand(1, 128), optimizer=0.1)
    (finding,) = diagnosis.findings
    assert finding.cause == "batchnorm_batch_of_one"
    assert any("gradients" in reason for reason in diagnosis.not_checked)


def test_the_fix_of_dead_units_suits_the_layer() -> None:
    x, y = data()
    model = nn.Sequential(
        *(nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    )
    nn.init.constant_(model[1].bias, -10.0)
    (finding,) = diagnose(model, x, y).findings
    assert (finding.cause, finding.layer) == ("dead_units", "1")
    exec(finding.fix, {"nn": nn, "model": model})
    assert diagnose(model, x, y).ok


def test_dead_units_of_a_sequence_are_counted_along_its_last_axis() -> None:
    model = mlp()
    nn.init.constant_(model[0].bias, -10.0)
    (finding,) = diagnose(model, torch.randn(16, 7, 20)).findings
    assert finding.text.startswith("100% of the 32 units of layer 0")
