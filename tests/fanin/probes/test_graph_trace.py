"""`GraphTracer` records the same as hooks, on copies of the model, and also sums and functions."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fanin.graph import record
from fanin.probes.graph_trace import GraphTracer, TracedNode
from fanin.probes.measure import measure
from fanin.probes.moments import random_cotangent
from fanin.probes.trace import trace


class Net(nn.Module):
    """A sum, an in-place activation, a buffer, a parameter and a shape in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 5)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("shift", torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        y = self.conv2(F.relu(x)) * self.scale + self.shift
        y += x
        return self.fc(torch.relu_(y).view(x.size(0), -1))


def images() -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def tracer_of(model: Net, x: Tensor) -> GraphTracer:
    graph = record(model, x)
    nodes = {node.path if node.kind == "module" else node.operation: node for node in graph.nodes}
    sums = [node for node in graph.nodes if node.operation == "add"]
    activations = [node for node in graph.nodes if node.operation == "relu"]
    first, last = activations
    traced = [
        TracedNode("conv1", nodes["conv1"].index, first.index),
        TracedNode("norm", nodes["norm"].index, first.index),
        TracedNode("conv2", nodes["conv2"].index),
        TracedNode("add_2", sums[1].index, last.index),
        TracedNode("fc", nodes["fc"].index),
    ]
    return GraphTracer(model, graph, traced)


def test_weight_layers_have_the_values_and_gradients_of_hooks() -> None:
    torch.manual_seed(0)
    model = Net()
    tracer = tracer_of(model, images())
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
        other.shift.fill_(-0.3)
    buffers = {name: buffer.clone() for name, buffer in other.named_buffers()}
    traced, logits = tracer(other, images())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in other.named_buffers())
    hooked, expected = trace(deepcopy(other), images())
    torch.testing.assert_close(logits, expected)
    by_name = {layer.name: layer for layer in traced}
    gradients, expected_gradients = (
        torch.autograd.grad(output.sum(), [layer.preactivation for layer in layers])
        for output, layers in ((logits, [by_name[x.name] for x in hooked]), (expected, hooked))
    )
    for layer, gradient, expected_gradient in zip(
        hooked, gradients, expected_gradients, strict=True
    ):
        torch.testing.assert_close(by_name[layer.name].preactivation, layer.preactivation)
        torch.testing.assert_close(by_name[layer.name].input, layer.input)
        torch.testing.assert_close(gradient, expected_gradient)
        assert by_name[layer.name].module is other.get_submodule(layer.name)


def test_sums_and_functions_are_measured() -> None:
    torch.manual_seed(0)
    model = Net().double()
    x = images().double()
    u = random_cotangent(3, 5, torch.Generator().manual_seed(1))
    rows = measure(model, x, u, tracer=tracer_of(model, x)).layers
    values = {
        (name, quantity): value
        for name, quantity, value in zip(
            rows["layer_name"], rows["quantity"], rows["value"], strict=True
        )
    }
    with torch.no_grad():
        normalized = model.norm(model.conv1(x))
        total = model.conv2(F.relu(normalized)) * model.scale + model.shift + normalized
    assert values["add_2", "preact_m2"] == float(total.square().mean())
    assert values["add_2", "act_zero_fraction"] == float((total <= 0).double().mean())
    assert values["conv1", "act_zero_fraction"] == float((normalized <= 0).double().mean())
    assert ("add_2", "weight_m2") not in values
    assert ("conv2", "weight_vjp_m2") in values
