"""`diagnose` on the situations of the four pages in docs/questions/."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from fanin import Diagnosis, diagnose


def pixels(samples: int) -> tuple[Tensor, Tensor]:
    """Return real digits as RGB images of 32 x 32 pixels from 0 to 255, and their labels."""
    digits = load_digits()
    small = torch.tensor(digits.images[:samples, None] * 255 / 16, dtype=torch.float32)
    return F.interpolate(small, scale_factor=4.0).expand(-1, 3, -1, -1), torch.tensor(
        digits.target[:samples]
    )


def standardized(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 13 * 13, 10)),
    )


def alexnet() -> nn.Sequential:
    convs: list[nn.Module] = []
    for n_in, n_out, pool in (
        *((3, 64, True), (64, 192, True), (192, 384, False)),
        *((384, 256, False), (256, 256, True)),
    ):
        convs += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
        convs += [nn.MaxPool2d(2)] if pool else []
    dense = [nn.Dropout(), nn.Linear(4096, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, 1024)]
    return nn.Sequential(*convs, nn.Flatten(), *dense, nn.ReLU(), nn.Linear(1024, 10))


def plain_cnn(depth: int = 30, width: int = 16) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause for finding in diagnosis.findings]


def sgd(model: nn.Module, rate: float = 0.01) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=rate)


def test_large_outputs_of_raw_pixels_with_torchs_default_init() -> None:
    torch.manual_seed(0)
    x, y = pixels(32)
    model = small_cnn()
    assert causes(diagnose(model, x, y, optimizer=sgd(model))) == ["input_scale"]


def test_relu_net_with_positive_weights_on_one_image_at_a_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(900, 1))
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    target = torch.zeros(1, 1)
    loss = F.binary_cross_entropy_with_logits
    raw, _ = pixels(1)
    assert causes(diagnose(model, raw, target, loss, sgd(model, 1.0))) == ["input_scale", "init"]
    assert causes(diagnose(model, raw / 255, target, loss, sgd(model, 1.0))) == ["init"]


def test_loss_that_is_inf_because_of_the_log_of_a_softmax() -> None:
    torch.manual_seed(0)
    x, y = pixels(32)
    model = small_cnn()
    for parameter in model.parameters():
        parameter.data *= 10

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(z.softmax(1).log(), y)

    assert causes(diagnose(model, standardized(x), y, loss, sgd(model))) == ["log_of_zero"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [alexnet, plain_cnn])
def test_deep_networks_without_normalization(make: type[nn.Sequential]) -> None:
    """With torch's default init, outputs hardly depend on the image; He's init changes that."""
    torch.manual_seed(0)
    x, y = pixels(16)
    model = make()
    assert causes(diagnose(model, standardized(x), y, optimizer=sgd(model))) == ["init"]
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    assert diagnose(model, standardized(x), y, optimizer=sgd(model)).ok
