"""Random programs of views and changes in place: the graph's values are the program's."""

from __future__ import annotations

import random

import pytest
import torch
from graph_cases import Lambda
from torch import Tensor

from fanin.graph import record

VIEWS = {
    "first half": lambda x: x[: (len(x) + 1) // 2],
    "every second": lambda x: x[..., ::2],
    "transpose": lambda x: x.transpose(0, -1),
    "column": lambda x: x[..., -1:],
    "flat": lambda x: x.flatten(),
    "add axis": lambda x: x.unsqueeze(0),
    "diagonal": lambda x: x.diagonal(0, 0, -1) if x.ndim > 1 else x[1:] if len(x) > 1 else x,
    "same": lambda x: x.view_as(x),
}
NEW = {
    "multiply": lambda x: x * 1.5,
    "clone": lambda x: x.clone(),
    "add sum": lambda x: x.sum(-1, keepdim=True) + x,
}
IN_PLACE = {
    "add_": lambda x: x.add_(0.5),
    "mul_": lambda x: x.mul_(-0.7),
    "tanh_": lambda x: x.tanh_(),
    "setitem": lambda x: x.__setitem__(0, 0.25),
    "slice +=": lambda x: x[..., :1].add_(1.0),
    "add another": lambda x: x.add_(x.detach().sum() * 0 + 1),
}


def random_program(seed: int):
    """Return a function of a tensor that runs random operations on the tensors that it has."""

    def program(x: Tensor) -> Tensor:
        choose = random.Random(seed)
        tensors = [x * 1.0]
        for _ in range(14):
            kind = choose.choices((VIEWS, NEW, IN_PLACE), (4, 2, 4))[0]
            tensor = choose.choice(tensors)
            result = kind[choose.choice(sorted(kind))](tensor)
            if kind is not IN_PLACE:
                tensors.append(result)
        return torch.stack([tensor.mean() for tensor in tensors])

    return program


def gradient(function, images: Tensor) -> Tensor | None:
    """Return the gradient of a function's sum; None if autograd refuses the changes in place."""
    x = images.clone().requires_grad_()
    try:
        return torch.autograd.grad(function(x).sum(), x)[0]
    except RuntimeError:
        return None


@pytest.mark.parametrize("seed", range(100))
def test_random_changes_of_views(seed: int):
    # `record` compares every value of the replay with the run.
    torch.manual_seed(seed)
    model = Lambda(random_program(seed))
    graph = record(model, torch.randn(4, 6, dtype=torch.float64))
    images = torch.randn(4, 6, dtype=torch.float64)
    # One rounding in each of 14 operations on values of about 1.
    torch.testing.assert_close(graph.replay(images), model(images), rtol=1e-13, atol=1e-13)
    expected = gradient(model, images)
    if expected is not None:
        actual = gradient(graph.replay, images)
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_the_programs_change_views_and_most_have_gradients():
    programs = [random_program(seed) for seed in range(20)]
    graphs = [record(Lambda(program), torch.randn(4, 6)) for program in programs]
    operations = [node.operation for graph in graphs for node in graph.nodes]
    assert operations.count("overwrite") >= 20
    assert sum(gradient(program, torch.randn(4, 6)) is not None for program in programs) >= 10
