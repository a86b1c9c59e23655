"""Small modules as users write them, with the graph that each must give.

`CASES` has for each module the shape of one image, and the graph as a nested expression: the names
of `Node.operation` with their inputs. `x` is the input, `p` a parameter, `b` a buffer, `c` a
constant.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fanin.graph import Graph, Node


@dataclass
class Case:
    build: Callable[[], nn.Module]
    expected: str | list[str]  # of each output, in order
    image: tuple[int, ...] = (4, 8, 8)


def expression(node: Node) -> str:
    """Return a node as a nested expression of operations."""
    short = {"input": "x", "parameter": "p", "buffer": "b", "constant": "c"}
    if node.kind in short:
        return short[node.kind]
    return f"{node.operation}({', '.join(map(expression, node.inputs))})"


def expressions(graph: Graph) -> list[str]:
    return [expression(node) for node in graph.outputs.values()]


def conv(n_in: int = 4, n_out: int = 4, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


class Lambda(nn.Module):
    def __init__(self, function: Callable[..., Any], *modules: nn.Module):
        super().__init__()
        self.function = function
        self.children_ = nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.children_)


# --- residual networks --------------------------------------------------------------------------


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
        for _, layer in self.items():
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
    "block v2": Case(partial(BlockV2, True, False), "add(x, conv2d(relu(conv2d(relu(batch_norm(x))))))"),
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
    "inception": Case(
        Inception, "cat(conv2d(x), conv2d(relu(conv2d(x))), conv2d(max_pool2d(x)))"
    ),
}  # fmt: skip


# --- Python code in forward -----------------------------------------------------------------------


class ShapeCode(nn.Module):
    """Branches, assertions and loops over shapes."""

    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x):
        assert x.shape[1] == 4, "channels"
        assert len(x) and x.ndim == 4
        if x.shape[-1] > 4:
            x = F.avg_pool2d(x, 2)
        if x.shape[-1] > 8:
            x = F.max_pool2d(x, 2)
        total = 0
        for i in range(x.shape[1]):
            total = total + x[:, i : i + 1]
        return self.conv(x) + total


class SlicedFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv(), nn.ReLU(), conv(), nn.Tanh())

    def forward(self, x):
        return self.features[2:](self.features[:2](x) + x)


class OptionalMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x, mask=None, scale: float | None = 2.0):
        if not isinstance(x, Tensor):
            raise TypeError
        x = self.conv(x)
        if mask is not None:
            x = x * mask
        if scale is not None:
            x = x * scale
        return x


class Loops(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([conv(), conv()])
        self.heads = nn.ModuleDict({"a": conv(), "b": conv()})

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return {name: head(x) for name, head in self.heads.items()}


class SharedLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(self.conv(self.act(self.conv(x))))


class TiedWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 3, bias=False)
        self.decode = nn.Linear(3, 6, bias=False)
        self.decode.weight = nn.Parameter(torch.randn(6, 3))
        self.tied = nn.Linear(6, 3, bias=False)
        self.tied.weight = self.encode.weight

    def forward(self, x):
        return F.linear(self.tied(self.decode(self.encode(x))), self.encode.weight.t())


class Standardized(nn.Conv2d):
    """Weight standardization: a subclass of Conv2d that is not a Conv2d."""

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w, self.bias)


class FunctionalNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x):
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, training=self.training
        )
        x = F.group_norm(x, 2)
        return F.layer_norm(x, x.shape[1:])


class TokenMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = torch.softmax(torch.einsum("btc,bsc->bts", q, k) / q.shape[-1] ** 0.5, -1)
        return x + weights @ v


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        y, _ = self.attention(x, x, value=x, need_weights=False)
        return x + y


class DropPath(nn.Module):
    """timm's stochastic depth."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = p
        self.conv = conv()

    def forward(self, x):
        branch = self.conv(x)
        if self.training and self.p > 0:
            keep = 1 - self.p
            mask = branch.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep)
            branch = branch * mask.div_(keep)
        return x + branch


class PositionEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, 9, 6))
        self.register_buffer("mask", torch.tril(torch.ones(9, 9)))

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.position[:, : x.size(1)]
        return (self.mask[: x.size(1), : x.size(1)] @ x)[:, 0]


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool):
        super().__init__()
        self.conv = conv()
        self.use_reentrant = use_reentrant

    def forward(self, x):
        y = checkpoint(lambda z: self.conv(z).relu_(), x, use_reentrant=self.use_reentrant)
        return x + y


class NoGradStatistics(nn.Module):
    """Division by a root mean square through which no gradient flows."""

    def forward(self, x):
        with torch.no_grad():
            rms = x.square().mean((1, 2, 3), keepdim=True).sqrt()
        return x / rms + x.detach()


class Features(NamedTuple):
    logits: Tensor
    hidden: list[Tensor]


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


PYTHON = {
    "code that depends on shapes": Case(
        ShapeCode,
        "add(conv2d(avg_pool2d(x)), add(add(add(add(getitem(avg_pool2d(x))),"
        " getitem(avg_pool2d(x))), getitem(avg_pool2d(x))), getitem(avg_pool2d(x))))",
    ),
    "slices of a sequence": Case(SlicedFeatures, "tanh(conv2d(add(relu(conv2d(x)), x)))"),
    "optional arguments": Case(OptionalMask, "mul(conv2d(x))"),
    "module list and dict": Case(
        Loops,
        [
            "conv2d(add(add(x, tanh(conv2d(x))), tanh(conv2d(add(x, tanh(conv2d(x)))))))",
            "conv2d(add(add(x, tanh(conv2d(x))), tanh(conv2d(add(x, tanh(conv2d(x)))))))",
        ],
    ),
    "nested sequences": Case(
        lambda: nn.Sequential(nn.Sequential(conv(), nn.Sequential(nn.GELU())), nn.Flatten()),
        "flatten(gelu(conv2d(x)))",
    ),
    "view by size": Case(
        lambda: Lambda(lambda x, fc: fc(x.view(x.size(0), -1)), nn.Linear(256, 3)),
        "linear(reshape(x))",
    ),
    "torch.relu": Case(lambda: Lambda(lambda x, f: torch.relu(f(x)), conv()), "relu(conv2d(x))"),
    "shared layer": Case(SharedLayer, "tanh(conv2d(tanh(conv2d(x))))"),
    "tied weights": Case(
        TiedWeights, "linear(linear(linear(linear(x))), transpose(p))", (6,)
    ),
    "subclass of Conv2d": Case(
        lambda: Standardized(4, 4, 3), "conv2d(x, div(sub(p, mean(p)), std(p)), p)"
    ),
    "weight_norm": Case(lambda: parametrizations.weight_norm(conv()), "conv2d(x)"),
    "spectral_norm": Case(lambda: parametrizations.spectral_norm(conv()), "conv2d(x)"),
    "weight_norm by a hook": Case(lambda: torch.nn.utils.weight_norm(conv()), "conv2d(x)"),
    "spectral_norm by a hook": Case(lambda: torch.nn.utils.spectral_norm(conv()), "conv2d(x)"),
    "functional convolution": Case(
        lambda: Lambda(lambda x, f: F.conv2d(x, f.weight, stride=2), conv()), "conv2d(x, p)"
    ),
    "functional norms": Case(
        FunctionalNorms, "layer_norm(group_norm(batch_norm(x, b, b, p)))"
    ),
    "einsum and chunk": Case(
        TokenMixer,
        "add(x, matmul(softmax(div(einsum(item(chunk(linear(x))), item(chunk(linear(x)))))),"
        " item(chunk(linear(x)))))",
        (5, 6),
    ),
    "multi-head attention": Case(
        Attention, "add(x, item(multi_head_attention(x)))", (5, 6)
    ),
    "stochastic depth": Case(
        DropPath, "add(x, mul(conv2d(x), div(bernoulli(c))))"
    ),
    "dropout": Case(
        lambda: nn.Sequential(conv(), nn.Dropout(0.5), Lambda(partial(F.dropout2d, p=0.3))),
        "dropout2d(dropout(conv2d(x)))",
    ),
    "position embedding": Case(
        PositionEmbedding,
        "getitem(matmul(getitem(b), add(cat(expand(p), x), getitem(p))))",
        (5, 6),
    ),
    "checkpoint": Case(partial(Checkpointed, False), "add(x, relu(conv2d(x)))"),
    "reentrant checkpoint": Case(partial(Checkpointed, True), "add(x, relu(conv2d(x)))"),
    "no_grad and detach": Case(
        NoGradStatistics, "add(div(x, sqrt(mean(square(x)))), detach(x))"
    ),
    "split": Case(
        lambda: Lambda(lambda x: torch.cat([t * i for i, t in enumerate(x.split(2, 1))], 1)),
        "cat(mul(item(split(x))), mul(item(split(x))))",
    ),
    "iteration over a tensor": Case(
        lambda: Lambda(lambda x: sum(row for row in x.permute(1, 0, 2, 3))),
        "add(add(add(add(item(unbind(permute(x)))), item(unbind(permute(x)))),"
        " item(unbind(permute(x)))), item(unbind(permute(x))))",
    ),
    "statistics that are not used": Case(
        lambda: Lambda(lambda x, f: (x.mean(), f(x))[1], conv()), "conv2d(x)"
    ),
    "layers created in forward": Case(
        lambda: Lambda(lambda x, f: nn.ReLU(inplace=True)(f(x)), conv()), "relu(conv2d(x))"
    ),
    "tuple output": Case(
        lambda: Lambda(lambda x, f: (f(x), [x * 2]), conv()), ["conv2d(x)", "mul(x)"]
    ),
    "named tuple output": Case(
        lambda: Lambda(lambda x, f: Features(f(x), [x]), conv()), ["conv2d(x)", "x"]
    ),
    "dataclass output": Case(
        lambda: Lambda(lambda x, f: Output(f(x)), conv()), ["conv2d(x)"]
    ),
}  # fmt: skip

# --- changes in place -------------------------------------------------------------------------------


def _relu_after_view(x):
    x = x * 1.5
    first, flat = x[:, :2], x.view(len(x), -1)
    x.relu_()
    return first.sum((1, 2, 3)) + flat.sum(1)


def _change_of_a_view(x):
    y = x * 1.5
    y[:, :2].mul_(3)
    return y


def _view_of_another_part(x):
    y = x * 1.5
    first, last = y[:, :2], y[:, 2:]
    first.relu_()
    return torch.cat([last, y[:, :2]], 1)


def _augmented_slice(x):
    y = x.clone()
    y[:, ::2] += x[:, 1::2]
    return y


def _filled_buffer(x):
    y = torch.zeros_like(x)
    y[:, :2] = x[:, 2:]
    return y


def _old_value_kept(x):
    y = x * 1.5
    before = y.clone()
    y.add_(1.0)
    return y * before


def _changed_constant(x):
    mask = torch.zeros(1, 4, 1, 1, dtype=x.dtype)
    mask[:, 0] = 1
    return x * mask


def _data(x):
    y = torch.ones(4, 8, 8, dtype=x.dtype)
    y.data.mul_(2)
    return x * y


IN_PLACE = {
    "views of a changed tensor": Case(
        lambda: Lambda(_relu_after_view),
        "add(sum(getitem(relu(mul(x)))), sum(reshape(relu(mul(x)))))",
    ),
    "change of a view": Case(
        lambda: Lambda(_change_of_a_view), "overwrite(mul(x), mul(getitem(mul(x))))"
    ),
    "view of another part": Case(
        lambda: Lambda(_view_of_another_part),
        "cat(getitem(mul(x)), getitem(overwrite(mul(x), relu(getitem(mul(x))))))",
    ),
    "slice +=": Case(
        lambda: Lambda(_augmented_slice),
        "setitem(overwrite(clone(x), add(getitem(clone(x)), getitem(x))),"
        " add(getitem(clone(x)), getitem(x)))",
    ),
    "slices of zeros": Case(lambda: Lambda(_filled_buffer), "setitem(c, getitem(x))"),
    "old value kept in a clone": Case(
        lambda: Lambda(_old_value_kept), "mul(add(mul(x)), clone(mul(x)))"
    ),
    "changed constant": Case(lambda: Lambda(_changed_constant), "mul(x, c)"),
    "data of a constant": Case(lambda: Lambda(_data), "mul(x, c)"),
    "ReLU in place after a fork": Case(
        lambda: Lambda(lambda x: (lambda y: (y + 1) - F.relu_(y) * y)(x * 2)),
        "sub(add(mul(x)), mul(relu(mul(x))))",
    ),
}  # fmt: skip

CASES = {**RESIDUAL, **PYTHON, **IN_PLACE}
