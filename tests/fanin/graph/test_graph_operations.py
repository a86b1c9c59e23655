"""Names and arguments of operations: the same for all ways to write them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_cases import Lambda
from torch import Tensor, nn
from torch.nn.utils import prune

from fanin.graph import OPERATIONS, GraphError, Node, is_leaf, record
from fanin.graph.leaves import LEAF_NAMES

X = torch.randn(2, 4, 6, 6)


def last_call(function: Callable[[Tensor], Tensor]) -> Node:
    model = function if isinstance(function, nn.Module) else Lambda(function)
    return record(model, X).output


def named(node: Node) -> dict[str, Any]:
    """Return the arguments; nodes by their index, other tensors are left out."""
    return {
        key: f"%{value.index}" if isinstance(value, Node) else value
        for key, value in node.arguments.items()
        if not isinstance(value, Tensor)
    }


SPELLINGS: dict[str, tuple[list[Callable[[Tensor], Any]], dict[str, Any]]] = {
    "add": (
        [
            lambda x: x + x,
            lambda x: torch.add(x, x),
            lambda x: torch.add(input=x, other=x),
            lambda x: operator.add(x, x),
            lambda x: x.add(x),
            lambda x: x.add_(x),
            lambda x: operator.iadd(x, x),
            lambda x: torch.ops.aten.add.Tensor(x, x),
        ],
        {"input": "%0", "other": "%0", "alpha": 1},
    ),
    "mul": (
        [lambda x: 2 * x, lambda x: x * 2, lambda x: x.mul_(2), lambda x: torch.multiply(x, 2)],
        {"input": "%0", "other": 2},
    ),
    "rsub": (
        [lambda x: 1 - x, lambda x: torch.rsub(x, 1)],
        {"input": "%0", "other": 1, "alpha": 1},
    ),
    "div": (
        [lambda x: x / 3, lambda x: torch.true_divide(x, 3), lambda x: x.div_(3)],
        {"input": "%0", "other": 3, "rounding_mode": None},
    ),
    "relu": (
        [
            F.relu,
            torch.relu,
            lambda x: x.relu(),
            lambda x: x.relu_(),
            torch.relu_,
            lambda x: F.relu(input=x),
            nn.ReLU(),
        ],
        {"input": "%0", "inplace": False},
    ),
    "leaky_relu": (
        [lambda x: F.leaky_relu(x, 0.3), nn.LeakyReLU(0.3)],
        {"input": "%0", "negative_slope": 0.3, "inplace": False},
    ),
    "sigmoid": ([torch.sigmoid, F.sigmoid, torch.special.expit, nn.Sigmoid()], {"input": "%0"}),
    "cat": (
        [
            lambda x: torch.cat([x, x], 1),
            lambda x: torch.concat((x, x), dim=1),
            lambda x: torch.concatenate([x, x], axis=1),
        ],
        {"tensors": None, "dim": 1},
    ),
    "mean": (
        [lambda x: x.mean((2, 3), True), lambda x: torch.mean(x, dim=(2, 3), keepdim=True)],
        {"input": "%0", "dim": (2, 3), "keepdim": True, "dtype": None},
    ),
    "reshape": (
        [
            lambda x: x.view(2, -1),
            lambda x: x.reshape((2, -1)),
            lambda x: torch.reshape(x, (2, -1)),
            lambda x: x.reshape(shape=(2, -1)),
        ],
        {"input": "%0", "sizes": (2, -1)},
    ),
    "flatten": (
        [lambda x: x.flatten(1), lambda x: torch.flatten(x, start_dim=1), nn.Flatten()],
        {"input": "%0", "start_dim": 1, "end_dim": -1},
    ),
    "permute": (
        [
            lambda x: x.permute(0, 2, 3, 1),
            lambda x: torch.permute(x, (0, 2, 3, 1)),
            lambda x: x.permute(dims=[0, 2, 3, 1]),
        ],
        {"input": "%0", "dims": (0, 2, 3, 1)},
    ),
    "transpose": (
        [lambda x: x.transpose(-2, -1), lambda x: x.mT, lambda x: torch.swapaxes(x, -2, -1)],
        {"input": "%0", "dim0": -2, "dim1": -1},
    ),
    "getitem": (
        [lambda x: x[:, :, ::2, ::2]],
        {
            "input": "%0",
            "index": (slice(None), slice(None), slice(None, None, 2), slice(None, None, 2)),
        },
    ),
    "pad": (
        [lambda x: F.pad(x, (1, 1)), lambda x: F.pad(x, pad=(1, 1), mode="constant")],
        {"input": "%0", "pad": (1, 1), "mode": "constant", "value": None},
    ),
    "avg_pool2d": (
        [
            lambda x: F.avg_pool2d(x, 2, 2),
            lambda x: F.avg_pool2d(x, kernel_size=2, stride=2),
            nn.AvgPool2d(2),
        ],
        {
            "input": "%0",
            "kernel_size": 2,
            "stride": 2,
            "padding": 0,
            "ceil_mode": False,
            "count_include_pad": True,
            "divisor_override": None,
        },
    ),
    "max_pool2d": (
        [lambda x: F.max_pool2d(x, 3, 1, 1), nn.MaxPool2d(3, 1, 1)],
        {
            "input": "%0",
            "kernel_size": 3,
            "stride": 1,
            "padding": 1,
            "dilation": 1,
            "ceil_mode": False,
            "return_indices": False,
        },
    ),
    "adaptive_avg_pool2d": (
        [lambda x: F.adaptive_avg_pool2d(x, 1), nn.AdaptiveAvgPool2d(1)],
        {"input": "%0", "output_size": 1},
    ),
    "group_norm": (
        [lambda x: F.group_norm(x, 2), nn.GroupNorm(2, 4, affine=False)],
        {"input": "%0", "num_groups": 2, "weight": None, "bias": None, "eps": 1e-5},
    ),
    "layer_norm": (
        [lambda x: F.layer_norm(x, (6,)), nn.LayerNorm(6, elementwise_affine=False)],
        {"input": "%0", "normalized_shape": (6,), "weight": None, "bias": None, "eps": 1e-5},
    ),
    "batch_norm": (
        [
            lambda x: F.batch_norm(x, None, None, training=True),
            nn.BatchNorm2d(4, affine=False, track_running_stats=False),
            nn.BatchNorm2d(4, affine=False, track_running_stats=False).eval(),
        ],
        {
            "input": "%0",
            "running_mean": None,
            "running_var": None,
            "weight": None,
            "bias": None,
            "training": True,
            "momentum": 0.1,
            "eps": 1e-5,
        },
    ),
    "dropout": (
        [lambda x: F.dropout(x, 0.5), nn.Dropout(0.5)],
        {"input": "%0", "p": 0.5, "training": True, "inplace": False},
    ),
    "softmax": (
        [lambda x: F.softmax(x, 1), lambda x: x.softmax(dim=1), nn.Softmax(1)],
        {"input": "%0", "dim": 1, "_stacklevel": 3, "dtype": None},
    ),
}


@pytest.mark.parametrize(
    ("name", "function"),
    [(name, function) for name, (functions, _) in SPELLINGS.items() for function in functions],
)
def test_all_spellings_have_one_name_and_the_same_arguments(name, function):
    node = last_call(function)
    assert node.operation == name
    arguments = named(node)
    if name == "cat":
        assert [entry.index for entry in arguments["tensors"]] == [0, 0]
        arguments["tensors"] = None
    assert arguments == SPELLINGS[name][1]


def test_weights_are_arguments_of_modules_and_functions():
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    module = record(layer, X).output.arguments
    function = record(
        Lambda(lambda x, f: F.conv2d(x, f.weight, f.bias, 2, 1), layer), X
    ).output.arguments
    assert module["weight"] is layer.weight
    assert function["weight"].target is layer.weight
    assert function["bias"].path == "children_.0.bias"
    assert (module["stride"], function["stride"]) == ((2, 2), 2)
    assert module.keys() == function.keys()


def test_the_first_path_of_a_module_and_the_line_of_a_function():
    def forward(x, layer):
        return layer(x) + 1

    graph = record(nn.Sequential(Lambda(forward, nn.Linear(6, 6))), X)
    _, linear, add = graph.nodes
    assert (linear.kind, linear.path) == ("module", "0.children_.0")
    assert (add.kind, add.path) == ("method", "0")
    assert add.line.startswith("test_graph_operations.py:")
    assert add.line.endswith(": return layer(x) + 1")
    assert str(graph).splitlines()[1].startswith("%1 = linear(%0) [2, 4, 6, 6]  0.children_.0  ")


def test_a_sequence_has_no_user_line():
    assert [node.line for node in record(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), X).nodes] == [
        "",
        "",
        "",
    ]


def test_operations_outside_the_table_have_the_name_of_the_function():
    node = last_call(torch.erfinv)
    assert node.operation == "erfinv"
    with pytest.raises(GraphError, match="erfinv is not in the table OPERATIONS"):
        _ = node.arguments
    assert last_call(nn.Hardshrink()).operation == "hardshrink"


def test_unusual_arguments_raise():
    node = last_call(lambda x: torch.mul(x, x, out=None))
    with pytest.raises(GraphError, match=r"out=None.*mul has other arguments.*: out"):
        _ = node.arguments


def test_layers_with_an_operation_are_leaves():
    modules = {cls for operation in OPERATIONS.values() for cls in operation.modules}
    assert {cls.__module__ for cls in modules} <= LEAF_NAMES


def test_names_are_unique():
    spellings = [
        spelling
        for operation in OPERATIONS.values()
        for spelling in (operation.name, *operation.spellings)
    ]
    assert len(set(spellings)) == len(spellings)


# --- leaves ---------------------------------------------------------------------------------------


class MyConv(nn.Conv2d):
    """Changes only the initialization."""

    def __init__(self):
        super().__init__(4, 4, 3)

    def reset_parameters(self):
        nn.init.zeros_(self.weight)


class PaddedConv(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return F.conv2d(F.pad(input, (1, 1, 1, 1)), weight, bias)


def operations(model: nn.Module) -> list[str]:
    return [node.operation for node in record(model, X).nodes[1:]]


def test_a_subclass_is_a_leaf_if_it_computes_the_same():
    assert is_leaf(MyConv())
    assert not is_leaf(PaddedConv(4, 4, 3))
    assert operations(PaddedConv(4, 4, 3)) == ["pad", "parameter", "parameter", "conv2d"]


def test_a_replaced_forward_is_entered():
    layer = nn.ReLU()
    layer.forward = lambda x: torch.tanh(x) * 2
    assert operations(layer) == ["tanh", "mul"]


def test_a_hook_that_changes_the_output_is_in_the_graph():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    model[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    assert operations(model) == ["parameter", "conv2d", "mul", "add", "relu"]


def test_a_hook_that_only_watches_leaves_no_node():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.ReLU())
    means = []
    model[0].register_forward_hook(lambda module, args, output: means.append(output.mean()))
    assert operations(model) == ["parameter", "conv2d", "relu"]


def test_a_pruned_layer_is_entered():
    layer = nn.Conv2d(4, 4, 3, bias=False)
    prune.random_unstructured(layer, "weight", 0.5)
    assert operations(layer) == ["buffer", "parameter", "mul", "conv2d"]


def test_is_leaf_may_be_extended():
    class Swish(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x)

    model = nn.Sequential(nn.Linear(6, 6), Swish())
    assert operations(model) == ["linear", "sigmoid", "mul"]
    graph = record(model, X, is_leaf=lambda module: isinstance(module, Swish) or is_leaf(module))
    assert [node.operation for node in graph.nodes] == ["input", "linear", "swish"]
