"""Convert a recorded graph to steps with rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from fanin.graph import Graph, Node
from fanin.inits.weight_shape import UNIFORM_KURTOSIS
from fanin.theory.assumptions import NO_ASSUMPTIONS, Assumptions
from fanin.theory.elementwise import Function, copy_state, elementwise
from fanin.theory.field.geometry import Taps
from fanin.theory.field.plan import MAX_POINTS, FieldTooLarge
from fanin.theory.field.weights import layer_weights
from fanin.theory.graph.depthwise import Depthwise, has_small_groups
from fanin.theory.graph.elementary import ChannelRule
from fanin.theory.graph.layout import Layout
from fanin.theory.graph.operations import Operation, PerChannel, Weights
from fanin.theory.graph.over_channels import WeightLayer
from fanin.theory.graph.propagate import Step
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import LayerMoments, moments_of

MEASURE = "fanin.probe measures any network"


class Builder:
    """Steps of a graph, made node by node.

    Parameters
    ----------
    graph
        The recorded graph.
    model
        The model.
    moments
        Moments of each weight layer.
    images
        Images that share one field.
    assumptions
        Operations to replace.

    Attributes
    ----------
    steps
        The steps so far.
    layouts
        Layout of each step's output.
    drawn
        Layer of each weight and bias that an init draws, by `id`.
    known
        Numbers of the steps that no random weights affect.
    """

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        moments: Mapping[str, LayerMoments],
        images: Float[Tensor, "image channel *position"],
        assumptions: Assumptions = NO_ASSUMPTIONS,
    ) -> None:
        self.graph, self.moments = graph, moments
        self.assumptions = assumptions
        self.modules = dict(model.named_modules())
        self.drawn = {
            id(parameter): name
            for name in moments
            if name in self.modules
            for parameter in self.modules[name].parameters(recurse=False)
        }
        self.n_images = len(images)
        self.steps: list[Step] = []
        self.layouts: list[Layout] = []
        self._step_of: dict[Node, int | tuple[int, ...]] = {}
        self._constants = {
            node: value.detach().double()
            for node, value in graph.run(images)
            if not node.depends_on_images and isinstance(value, Tensor)
        }
        self.known: set[int] = set()
        self._used: dict[int, Node] = {}

    # --- reading nodes --------------------------------------------------------------------------

    def step_of(self, node: Node) -> int:
        """Return the number of the step that computes a node."""
        step = self._step_of[node]
        if isinstance(step, tuple):
            raise self.refuse(node, "it is a tuple of tensors")
        return step

    def parts_of(self, node: Node) -> tuple[int, ...]:
        """Return the steps of a node that returns several tensors."""
        step = self._step_of[node]
        return step if isinstance(step, tuple) else (step,)

    @property
    def numbers(self) -> dict[Node, int]:
        """The step of each node that is one tensor."""
        return {n: step for n, step in self._step_of.items() if isinstance(step, int)}

    def layout_of(self, node: Node) -> Layout:
        """Return the layout of a node's value."""
        return self.layouts[self.step_of(node)]

    def is_field(self, value: object) -> bool:
        """Return True for a node whose value depends on the images."""
        return isinstance(value, Node) and value.depends_on_images

    def constant(self, node: Node, value: object, name: str = "", remedy: str = MEASURE) -> float:
        """Return an argument as a number.

        Raises
        ------
        UnpredictableLayer
            It is a tensor of different values, such as a trained scale for each channel. The
            message contains its name, if there is one, and the remedy.
        """
        if isinstance(value, Node):
            tensor = self._constants[value]
        else:
            tensor = torch.as_tensor(value).detach().double()
        first = tensor.flatten()[0]
        if bool((tensor != first).any()):
            if isinstance(value, Node) and value.path and value.kind in ("parameter", "buffer"):
                name = value.path
            raise self.refuse(
                node, f"{name or 'a constant'} has different values, which is not supported", remedy
            )
        return float(first)

    # --- adding steps ---------------------------------------------------------------------------

    def add(self, node: Node, operation: Operation, inputs: Sequence[int], layout: Layout) -> int:
        """Add a step that computes a node."""
        self._step_of[node] = number = self.add_part(node, operation, inputs, layout)
        return number

    def add_part(
        self, node: Node, operation: Operation | None, inputs: Sequence[int], layout: Layout
    ) -> int:
        """Add a step that computes a part of a node."""
        points = self.n_images * layout.n_positions
        name = step_name(node)
        if points > MAX_POINTS:
            raise FieldTooLarge(name, points, self._size_advice(layout))
        if operation is None or (self.known.issuperset(inputs) and not _is_random(operation)):
            self.known.add(len(self.steps))
        self.steps.append(Step(name, operation, tuple(inputs)))
        self.layouts.append(layout)
        return len(self.steps) - 1

    def _size_advice(self, layout: Layout) -> str:
        affordable = MAX_POINTS // layout.n_positions
        if not affordable:
            return "use smaller images"
        return (
            f"batch normalization couples the images, so use at most {affordable} of them"
            f" (max_images={affordable}; in a sweep probe.size={affordable}), or smaller ones"
        )

    def undo(self, node: Node, n_steps: int) -> None:
        """Remove the steps of a node, which are those after the first `n_steps`."""
        del self.steps[n_steps:], self.layouts[n_steps:]
        self.known = {number for number in self.known if number < n_steps}
        self._step_of.pop(node, None)

    def add_rule(self, node: Node, rule: ChannelRule, layout: Layout | None = None) -> None:
        """Add a step that treats each channel of a node's first input alone."""
        source = self.step_of(fields_of(node)[0])
        self.add(node, PerChannel(rule), [source], layout or self.layouts[source])

    def set(self, node: Node, step: int | tuple[int, ...]) -> None:
        """State that a step computes a node, or that several compute its parts."""
        self._step_of[node] = step

    def add_images(self, node: Node) -> None:
        """Add the images."""
        assert node.shape is not None
        self.set(node, self.add_part(node, None, (), Layout.of(node.shape)))

    def add_weights(self, node: Node) -> None:
        """Add a weight layer."""
        name, module = self._weight_module(node)
        source = self.step_of(node.arguments["input"])
        layout = self.layouts[source]
        is_linear = isinstance(module, nn.Linear)
        wanted = layout.n_axes - 1 if is_linear else 1
        if layout.channel_axis != wanted or (layout.is_flat and not is_linear):
            raise self.refuse(node, "it reads positions of the image as channels")
        if is_linear and not layout.is_flat:
            taps = _one_tap(self.n_images, layout)
        else:
            positions, channels = layout.positions, layout.channels
            taps = Taps.of(name, module, positions, self.n_images, channels)
        weights = layer_weights(module, moments_of(self.moments, name), taps)
        if not weights.zero_mean:
            raise self.refuse(
                node,
                "its weights have a mean other than 0, which is supported only in a sequence of"
                " modules",
            )
        out = Layout(weights.out_channels, taps.positions, layout.channel_axis)
        operation: Weights | Depthwise = Weights(WeightLayer(name, taps, weights))
        if has_small_groups(weights) and source not in self.known:
            operation = self._depthwise(node, operation.layer)
        self.add(node, operation, [source], out)

    def _depthwise(self, node: Node, layer: WeightLayer) -> Depthwise:
        weights = layer.weights
        if weights.group_out_channels != weights.group_in_channels:
            raise self.refuse(node, "it computes several channels from one, which is not supported")
        if weights.kurtosis not in (0, UNIFORM_KURTOSIS):
            raise self.refuse(
                node, "a depthwise convolution needs weights of a normal or uniform distribution"
            )
        return Depthwise(layer)

    def _weight_module(self, node: Node) -> tuple[str, nn.Module]:
        name = node.path
        if node.kind != "module":
            weight = node.arguments["weight"]
            path = weight.path if isinstance(weight, Node) and weight.kind == "parameter" else ""
            name = path.rpartition(".")[0]
        module = self.modules.get(name)
        if name not in self.moments or module is None:
            raise self.refuse(node, "its weight is not that of a linear or convolution layer")
        if node.kind != "module" and not _calls_as(node, module):
            raise self.refuse(
                node, f"it uses the weight of layer {name} with another bias, stride or padding"
            )
        first = self._used.setdefault(id(module.weight), node)
        if first is not node:
            raise self.refuse(
                node,
                f"the weights of layer {step_name(first)} are used twice; theory needs independent"
                " weights in each layer",
            )
        return name, module

    def refuse(self, node: Node, reason: str, remedy: str = MEASURE) -> UnpredictableLayer:
        """Return the error for a node that theory cannot predict."""
        line = f" ({node.line})" if node.line else ""
        return UnpredictableLayer(step_name(node), f"{reason}; {remedy}{line}")


def _calls_as(node: Node, module: nn.Module) -> bool:
    """Return True if a function is called with the bias and the options of a module."""
    arguments = node.arguments
    bias = arguments["bias"]
    if (bias.target if isinstance(bias, Node) else bias) is not module.bias:
        return False
    if not isinstance(module, nn.modules.conv._ConvNd):
        return True
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    n = len(module.kernel_size)
    options = ("stride", "padding", "dilation", "groups")
    return module.padding_mode == "zeros" and all(
        _repeated(arguments[name], n) == _repeated(getattr(module, name), n) for name in options
    )


def _repeated(value: Any, n: int) -> tuple[Any, ...]:
    return (value,) * n if isinstance(value, int | str) else tuple(value)


def _is_random(operation: Operation) -> bool:
    return isinstance(operation, Weights | Depthwise)


def step_name(node: Node) -> str:
    """Return the module path of a node, with the operation unless the node is a module's call."""
    if node.kind in ("module", "input"):
        return node.path or node.operation
    return f"{node.path}.{node.operation}" if node.path else node.operation


def fields_of(node: Node) -> list[Node]:
    """Return the inputs of a node that depend on the images."""
    return [value for value in node.inputs if value.depends_on_images]


def as_function(node: Node) -> Callable[[Tensor], Tensor]:
    """Return a node's call as a float64 function of its first input that depends on the images."""
    source = fields_of(node)[0]
    if isinstance(node.target, nn.Module):
        state = copy_state(node.target, "cpu")
        return lambda x: functional_call(node.target, state, (x.clone(),))

    def run(x: Tensor) -> Tensor:
        result: Tensor = node.run(lambda other: x if other is source else _value(other))
        return result

    return run


def _value(node: Node) -> Any:
    """Return the value of a node that does not depend on the images."""
    if node.kind in ("module", "function", "method"):
        return node.run(_value)
    is_float = isinstance(node.target, Tensor) and node.target.is_floating_point()
    return node.target.detach().double() if is_float else node.target


def as_point_function(
    node: Node, inputs: Sequence[Node], constants: Mapping[Node, float]
) -> Callable[[Sequence[Tensor]], Tensor]:
    """Return a function node as a float64 function of several inputs."""
    numbers = {
        other: torch.tensor(value, dtype=torch.bool if other.dtype == torch.bool else torch.float64)
        for other, value in constants.items()
    }

    def run(values: Sequence[Tensor]) -> Tensor:
        value_of = numbers | dict(zip(inputs, values, strict=True))
        result: Tensor = node.run(value_of.__getitem__)
        return result

    return run


def elementwise_function(node: Node) -> Function | None:
    """Return a node as an elementwise function, None if it is not one."""
    if isinstance(node.target, nn.Module):
        return elementwise(node.target)
    fields = fields_of(node)
    if len(fields) != 1 or node.shape != fields[0].shape:
        return None
    function = as_function(node)
    if node.dtype == torch.bool:  # such as x > 0
        is_elementwise = elementwise(_AsModule(lambda x: function(x).double())) is not None
        return function if is_elementwise else None
    return elementwise(_AsModule(function), equal_nan=True)


class _AsModule(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return self._function(x)


def _one_tap(n_images: int, layout: Layout) -> Taps:
    """Return the table of a linear layer that reads the channels of each position alone."""
    points = n_images * layout.n_positions
    index = 1 + torch.arange(points)[:, None]
    return Taps(index, points, layout.positions, is_linear=False)
