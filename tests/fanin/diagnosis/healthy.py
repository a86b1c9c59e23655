"""Healthy setups with properties that look like faults."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from tests.fanin.diagnosis import batches
from tests.fanin.diagnosis.definition import Setup, healthy
from tests.fanin.diagnosis.networks import (
    AlexNet,
    GroupNormNet,
    ImageAndFeatures,
    ResNet,
    RowLstm,
    SmallCnn,
    TabularMlp,
    TextTransformer,
    deep_cnn,
    he_init,
    mlp,
)


@healthy
def pixels_to_1() -> Setup:
    """Train a CNN with PyTorch's default init on pixels in [0, 1], not standardized."""
    images, targets = batches.digits(64)
    model = SmallCnn()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@healthy
def alexnet_with_dropout() -> Setup:
    """Train with dropout of 0.5 before two layers, with Adam at 1e-3."""
    images, targets = batches.normalized_patches(48)
    model = AlexNet()
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@healthy
def deep_relu_net() -> Setup:
    """Train 24 convolutions with He's init and zero biases; half of the activations are 0."""
    images, targets = batches.normalized_digits(48)
    model = deep_cnn()
    he_init(model)
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@healthy
def trained_tanh_net() -> Setup:
    """Continue to train a tanh net, with Xavier's init, on a new batch with large pixels."""
    model = mlp((196, 128, 64, 10), nn.Tanh)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight, nn.init.calculate_gain("tanh"))
            nn.init.zeros_(module.bias)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    for start in range(0, 640, 64):
        images, targets = batches.normalized_digits(64, start)
        optimizer.zero_grad()
        criterion(model(images), targets).backward()
        optimizer.step()
    model.zero_grad()
    images, targets = batches.normalized_digits(64, 640)
    return Setup(model, images, targets, criterion, optimizer)


@healthy
def regression_on_a_scaled_target() -> Setup:
    """Regress a standardized target with MSELoss and one linear output."""
    rows, targets = batches.standardized("diabetes", 64)
    scaled = (targets - targets.mean()) / targets.std()
    model = TabularMlp(10, 1)
    optimizer = AdamW(model.parameters(), lr=5e-3)
    return Setup(model, rows, scaled.float(), nn.MSELoss(), optimizer)


@healthy
def residual_branches_start_at_zero() -> Setup:
    """Train a residual net whose last batch norm of each block starts with a gain of 0."""
    images, targets = batches.normalized_digits(64)
    model = ResNet()
    for name, parameter in model.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.zeros_(parameter)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@healthy
def small_batch_and_zero_head() -> Setup:
    """Train on batches of 4 with group norm; the last layer starts at zero."""
    images, targets = batches.normalized_digits(4)
    model = GroupNormNet()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    optimizer = SGD(model.parameters(), lr=0.02)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@healthy
def padded_tokens() -> Setup:
    """Train a transformer on integer tokens; the embedding of the padding is zero."""
    tokens, targets = batches.sentences(48)
    model = TextTransformer(batches.vocabulary_size())
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, tokens, targets, nn.CrossEntropyLoss(), optimizer)


@healthy
def lstm_with_nll() -> Setup:
    """Train an LSTM with log_softmax as its last layer and NLLLoss."""
    images, targets = batches.normalized_digits(64)
    model = nn.Sequential(RowLstm(), nn.LogSoftmax(dim=1))
    optimizer = Adam(model.parameters(), lr=5e-3)
    return Setup(model, images[:, 0], targets, nn.NLLLoss(), optimizer)


class OddOrEven(ImageAndFeatures):
    """Return the probability that a digit is odd."""

    def __init__(self) -> None:
        super().__init__(outputs=1)

    def forward(self, image: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(super().forward(image, features)).squeeze(1)


@healthy
def sigmoid_with_bce() -> Setup:
    """Train a model with two inputs, a sigmoid output and BCELoss."""
    images, targets = batches.digits(64)
    batch = {"image": images, "features": batches.ink(images)}
    model = OddOrEven()
    optimizer = Adam(model.parameters(), lr=3e-3)
    return Setup(model, batch, (targets % 2).float(), nn.BCELoss(), optimizer)
