"""Residual networks and their relatives, as torchvision and others write them."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from graph_cases import Case, Lambda, conv
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class BasicBlockV1(nn.Module):
    """He et al. 2016a, with torchvision's `ReLU(inplace=True)` and `out += identity`."""

    def __init__(self, n_in: int = 4, n_out: int = 4, stride: int = 1):
        super().__init__()
        self.conv1 = conv(n_in, n_out, stride)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(n_out, n_out)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class BottleneckV1(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 2, 1)
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1)
        self.conv3 = nn.Conv2d(2, 4, 1)

    def forward(self, x):
        out = F.relu(self.conv1(x), inplace=True)
        out = F.relu(self.conv2(out), inplace=True)
        return F.relu(self.conv3(out) + x)


class BlockV2(nn.Module):
    """He et al. 2016b. The in-place ReLU changes the tensor that the skip adds."""

    def __init__(self, norm: bool, inplace: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.relu = nn.ReLU(inplace=inplace)
        self.conv1 = conv()
        self.conv2 = conv()

    def forward(self, x):
        out = self.conv1(self.relu(self.bn1(x)))
        return x + self.conv2(self.relu(out))


class OptionA(nn.Module):
    """CIFAR ResNet with a lambda shortcut: stride 2, and zeros for the new channels."""

    def __init__(self):
        super().__init__()
        self.conv = conv(4, 8, stride=2)
        self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))

    def forward(self, x):
        return torch.relu(self.conv(x) + self.shortcut(x))


class OptionAConcat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(4, 8, stride=2)

    def forward(self, x):
        skip = F.avg_pool2d(x, 2)
        zeros = torch.zeros(x.size(0), 4, *skip.shape[2:], device=x.device, dtype=x.dtype)
        return self.conv(x).add_(torch.cat((skip, zeros), dim=1))


class ResNet(nn.Module):
    """torchvision's ResNet, with two stages."""

    def __init__(self, classes: int = 5):
        super().__init__()
        self.conv1 = conv(3, 4)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlockV1(4, 4))
        self.layer2 = nn.Sequential(BasicBlockV1(4, 8, 2), BasicBlockV1(8, 8))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, classes)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


class DenseLayer(nn.Module):
    """torchvision's _DenseLayer."""

    def __init__(self, n_in: int, growth: int, drop_rate: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(n_in, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = conv(2 * growth, growth)
        self.drop_rate = float(drop_rate)
        self.memory_efficient = False

    def bn_function(self, inputs):
        return self.conv1(self.relu1(self.norm1(torch.cat(inputs, 1))))

    def any_requires_grad(self, inputs):
        return any(tensor.requires_grad for tensor in inputs)

    def forward(self, input):
        prev_features = [input] if isinstance(input, Tensor) else input
        if self.memory_efficient and self.any_requires_grad(prev_features):
            bottleneck = checkpoint(lambda *f: self.bn_function(f), *prev_features)
        else:
            bottleneck = self.bn_function(prev_features)
        new_features = self.conv2(self.relu2(self.norm2(bottleneck)))
        if self.drop_rate > 0:
            new_features = F.dropout(new_features, p=self.drop_rate, training=self.training)
        return new_features


class DenseBlock(nn.ModuleDict):
    def __init__(self, n_layers: int, n_in: int, growth: int, drop_rate: float = 0.0):
        super().__init__()
        for i in range(n_layers):
            layer = DenseLayer(n_in + i * growth, growth, drop_rate)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, init_features):
        features = [init_features]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                [
                    ("conv0", conv(3, 4)),
                    ("denseblock1", DenseBlock(2, 4, 2)),
                    ("norm5", nn.BatchNorm2d(8)),
                ]
            )
        )
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        features = self.features(x)
        out = F.relu(features, inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 2)
        self.fc2 = nn.Linear(2, 4)

    def forward(self, x):
        b, c, _, _ = x.size()
        gate = x.mean((2, 3))
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(gate)))).view(b, c, 1, 1)
        return x * gate.expand_as(x)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.b1 = nn.Conv2d(4, 2, 1)
        self.b2 = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(True), conv(2, 3))
        self.b3 = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        pooled = F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        return torch.concat([self.b1(x), self.b2(x), self.b3(pooled)], dim=1)


DENSE_1 = "conv2d(relu(batch_norm(conv2d(relu(batch_norm(cat(conv2d(x))))))))"
DENSE_2 = f"conv2d(relu(batch_norm(conv2d(relu(batch_norm(cat(conv2d(x), {DENSE_1})))))))"
STEM = "max_pool2d(relu(batch_norm(conv2d(x))))"


def _basic(x: str, skip: str | None = None) -> str:
    branch = f"batch_norm(conv2d(relu(batch_norm(conv2d({x})))))"
    return f"relu(add({branch}, {skip or x}))"


_LAYER_1 = _basic(STEM)
_LAYER_2 = _basic(_basic(_LAYER_1, f"batch_norm(conv2d({_LAYER_1}))"))

RESIDUAL = {
    "basic block v1": Case(BasicBlockV1, _basic("x")),
    "basic block v1 with downsampling": Case(
        partial(BasicBlockV1, 4, 8, 2), _basic("x", "batch_norm(conv2d(x))")
    ),
    "bottleneck v1": Case(BottleneckV1, "relu(add(conv2d(relu(conv2d(relu(conv2d(x))))), x))"),
    "block v2": Case(
        partial(BlockV2, True, False), "add(x, conv2d(relu(conv2d(relu(batch_norm(x))))))"
    ),
    "block v2, in place after a norm": Case(
        partial(BlockV2, True, True), "add(x, conv2d(relu(conv2d(relu(batch_norm(x))))))"
    ),
    "block v2, in place on the skip": Case(
        partial(BlockV2, False, True),
        "add(relu(identity(x)), conv2d(relu(conv2d(relu(identity(x))))))",
    ),
    "shortcut A, lambda": Case(OptionA, "relu(add(conv2d(x), pad(getitem(x))))"),
    "shortcut A, zeros": Case(OptionAConcat, "add(conv2d(x), cat(avg_pool2d(x), c))"),
    "torchvision resnet": Case(
        ResNet, f"linear(flatten(adaptive_avg_pool2d({_LAYER_2})))", (3, 8, 8)
    ),
    "torchvision densenet": Case(
        DenseNet,
        "linear(flatten(adaptive_avg_pool2d(relu(batch_norm("
        f"cat(conv2d(x), {DENSE_1}, {DENSE_2}))))))",
        (3, 8, 8),
    ),
    "squeeze and excite": Case(
        SqueezeExcite,
        "mul(x, expand_as(reshape(sigmoid(linear(relu(linear(mean(x)))))), x))",
    ),
    "inception": Case(Inception, "cat(conv2d(x), conv2d(relu(conv2d(x))), conv2d(max_pool2d(x)))"),
}
