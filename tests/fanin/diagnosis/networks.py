"""Ten networks, as users write them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SmallCnn(nn.Module):
    """Two convolutions and two linear layers on digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 16, 5, padding=2)
        self.fc1 = nn.Linear(16 * 3 * 3, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class AlexNet(nn.Module):
    """Five convolutions and three linear layers with dropout on colour patches of 32x32."""

    def __init__(self, classes: int = 4, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(48, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(32 * 2 * 2, 128),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(128, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def deep_cnn(width: int = 16) -> nn.Sequential:
    """Build 24 convolutions in three stages, as VGG without batch norm, for digits."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
    for stage in range(3):
        for _ in range(7 if stage == 0 else 8):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 10))


def he_init(model: nn.Module) -> None:
    """Draw convolutions and linear layers with the init of He et al. (2015), biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def mlp(
    sizes: tuple[int, ...] = (196, 128, 128, 64, 10), activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Build a perceptron with the given layer sizes on flattened images."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class TabularMlp(nn.Module):
    """Two hidden layers on the features of a table; one output is returned as (rows,)."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


class Block(nn.Module):
    """Two convolutions and a skip connection, with or without batch norm."""

    def __init__(self, width: int, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.bn2 = nn.BatchNorm2d(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + y)


class ResNet(nn.Module):
    """Residual CNN with batch norm, global average pooling and one linear layer, for digits."""

    def __init__(self, blocks: int = 4, width: int = 16, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 5, stride=2, padding=2, bias=not norm)
        self.bn = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(*(Block(width, norm) for _ in range(blocks)))
        self.fc = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(F.relu(self.bn(self.conv(x)))))
        return self.fc(x.mean(dim=(2, 3)))


class GroupNormNet(nn.Module):
    """Four convolutions with group norm and one linear layer, for digits."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [
                nn.Conv2d(width if index else 1, width, 3, stride=1 + index % 2, padding=1),
                nn.GroupNorm(4, width),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def layer_norm_net() -> nn.Sequential:
    """Build a perceptron with layer norm before each ReLU, for digits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(196, 128),
        nn.LayerNorm(128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.LayerNorm(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class TextTransformer(nn.Module):
    """Embedding, two encoder layers, mean over the tokens, and one linear layer."""

    def __init__(self, tokens: int, classes: int = 4, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        padding = tokens == 0
        hidden = self.embedding(tokens) + self.position
        hidden = self.encoder(hidden, src_key_padding_mask=padding)
        keep = (~padding).unsqueeze(2)
        return self.head((hidden * keep).sum(dim=1) / keep.sum(dim=1))


class RowLstm(nn.Module):
    """LSTM on the rows of an image, read from the top; the last output is classified."""

    def __init__(self, features: int = 14, hidden: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, rows: Tensor) -> Tensor:
        output, _ = self.lstm(rows)
        return self.fc(output[:, -1])


class ImageAndFeatures(nn.Module):
    """CNN on an image and linear layer on features; both are concatenated."""

    def __init__(self, features: int = 49, outputs: int = 10, norm: bool = False) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 32),
            nn.ReLU(),
        )
        self.norm = nn.BatchNorm1d(features) if norm else nn.Identity()
        self.tabular = nn.Sequential(nn.Linear(features, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        both = [self.cnn(image), self.tabular(self.norm(features))]
        return self.head(torch.cat(both, dim=1))
