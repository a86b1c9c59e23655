"""The graph, the replay and its gradients, for modules as users write them."""

from __future__ import annotations

import pytest
import torch
from graph_cases import expressions
from graph_modules import CASES
from torch import Tensor, nn

from fanin.graph import record
from fanin.graph.structure import entries

# Gradients are sums of up to 1e4 terms of up to 1e4, whose order may differ: errors of sqrt(1e4)
# roundings of 1e-16, relative to the largest term.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-10}


@pytest.fixture(params=[False, True], ids=["eval", "train"])
def training(request) -> bool:
    return request.param


@pytest.mark.parametrize("name", CASES)
def test_the_graph_of_a_module(name: str, training: bool):
    torch.manual_seed(0)
    case = CASES[name]
    model = case.build().train(training)
    expected = [case.expected] if isinstance(case.expected, str) else case.expected
    if not training and name == "stochastic depth":
        expected = ["add(x, conv2d(x))"]
    graph = record(model, torch.randn(3, *case.image))
    assert expressions(graph) == expected


@pytest.mark.parametrize("name", CASES)
def test_replay_and_its_gradients_are_those_of_the_model(name: str, training: bool):
    torch.manual_seed(0)
    case = CASES[name]
    model = case.build().double().train(training)
    graph = record(model, torch.randn(3, *case.image, dtype=torch.float64))
    images = torch.randn(3, *case.image, dtype=torch.float64)

    def outputs_and_gradients(function) -> list[Tensor]:
        torch.manual_seed(1)
        model.zero_grad()
        x = images.clone().requires_grad_()
        outputs = [value for _, value in entries(function(x * 1)) if isinstance(value, Tensor)]
        sum(output.square().sum() for output in outputs).backward()
        gradients = [source.grad for source in (x, *model.parameters())]
        return [*outputs, *(g for g in gradients if g is not None)]

    state = {key: value.clone() for key, value in model.state_dict().items()}
    replayed = outputs_and_gradients(graph.replay)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    expected = outputs_and_gradients(model)
    assert len(replayed) == len(expected)
    for a, b in zip(replayed, expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_there_are_enough_modules():
    assert len(CASES) >= 40
    assert all(isinstance(case.build(), nn.Module) for case in CASES.values())
