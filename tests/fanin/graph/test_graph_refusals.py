"""Models whose graph is refused: the error names the module, the user's line and what to do."""

from __future__ import annotations

import random
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph_cases import Lambda
from torch import Tensor, nn

from fanin.errors import FaninError, InputError
from fanin.graph import GraphError, record


class Net(nn.Module):
    """A network with the tested function at `layer1.1`."""

    def __init__(self, *inner: nn.Module):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), *inner)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.layer1(x).mean((2, 3)))


def refusal(model: nn.Module) -> GraphError:
    torch.manual_seed(0)
    with pytest.raises(GraphError) as error:
        record(model, torch.randn(2, 4, 4, 4))
    assert isinstance(error.value, FaninError)
    return error.value


# --- values that Python code reads ----------------------------------------------------------------


def branch(x):
    if x.mean() > 0:
        return torch.relu(x)
    return torch.tanh(x)


def scale_by_item(x):
    largest = x.abs().max().item()
    return x / largest


def boolean_mask(x):
    chosen = x[x > 0]
    return x + chosen.sum()


def numpy_values(x):
    factor = torch.from_numpy(np.abs(x.detach().numpy()))
    return x * factor


def loop(x):
    for _ in range(1 + int(x.abs().sum() / 2)):
        x = x * 0.5
    return x


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (branch, r" if x.mean\(\) > 0: \(bool\); use .*torch.where.* for another value"),
        (
            scale_by_item,
            r".max\(\).item\(\) \(item\);.* for another value, an argument of div is ",
        ),
        (boolean_mask, r"the result of getitem has shape \(\d+,\) instead of"),
        (numpy_values, r" \(numpy\);.* a tensor that was taken for a constant differs"),
        (loop, r" for _ in range\(.*\): \(int\);.* for another value"),
    ],
)
def test_values_that_depend_on_the_images(function, reason):
    error = refusal(Net(Lambda(function)))
    assert re.search(reason, error.reason)
    assert "test_graph_refusals.py:" in error.line
    assert error.path == "layer1.1" or function is loop


def test_a_branch_on_values_that_is_the_same_for_all_images_is_listed():
    def check_finite(x):
        if not torch.isfinite(x).all():
            raise ValueError
        return x * 2

    graph = record(Lambda(check_finite), torch.randn(2, 4, 4, 4))
    assert [node.operation for node in graph.nodes] == ["input", "mul"]
    (line,) = graph.value_reads
    assert line.endswith("if not torch.isfinite(x).all():")


def test_a_warning_is_only_shown_if_the_model_gives_it():
    def warn_of_nan(x):
        if x.isnan().any():
            warnings.warn("nan", stacklevel=1)
        return x * 2

    with warnings.catch_warnings(action="error"):
        assert len(record(Lambda(warn_of_nan), torch.randn(2, 4)).value_reads) == 1


def test_a_branch_on_weights_is_listed():
    def skip_if_zero(x, layer):
        return layer(x) if layer.bias.abs().sum() > 0 else x

    graph = record(Lambda(skip_if_zero, nn.Conv2d(4, 4, 1)), torch.randn(2, 4, 4, 4))
    assert len(graph.value_reads) == 1


@pytest.mark.parametrize("dead", [False, True])
def test_a_branch_is_noticed_that_is_the_same_for_all_images(dead):
    """The images are positive, so that `record` must alter the value that Python code reads."""
    model = Lambda(lambda x, layer: layer(branch(x)), nn.Linear(4, 2))
    if dead:
        nn.init.zeros_(model.children_[0].weight)
    with pytest.raises(GraphError, match=r"for another value, tanh .* in the place of relu"):
        record(model, torch.rand(2, 4) + 1)


def clip_large(x):
    if x.norm().item() > 100.0:
        x = x / 2
    return x * 2


def halve_large(x):
    while x.norm() > 100.0:
        x = x / 2
    return x * 2


@pytest.mark.parametrize("function", [clip_large, halve_large])
def test_a_threshold_is_noticed_that_is_not_reached(function):
    with pytest.raises(GraphError, match=r"x.norm\(\).* > 100.0.* for another value"):
        record(Lambda(function), torch.rand(2, 4))


def test_a_model_may_not_reject_images_of_the_same_range():
    def check_first(x):
        assert x[0, 0] < 0.5
        return x * 2

    images = torch.linspace(0, 1, 8).reshape(2, 4) ** 2
    with pytest.raises(GraphError, match=r"on images with other values, .* raises AssertionError"):
        record(Lambda(check_first), images)


# --- random numbers -------------------------------------------------------------------------------


def python_random(x):
    return x * 2 if random.random() < 0.5 else x + 1


def numpy_random(x):
    return x * 2 if np.random.rand() < 0.5 else x + 1  # noqa: NPY002


def torch_random(x):
    return x * 2 if torch.rand(1) < 0.5 else x + 1


def torch_random_like(x):
    return x * 2 if torch.rand_like(x).mean() < 0.5 else x + 1


OWN_GENERATOR = np.random.default_rng(0)


def own_numpy_generator(x):
    return x * OWN_GENERATOR.random()


def own_generator(x):
    return x + torch.rand(1, generator=torch.Generator())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (python_random, r"draws numbers from Python's random or numpy.random"),
        (numpy_random, r"draws numbers from Python's random or numpy.random"),
        (torch_random, r"reads a random number.*call model.eval\(\)"),
        (torch_random_like, r"reads a random number.*call model.eval\(\)"),
        (own_numpy_generator, "in a second run on the same images, an argument of mul"),
        (own_generator, r"draws from a torch.Generator of its own"),
    ],
)
def test_random_numbers(function, reason):
    error = refusal(Net(Lambda(function)))
    assert error.path == "layer1.1"
    assert error.line.split(": ")[1].startswith("return x")
    assert re.search(reason, error.reason)


# --- code that cannot be recorded -----------------------------------------------------------------


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class NumpyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_non_differentiable()
        return torch.tensor(np.sign(np.asarray(x.detach().tolist())), dtype=x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return torch.sin(x) * 2


def autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.linear(x, torch.ones(4, 4)).float()


def no_grad(x):
    y = x * 1.5
    with torch.no_grad():
        y.mul_(2)
    return y


def data(x):
    y = x * 1.5
    y.data.mul_(2)
    return y


def set_data(x):
    y = x * 1.5
    y.data = x.detach() * 3
    return y


@torch.inference_mode()
def inference(x):
    return x * 2


def sparse(x):
    return x * x.to_sparse().to_dense()


def vmap(x):
    return torch.vmap(torch.sin)(x)


def gradient(x):
    return torch.autograd.grad(x.square().sum(), x, create_graph=True)[0]


HIDDEN_LAYERS = [nn.Conv2d(4, 4, 1)]
HIDDEN_WEIGHT = nn.Parameter(torch.ones(4, 4, 1, 1))


def layers_in_a_list(x):
    return HIDDEN_LAYERS[0](x)


def new_layer(x):
    return nn.Conv2d(4, 4, 1)(x)


def hidden_weight(x):
    return F.conv2d(x, HIDDEN_WEIGHT)


def caught(x):
    try:
        return StraightThrough.apply(x)
    except Exception:
        return x


CALLS = [0]


def call_counter(x):
    CALLS[0] += 1
    return x * CALLS[0]


UNREGISTERED = r"a weight of shape \(4, 4, 1, 1\) is not in model.parameters\(\)"


@pytest.mark.parametrize(
    ("function", "line", "reason"),
    [
        (StraightThrough.apply, "return x.sign()", "StraightThrough is a torch.autograd.Function"),
        (NumpyFunction.apply, "return torch.tensor(", "NumpyFunction is a torch.autograd.Function"),
        (caught, "return x.sign()", "StraightThrough is a torch.autograd.Function"),
        (lambda x: scripted(x) + 1, "scripted(x) + 1", "a scripted function"),
        (autocast, "return F.linear(", "under torch.autocast"),
        (no_grad, "y.mul_(2)", r"changed in place inside torch.no_grad\(\)"),
        (data, "y.data.mul_(2)", "in place through .data"),
        (set_data, "y.data = x", "assigns to .data"),
        (inference, "return x * 2", "inference_mode"),
        (sparse, "to_sparse", "a sparse tensor"),
        (vmap, "torch.vmap(", "torch.vmap"),
        (gradient, "torch.autograd.grad(", "computes gradients inside forward"),
        (layers_in_a_list, "HIDDEN_LAYERS[0](x)", UNREGISTERED),
        (new_layer, "nn.Conv2d(4, 4, 1)(x)", UNREGISTERED),
        (hidden_weight, "HIDDEN_WEIGHT", UNREGISTERED),
        (call_counter, "x * CALLS[0]", "in a second run on the same images"),
        (lambda x: x.view(3, -1), "x.view(3, -1)", "its forward pass raises RuntimeError: shape"),
    ],
)
def test_code_that_cannot_be_recorded(function, line, reason):
    error = refusal(Net(Lambda(function)))
    assert error.path == "layer1.1"
    assert line in error.line
    assert re.search(reason, error.reason)


def test_a_wrong_layer_is_named():
    error = refusal(Net(nn.Conv2d(3, 4, 1)))
    assert error.path == "layer1.1"
    assert "return self.fc(self.layer1(x)" in error.line
    assert "expected input" in error.reason


class DropoutInEvaluation(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        self.drop.train()
        return self.drop(x)


def test_a_mode_that_forward_sets():
    error = refusal(Net(DropoutInEvaluation()).eval())
    assert error.path == "layer1.1.drop"
    assert error.line.endswith("return self.drop(x)")
    assert "forward sets its mode" in error.reason
    assert record(DropoutInEvaluation().train(), torch.randn(2, 4)).output.is_random


def test_scripted_and_compiled_modules():
    assert refusal(Net(torch.jit.script(nn.ReLU()))).path == "layer1.1"
    assert "scripted" in refusal(torch.jit.trace(nn.Tanh(), torch.ones(1))).reason
    assert "compiled" in refusal(torch.compile(nn.ReLU())).reason
    compiled = Net(nn.ReLU())
    compiled.layer1[1].compile()
    assert refusal(compiled).path == "layer1.1"


def test_backward_hooks():
    model = Net(nn.ReLU())
    handle = model.layer1.register_full_backward_hook(lambda *arguments: None)
    assert "has a backward hook" in refusal(model).reason
    assert refusal(model).path == "layer1"
    handle.remove()
    record(model, torch.randn(2, 4, 4, 4))
    hooked = Lambda(lambda x: (y := x * 2, y.register_hook(lambda gradient: gradient / 2))[0])
    assert "hook for gradients" in refusal(hooked).reason


def test_record_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in refusal(Net(nn.ReLU())).reason


def test_several_inputs_and_no_output():
    assert "several inputs (input1, input2)" in refusal(nn.Bilinear(2, 2, 2)).reason
    assert "returns no tensor" in refusal(Lambda(lambda x: 3.0)).reason


def test_wrong_arguments():
    with pytest.raises(InputError, match="pass the images only"):
        record(nn.Linear(2, 2), (torch.ones(2, 2), torch.ones(2)))
    with pytest.raises(InputError, match="has no weights yet"):
        record(nn.LazyLinear(2), torch.ones(2, 2))
    graph = record(nn.Linear(2, 2), torch.ones(3, 2))
    with pytest.raises(InputError, match=r"have shape \(4, 2\).* recorded for \(3, 2\)"):
        graph.replay(torch.ones(4, 2))
