"""Tests of every quantity of the probes against a slow reference implementation."""

import pytest
import torch
import torch.nn.functional as F
from slow_probe import RecordedLayer, slow_probe
from torch import Tensor, nn

from fanin.probes import moments
from fanin.probes.measure import LossFunctions, measure
from fanin.probes.moments import random_cotangent
from fanin.probes.probe import probe
from fanin.seeds import make_generator

# Sums of at most 1,000 float64 terms through at most 4 layers.
ROUNDING = 4 * 1_000 * torch.finfo(torch.float64).eps


class Functional(nn.Module):
    """Network with an in-place function as its activation, which hooks cannot record."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 5 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x), inplace=True)
        return self.fc(x.flatten(1))

    def record_layers(self, x: Tensor) -> tuple[list[RecordedLayer], Tensor]:
        hidden = F.conv2d(x, self.conv.weight, self.conv.bias)
        logits = F.relu(hidden).flatten(1) @ self.fc.weight.T + self.fc.bias
        layers = [RecordedLayer("conv", self.conv, hidden), RecordedLayer("fc", self.fc, logits)]
        return layers, logits


NETWORKS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(147, 12), nn.Tanh(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)
    ),
    "conv": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3, dilation=2, padding=2, padding_mode="circular", bias=False),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ),
    "nested_norms": lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.GroupNorm(1, 4), nn.Sequential()),
        nn.GELU(),
        nn.Flatten(),
        nn.Sequential(nn.Linear(36, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout()),
        nn.Linear(8, 3),
    ),
    "one_dimension": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(3, 4, 5, stride=3),
        nn.LeakyReLU(),
        nn.ConvTranspose1d(4, 2, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(62, 3),
    ),
    "units_last": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(49, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3)
    ),
    "functional": Functional,
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name]().double().eval()
    first = next(m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d))
    with torch.no_grad():
        first.bias[0] = -100.0  # inactive on all images
        first.bias[1] = -0.9  # inactive on some images
    return model


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(5, 3, 7, 7, generator=rng, dtype=torch.float64)
    images[1] *= 0.1
    return images, torch.tensor([0, 1, 2, 1, 0])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_quantity_matches_the_slow_reference(name, batch):
    images, targets = batch
    model = network(name)
    table = probe(model, batch, loss=F.cross_entropy, images=(0, 1, 4), seed=3)
    measured = {
        (image, layer, quantity): value
        for image, layer, quantity, value in zip(
            table.image, table.layer_name, table.quantity, table.value, strict=True
        )
    }
    cotangent = random_cotangent(5, 3, make_generator("cotangent", 3))
    reference = slow_probe(model, images, cotangent, targets, F.cross_entropy)
    expected = {key: value for key, value in reference.items() if key[0] in (-1, 0, 1, 4)}
    assert len(table) == len(measured)  # no duplicates
    assert measured.keys() == expected.keys()
    for key, value in expected.items():
        assert measured[key] == pytest.approx(value, rel=ROUNDING, abs=1e-15), key


def test_dead_units_are_inactive_on_every_image(batch):
    table = probe(network("conv"), batch[0], images=(0, 1, 2, 3, 4))
    dead = table[(table.quantity == "dead_fraction") & (table.layer_name == "0")]
    by_image = dead[dead.image >= 0].value
    on_probe_set = dead[dead.image == -1].value.item()
    assert on_probe_set == by_image.min() < by_image.mean()


def test_the_second_moment_is_not_the_batch_variance():
    layer = nn.Linear(6, 50).double()
    table = probe(nn.Sequential(layer), torch.ones(4, 6) + 2)
    value = table.set_index("quantity").value
    preactivation = layer(torch.ones(4, 6).double() + 2)
    assert value.preact_m2 == pytest.approx(preactivation.square().mean().item())
    assert value.preact_m2 > 2 * preactivation.var(dim=0).mean().item()


def test_random_cotangents_have_the_documented_norm():
    u = random_cotangent(100, 7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(u.square().sum(1), torch.full((100,), 7.0, dtype=torch.float64))


def test_layers_are_numbered_from_1_in_forward_order(batch):
    table = probe(network("nested_norms"), batch[0])
    numbered = table[["layer", "layer_name"]].drop_duplicates().itertuples(index=False)
    assert dict(numbered) == {1: "0.0", 2: "1.0", 3: "4.0", 4: "5", -1: ""}


def test_functional_activations_have_no_rows(batch):
    quantities = set(probe(network("functional"), batch[0]).quantity)
    assert not quantities & {"act_m2", "act_zero_fraction", "dead_fraction"}


def test_a_parallel_branch_is_not_the_activation(batch):
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shortcut = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
            self.fc = nn.Linear(147, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((self.conv(x) + self.shortcut(x)).flatten(1))

    assert "act_m2" not in set(probe(Residual(), batch[0]).quantity)


def test_images_without_activity_are_not_correlated():
    images = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    directions = nn.functional.normalize(images, dim=1)
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    value = probe(model, images).set_index("quantity").value.input_correlation
    assert value == pytest.approx((directions[0] @ directions[2]).item())


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float16, 1e4), (torch.bfloat16, 1e38), (torch.float32, 1e38), (torch.float64, 1e307)],
)
def test_an_overflowed_moment_is_inf(dtype, scale):
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)).to(dtype)
    images = torch.ones(3, 8, dtype=dtype)
    with torch.no_grad():
        signs = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)
        model[0].weight.copy_(signs[:, None].expand(64, 8).to(dtype) * scale)
        model[0].weight.mul_(4)
    value = probe(model, images).query("layer == 1").set_index("quantity").value
    for quantity in ("preact_m2", "preact_var", "act_m2"):
        assert value[quantity] == torch.inf
    assert value.act_zero_fraction == value.dead_fraction == 0.5
    assert value.weight_m2 > 0


def test_squares_beyond_float32_are_finite():
    model = nn.Sequential(nn.Linear(4, 8, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1e30)
    value = probe(model, torch.ones(2, 4)).set_index("quantity").value
    assert value.preact_m2 == pytest.approx(16e60)
    assert value.preact_var == pytest.approx(0, abs=16e60 * torch.finfo(torch.float32).eps)
    assert value.input_correlation == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_convolutions_can_be_measured(dtype, batch):
    model = network("conv").to(dtype)
    table = probe(model, batch, loss=F.cross_entropy)
    assert table.value.notna().all()
    double = probe(model.double(), batch, loss=F.cross_entropy)
    m2 = table.quantity == "preact_m2"
    # Each of three layers rounds its weights, inputs and outputs.
    tolerance = 9 * torch.finfo(dtype).eps
    assert table[m2].value.to_numpy() == pytest.approx(double[m2].value.to_numpy(), rel=tolerance)


def test_weight_gradients_do_not_depend_on_chunks(batch):
    images = torch.randn(150, 3, 7, 7, dtype=torch.float64)
    table = probe(network("conv"), images, images=(149,))
    single = measure(
        network("conv"),
        images[149:],
        random_cotangent(150, 3, make_generator("cotangent", 0))[149:],
        single_images=(0,),
    ).layers
    expected = [v for v, image in zip(single["value"], single["image"], strict=True) if image == 0]
    assert table[table.image == 149].value.tolist() == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("elements", [1, moments.CHUNK_ELEMENTS])
@pytest.mark.parametrize(
    ("conv", "side"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), 9),  # 81 positions
        (nn.Conv2d(4, 6, 3, stride=2, dilation=(1, 2), padding=(0, 2)), 7),
        (nn.Conv2d(16, 24, 3, groups=2), 4),  # 4 positions
        (nn.Conv2d(16, 24, 3, padding="same"), 3),
        (nn.Conv2d(16, 24, 3, padding=1, padding_mode="circular"), 3),
    ],
)
def test_weight_gradients_equal_autograd(monkeypatch, conv, side, elements):
    monkeypatch.setattr(moments, "CHUNK_ELEMENTS", elements)
    conv, x = conv.double(), torch.randn(3, conv.in_channels, side, side, dtype=torch.float64)
    y = conv(x)
    cotangent = torch.randn_like(y)
    cotangent[1] = 0
    expected = []
    for image in range(3):
        (gradient,) = torch.autograd.grad(
            y[image], conv.weight, cotangent[image], retain_graph=True
        )
        expected.append(float(gradient.square().mean()))
    m2 = moments.weight_gradient_m2(conv, x, cotangent)
    # Sums of at most 81 * 81 products.
    assert m2.tolist() == pytest.approx(expected, rel=81**2 * torch.finfo(torch.float64).eps)


def test_loss_gradients_need_a_loss(batch):
    model, cotangent = network("mlp"), torch.ones(5, 3)
    quantities = measure(model, batch[0], cotangent, targets=batch[1]).layers["quantity"]
    assert not {"grad_m2", "weight_grad_m2", "sharpness"} & set(quantities)
    losses = LossFunctions(lambda z, y: F.cross_entropy(z, y, reduction="none"), F.cross_entropy)
    quantities = measure(
        model, batch[0], cotangent, targets=batch[1], losses=losses, with_sharpness=True
    ).layers["quantity"]
    assert {"grad_m2", "weight_grad_m2", "sharpness"} <= set(quantities)
