"""Modules with Python code in `forward`, parametrized or shared weights, and several outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from graph_cases import Case, Lambda, conv
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


class ShapeCode(nn.Module):
    """Branches, assertions and loops over shapes."""

    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x):
        assert x.shape[1] == 4, "channels"
        assert len(x) > 0
        assert x.ndim == 4
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
    "tied weights": Case(TiedWeights, "linear(linear(linear(linear(x))), transpose(p))", (6,)),
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
    "functional norms": Case(FunctionalNorms, "layer_norm(group_norm(batch_norm(x, b, b, p)))"),
    "einsum and chunk": Case(
        TokenMixer,
        "add(x, matmul(softmax(div(einsum(item(chunk(linear(x))), item(chunk(linear(x)))))),"
        " item(chunk(linear(x)))))",
        (5, 6),
    ),
    "multi-head attention": Case(Attention, "add(x, item(multi_head_attention(x)))", (5, 6)),
    "stochastic depth": Case(DropPath, "add(x, mul(conv2d(x), div(bernoulli(c))))"),
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
    "no_grad and detach": Case(NoGradStatistics, "add(div(x, sqrt(mean(square(x)))), detach(x))"),
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
    "dataclass output": Case(lambda: Lambda(lambda x, f: Output(f(x)), conv()), ["conv2d(x)"]),
}
