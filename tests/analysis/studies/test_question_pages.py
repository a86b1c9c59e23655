"""The pages of docs/questions/: length, figure, and the snippet that fixes the problem."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.scoring.inputs import questions
from analysis.scoring.summary import summaries
from experiments.sweep.provenance import REPOSITORY

PAGES = REPOSITORY / "docs" / "questions"
MAX_NUMBERS = 8
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def numbers(text: str) -> list[str]:
    """Return the numbers in the prose of a page: without code, comments and addresses."""
    prose = re.sub(r"```.*?```|<!--.*?-->|`[^`]*`|\]\([^)]*\)|!\[[^]]*", "", text, flags=re.DOTALL)
    return re.findall(r"\d[\d,.]*(?:e\d+)?", prose)


def test_numbers_are_counted_in_prose_only() -> None:
    text = "5 of 8 (`lr=3`), 1e6.\n```python\nx = 4\n```\n[page](a1.md) <!-- date: 2026 -->"
    assert numbers(text) == ["5", "8", "1e6"]


@pytest.mark.parametrize("name", questions())
def test_a_page_is_short(name: str) -> None:
    text = page(name)
    assert len(numbers(text)) <= MAX_NUMBERS
    assert text.count("![") == (name in summaries())
    assert len(CODE.findall(text)) == 1
    answer = text.split("\n\n")[1]
    assert 2 <= len(re.findall(r"[.:](?:\s|$)", answer)) <= 5  # three sentences


def run_snippet(name: str, **variables: Any) -> dict[str, Any]:
    """Run the snippet of a page with the reader's variables; return all variables."""
    (code,) = CODE.findall(page(name))
    exec(code, variables)  # the snippet is ours
    return variables


def pixels(n: int = 256) -> tuple[Tensor, Tensor]:
    """Return digits of 8 x 8 pixels from 0 to 255, and their labels."""
    digits = load_digits()
    x = torch.tensor(digits.images[:n, None] * 255 / 16, dtype=torch.float32)
    return x, torch.tensor(digits.target[:n])


def with_uniform_weights(model: nn.Sequential) -> nn.Sequential:
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    return model


def rms(outputs: Tensor) -> float:
    return float(outputs.detach().square().mean().sqrt())


def small_cnn() -> nn.Sequential:
    return with_uniform_weights(
        nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)),
        )
    )


def test_the_snippet_keeps_outputs_small_and_trains() -> None:
    torch.manual_seed(0)
    (x, y), model = pixels(), small_cnn()
    assert rms(model(x)) > 1e6
    fixed = run_snippet("large_outputs", model=model, x=x, y=y)
    logits = fixed["model"](fixed["x"])
    assert rms(logits) < 100
    assert (logits.argmax(1) == y).float().mean() > 0.9


class OneFilter(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        self.fc = nn.Linear(side**2, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(1))[:, 0]


def circle_and_cross() -> tuple[Tensor, Tensor]:
    from experiments.data import Shapes

    data = Shapes(train_size=2, test_size=2).load(REPOSITORY, False, 0)
    return data.train.x.float() / 255, data.train.y.float()


def train_on_one_image_at_a_time(
    model: OneFilter, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int
) -> None:
    for step in range(steps):
        loss = F.binary_cross_entropy_with_logits(model(x[[step % 2]]), y[[step % 2]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("seed", range(3))
def test_the_snippet_keeps_the_relu_alive_and_classifies_both_images(seed: int) -> None:
    x, y = circle_and_cross()
    lr = 0.01
    torch.manual_seed(seed)
    model = OneFilter(x.shape[-1])
    train_on_one_image_at_a_time(model, torch.optim.SGD(model.parameters(), lr), x, y, 2)
    assert not model.features(x).any()  # dead
    torch.manual_seed(seed)
    model = OneFilter(x.shape[-1])
    fixed = run_snippet("dying_relu", model=model, x=255 * x)
    optimizer, x = fixed["optimizer"], fixed["x"]
    train_on_one_image_at_a_time(model, optimizer, x, y, 400)
    assert model.features(x).any()
    assert classifies_both(model, x, y)


def classifies_both(model: OneFilter, x: Tensor, y: Tensor) -> bool:
    return bool(((model(x) > 0) == (y > 0)).all())


def test_a_smaller_rate_for_all_layers_classifies_both_images_but_needs_more_steps() -> None:
    x, y = circle_and_cross()
    torch.manual_seed(10)
    model = OneFilter(x.shape[-1])
    nn.init.constant_(model.fc.bias, 0.5)  # the number of steps is proportional to it
    optimizer = torch.optim.SGD(model.parameters(), 0.002)
    train_on_one_image_at_a_time(model, optimizer, x, y, 400)
    assert not classifies_both(model, x, y)
    assert not model.features(x[y == 0]).any()  # the cross's feature map is zero
    train_on_one_image_at_a_time(model, optimizer, x, y, 3600)
    assert classifies_both(model, x, y)


def mlp(n_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in in (64, *[128] * (n_layers - 2)):
        layers += [nn.Linear(n_in, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def deep_mlp() -> nn.Sequential:
    model = mlp(42)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def test_the_snippet_makes_the_loss_finite() -> None:
    torch.manual_seed(0)
    x, y = pixels()
    x = x * 10 ** torch.linspace(0, 3, 64).reshape(1, 8, 8)  # features of unequal scale
    model = deep_mlp()
    assert not F.cross_entropy(model(x), y).isfinite()
    fixed = run_snippet("inf_loss", model=model, x=x, y=y, lr=0.1)
    assert fixed["loss"] < 2  # log(10) = 2.3 at chance


def with_he_init(model: nn.Sequential) -> nn.Sequential:
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model


@pytest.mark.parametrize("seed", range(3))
def test_the_snippet_keeps_later_losses_finite(seed: int) -> None:
    torch.manual_seed(seed)
    (x, y), lr = pixels(), 2.0
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
    model = with_he_init(mlp(6))
    optimizer = torch.optim.SGD(model.parameters(), lr)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] < 10
    assert not math.isfinite(losses[-1])
    fixed = run_snippet("inf_loss", model=mlp(6), x=x, y=y, lr=lr)
    assert fixed["loss"] < 0.1


def test_the_snippet_refuses_a_nan_that_isinf_misses() -> None:
    x, y = pixels()
    x[3, 0, 2, 2] = torch.nan
    assert not torch.isinf(x).any()
    with pytest.raises(ValueError, match="contains inf or NaN"):
        run_snippet("inf_loss", model=deep_mlp(), x=x, y=y, lr=0.1)


def alexnet() -> nn.Sequential:
    sizes = ((1, 24, True), (24, 64, True), (64, 96, False), (96, 96, False), (96, 64, True))
    layers: list[nn.Module] = []
    for n_in, n_out, pool in sizes:
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    layers += [nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)]
    return with_uniform_weights(nn.Sequential(*layers))


def subtract_means(model: nn.Sequential, x: Tensor) -> Tensor:
    """Apply the model, and subtract the mean of each channel after each convolution."""
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            x = x - x.mean((0, 2, 3), keepdim=True)
    return x


def test_the_snippet_keeps_an_alexnets_outputs_small() -> None:
    torch.manual_seed(0)
    x, _ = pixels(32)
    model = alexnet()
    assert rms(model(x)) > 1e6
    assert rms(subtract_means(model, x)) > 1e6
    fixed: Callable[[Tensor], Tensor] = run_snippet("alexnet_variance", model=model)["model"]
    assert 0.1 < rms(fixed(x)) < 10
