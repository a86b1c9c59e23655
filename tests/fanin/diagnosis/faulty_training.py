"""Faulty setups: loss, learning rate, architecture, init and batch norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from tests.fanin.diagnosis import batches
from tests.fanin.diagnosis.definition import Setup, faulty
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
    layer_norm_net,
    mlp,
)


@faulty("double_softmax")
def softmax_layer(fixed: bool) -> Setup:
    """End the model with a softmax, before CrossEntropyLoss. The loss stays above 1.46."""
    images, targets = batches.normalized_digits(64)
    cnn = SmallCnn()
    model = cnn if fixed else nn.Sequential(cnn, nn.Softmax(dim=1))
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("double_softmax")
def softmax_in_the_loss(fixed: bool) -> Setup:
    """Apply a softmax inside the loss function. The loss stays above 1.46."""
    images, targets = batches.normalized_digits(64)
    criterion = nn.CrossEntropyLoss()

    def loss_function(output: Tensor, target: Tensor) -> Tensor:
        return criterion(F.softmax(output, dim=1), target)

    model = RowLstm()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return Setup(model, images[:, 0], targets, criterion if fixed else loss_function, optimizer)


@faulty("log_of_zero")
def sharp_temperature(fixed: bool) -> Setup:
    """Take the log of a softmax with temperature 0.01. The loss is inf, then NaN."""
    images, targets = batches.normalized_digits(64)

    def loss_function(output: Tensor, target: Tensor) -> Tensor:
        if fixed:
            return F.nll_loss(F.log_softmax(output / 0.01, dim=1), target)
        return F.nll_loss(torch.log(F.softmax(output / 0.01, dim=1)), target)

    model = GroupNormNet()
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, images, targets, loss_function, optimizer)


class MaskedClassifier(ImageAndFeatures):
    """Classifier whose probabilities are 0 for classes that the user excludes."""

    def __init__(self, stable: bool) -> None:
        super().__init__()
        self.stable = stable

    def forward(self, image: Tensor, features: Tensor, allowed: Tensor) -> Tensor:  # type: ignore[override]
        logits = super().forward(image, features).masked_fill(~allowed, -1e9)
        return F.log_softmax(logits, dim=1) if self.stable else F.softmax(logits, dim=1).log()


@faulty("log_of_zero")
def masked_classes(fixed: bool) -> Setup:
    """Exclude classes with logits of -1e9. The first loss is finite, the second is NaN."""
    images, targets = batches.digits(64)
    allowed = torch.arange(10) % 2 == (targets % 2).unsqueeze(1)
    batch = {"image": images, "features": batches.ink(images), "allowed": allowed}
    model = MaskedClassifier(stable=fixed)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return Setup(model, batch, targets, nn.NLLLoss(), optimizer)


@faulty("loss_mismatch")
def nll_of_logits(fixed: bool) -> Setup:
    """Use NLLLoss without a log_softmax. The loss is negative and falls without end."""
    images, targets = batches.normalized_digits(64)
    model = ResNet()
    loss = nn.CrossEntropyLoss() if fixed else nn.NLLLoss()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Setup(model, images, targets, loss, optimizer)


@faulty("loss_mismatch")
def sigmoid_for_a_large_target(fixed: bool) -> Setup:
    """Predict a target from 25 to 346 through a sigmoid. The loss stays at the first value."""
    rows, targets = batches.standardized("diabetes", 64)
    network = TabularMlp(10, 1)
    model = nn.Sequential(network) if fixed else nn.Sequential(network, nn.Sigmoid())
    if fixed:
        targets = (targets - targets.mean()) / targets.std()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return Setup(model, rows, targets.float(), nn.MSELoss(), optimizer)


@faulty("learning_rate")
def rate_of_a_shallow_net(fixed: bool) -> Setup:
    """Train 24 convolutions with SGD at a rate of 1. The loss jumps to 70, then is NaN."""
    images, targets = batches.normalized_digits(32)
    model = deep_cnn(width=24)
    he_init(model)
    optimizer = SGD(model.parameters(), lr=0.003 if fixed else 1.0)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("learning_rate")
def adam_at_a_tenth(fixed: bool) -> Setup:
    """Train a transformer with Adam at 0.1. The loss jumps, then stays at ln 4."""
    tokens, targets = batches.sentences(48)
    model = TextTransformer(batches.vocabulary_size())
    optimizer = Adam(model.parameters(), lr=1e-3 if fixed else 0.1)
    return Setup(model, tokens, targets, nn.CrossEntropyLoss(), optimizer)


class SkipRnn(nn.Module):
    """Recurrent net that adds each update to its state, over rows and columns of an image."""

    def __init__(self, hidden: int = 32, average: bool = False) -> None:
        super().__init__()
        self.read = nn.Linear(14, hidden)
        self.update = nn.Linear(hidden, hidden)
        self.fc = nn.Linear(hidden, 10)
        self.average = average

    def forward(self, sequence: Tensor) -> Tensor:
        state = sequence.new_zeros(len(sequence), self.update.out_features)
        for row in sequence.unbind(dim=1):
            change = F.relu(self.read(row) + self.update(state))
            state = 0.5 * state + 0.5 * change if self.average else state + change
        return self.fc(state)


@faulty("exploding_gradients")
def state_plus_update(fixed: bool) -> Setup:
    """Add a skip connection over time to an RNN. The loss is 2e4, then NaN."""
    images, targets = batches.normalized_digits(64)
    rows = torch.cat([images[:, 0], images[:, 0].transpose(1, 2)], dim=1)
    model = SkipRnn(average=fixed)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Setup(model, rows, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("exploding_gradients")
def residual_blocks_without_norm(fixed: bool) -> Setup:
    """Remove batch norm from a residual net of 24 blocks. The loss is 105, then NaN."""
    images, targets = batches.normalized_digits(32)
    model = ResNet(blocks=24, width=8, norm=fixed)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("vanishing_gradients")
def thirty_sigmoid_layers(fixed: bool) -> Setup:
    """Train 30 sigmoid layers with Xavier's init. The loss stays at ln 10."""
    images, targets = batches.normalized_digits(64)
    hidden = 1 if fixed else 30
    model = mlp((196, *[64] * hidden, 10), nn.Sigmoid)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    optimizer = Adam(model.parameters(), lr=1e-2)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("vanishing_gradients")
def sequences_padded_to_150(fixed: bool) -> Setup:
    """Pad sequences at their end and classify the last output. The loss stays at ln 10."""
    images, targets = batches.normalized_digits(64)
    rows = images[:, 0] if fixed else F.pad(images[:, 0], (0, 0, 0, 136))
    model = RowLstm()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return Setup(model, rows, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("init")
def normal_of_deviation_001(fixed: bool) -> Setup:
    """Draw 24 convolutions from N(0, 0.01), as in AlexNet's paper. The loss stays at ln 10."""
    images, targets = batches.normalized_digits(32)
    model = deep_cnn()
    he_init(model)
    if not fixed:
        for module in model:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.01)
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("init")
def uniform_from_0_to_1(fixed: bool) -> Setup:
    """Call `nn.init.uniform_` without bounds. The loss is 1e13, then stays at ln 4."""
    images, targets = batches.normalized_patches(48)
    model = AlexNet(dropout=0.2)
    he_init(model)
    if not fixed:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.uniform_(module.weight)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("identical_units")
def all_zero(fixed: bool) -> Setup:
    """Start all weights and biases at zero. The loss stays at ln 10."""
    images, targets = batches.normalized_digits(32)
    model = deep_cnn()
    he_init(model)
    if not fixed:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("identical_units")
def constant_weights(fixed: bool) -> Setup:
    """Start all weights at 0.01, so that runs are reproducible. The loss stays at ln 10."""
    images, targets = batches.normalized_digits(64)
    model = layer_norm_net()
    if not fixed:
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.constant_(module.weight, 0.01)
                nn.init.zeros_(module.bias)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("batchnorm_batch_of_one")
def last_batch_of_the_loader(fixed: bool) -> Setup:
    """Keep the loader's last batch, of one sample. The model with BatchNorm1d raises an error."""
    images, targets = batches.digits(33 if not fixed else 32)
    loader = list(zip(images.split(32), targets.split(32), strict=True))
    images, targets = loader[-1]
    model = ImageAndFeatures(norm=True)
    optimizer = Adam(model.parameters(), lr=3e-3)
    batch = (images, batches.ink(images))
    return Setup(model, batch, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("batchnorm_batch_of_one")
def one_image_per_step(fixed: bool) -> Setup:
    """Train on one image per step; batch norm precedes global pooling. The loss stays at ln 10."""
    images, targets = batches.normalized_digits(16)
    size = 16 if fixed else 1
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    (batch, labels), *later = zip(images.split(size), targets.split(size), strict=True)
    return Setup(model, batch, labels, nn.CrossEntropyLoss(), optimizer, tuple(later))
