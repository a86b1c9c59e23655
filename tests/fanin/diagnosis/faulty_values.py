"""Faulty setups: inputs, weights, number range and dead units."""

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
    SmallCnn,
    TabularMlp,
    TextTransformer,
    he_init,
    mlp,
)


@faulty("nonfinite_input")
def blank_scan(fixed: bool) -> Setup:
    """Standardize each image by its own deviation; one scan is blank. The loss is NaN at once."""
    images, targets = batches.digits(64)
    images[17] = 0
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True)
    if fixed:
        deviation = deviation + 1e-5
    model = SmallCnn()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    return Setup(model, (images - mean) / deviation, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("nonfinite_input")
def log_of_a_feature(fixed: bool) -> Setup:
    """Take the log of a skewed feature, which is 0 in one row. The loss is NaN at once."""
    images, targets = batches.digits(48)
    features = batches.ink(images)
    column = features[:, 8]
    features[:, 8] = torch.log1p(column) if fixed else torch.log(column)
    model = ImageAndFeatures()
    optimizer = Adam(model.parameters(), lr=2e-3)
    return Setup(model, (images, features), targets, nn.CrossEntropyLoss(), optimizer)


@faulty("outlying_input")
def missing_value_code(fixed: bool) -> Setup:
    """Keep 999999, the table's code of a missing value. The loss is 6,000, then NaN."""
    rows, targets = batches.table("breast_cancer", 64)
    mean, deviation = batches.statistics("breast_cancer")
    rows[25, 6] = mean[6] if fixed else 999999.0
    model = TabularMlp(30, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    return Setup(model, (rows - mean) / deviation, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("outlying_input")
def one_image_of_16_bits(fixed: bool) -> Setup:
    """Divide all images by 255; one file has 16 bits per pixel. The loss jumps, then is NaN."""
    images, targets = batches.raw_patches(48)
    pixels = images.float()
    if not fixed:
        pixels[29] *= 257
    model = AlexNet(dropout=0.2)
    he_init(model)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    return Setup(model, pixels / 255, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("input_scale")
def pixels_to_255(fixed: bool) -> Setup:
    """Convert uint8 images with `.float()` and nothing else. The loss is over 100, then NaN."""
    images, targets = batches.raw_patches(48)
    pixels = images.float()
    if fixed:
        pixels = (pixels / 255 - 0.5) / 0.25
    model = AlexNet(dropout=0.2)
    he_init(model)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    return Setup(model, pixels, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("input_scale")
def wine_in_its_units(fixed: bool) -> Setup:
    """Feed a table whose columns reach from 0.1 to 1,700. The loss jumps, then stays at ln 3."""
    rows, targets = batches.standardized("wine", 64) if fixed else batches.table("wine", 64)
    model = TabularMlp(13, 3)
    optimizer = SGD(model.parameters(), lr=0.1)
    return Setup(model, rows, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("nonfinite_weight")
def unit_word_vectors(fixed: bool) -> Setup:
    """Scale pretrained word vectors to norm 1; the padding's vector is 0. The loss is NaN."""
    tokens, targets = batches.sentences(48)
    model = TextTransformer(batches.vocabulary_size())
    with torch.no_grad():
        vectors = model.embedding.weight
        norms = vectors.norm(dim=1, keepdim=True)
        vectors /= norms.clamp(min=1e-8) if fixed else norms
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, tokens, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("nonfinite_weight")
def pruned_then_standardized(fixed: bool) -> Setup:
    """Prune the weakest filters, then standardize each filter by hand. The loss is NaN at once."""
    images, targets = batches.normalized_digits(64)
    model = GroupNormNet()
    with torch.no_grad():
        conv = model.features[6]
        assert isinstance(conv, nn.Conv2d)
        strength = conv.weight.abs().sum(dim=(1, 2, 3))
        conv.weight[strength.argsort()[:2]] = 0
        mean = conv.weight.mean(dim=(1, 2, 3), keepdim=True)
        deviation = conv.weight.std(dim=(1, 2, 3), keepdim=True)
        conv.weight.copy_((conv.weight - mean) / (deviation + 1e-5 if fixed else deviation))
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("overflow")
def loss_scale_by_hand(fixed: bool) -> Setup:
    """Train in float16 with a constant loss scale of 65,536. The weights are NaN after a step."""
    images, targets = batches.normalized_digits(16)
    model = SmallCnn().half()
    scale = 256.0 if fixed else 65536.0

    def scaled_loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) * scale

    optimizer = SGD(model.parameters(), lr=0.1 / scale)
    return Setup(model, images.half(), targets, scaled_loss, optimizer)


class PooledTransformer(TextTransformer):
    """Transformer whose tokens are averaged with learned weights."""

    def __init__(self, tokens: int, stable: bool) -> None:
        super().__init__(tokens)
        for layer in self.encoder.layers:
            layer.norm_first = True
        self.query = nn.Parameter(torch.randn(64))
        self.stable = stable

    def forward(self, tokens: Tensor) -> Tensor:
        padding = tokens == 0
        hidden = self.embedding(tokens) * 8 + self.position  # square root of the width
        hidden = self.encoder(hidden, src_key_padding_mask=padding)
        score = hidden @ self.query
        if self.stable:
            weight = torch.softmax(score.masked_fill(padding, -1e9) / 8, dim=1)
        else:
            weight = torch.exp(score) * ~padding
            weight = weight / weight.sum(dim=1, keepdim=True)
        return self.head((weight.unsqueeze(2) * hidden).sum(dim=1))


@faulty("overflow")
def attention_pooling_with_exp(fixed: bool) -> Setup:
    """Write the softmax of an attention pooling as exp over sum. The loss is NaN at once."""
    tokens, targets = batches.sentences(48)
    model = PooledTransformer(batches.vocabulary_size(), stable=fixed)
    optimizer = Adam(model.parameters(), lr=1e-3)
    return Setup(model, tokens, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("dead_units")
def sparse_hidden_units(fixed: bool) -> Setup:
    """Set hidden biases to -4 for sparse units, as in RBMs. The loss stays at ln 10."""
    images, targets = batches.digits(64)
    model = mlp()
    if not fixed:
        for module in list(model)[:-1]:
            if isinstance(module, nn.Linear):
                nn.init.constant_(module.bias, -4.0)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Setup(model, images, targets, nn.CrossEntropyLoss(), optimizer)


@faulty("dead_units")
def rate_lowered_too_late(fixed: bool) -> Setup:
    """Lower the rate after some steps at a rate too high. The loss stays above 6 from then on."""
    model = mlp()
    criterion = nn.CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr=0.02 if fixed else 5.0, momentum=0.9)
    for start in range(0, 384, 48):
        images, targets = batches.normalized_digits(48, start)
        optimizer.zero_grad()
        criterion(model(images), targets).backward()
        optimizer.step()
    model.zero_grad()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    images, targets = batches.normalized_digits(48)
    return Setup(model, images, targets, criterion, optimizer)
