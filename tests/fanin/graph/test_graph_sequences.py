"""Graphs of sequences: the modules, names and shapes that `parse_network` finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from experiments.config.instantiate import instantiate
from fanin.graph import Graph, Node, record
from fanin.theory.network import flattened, parse_network

OPTIONS = sorted((Path(__file__).parents[3] / "conf" / "model").glob("*.yaml"))
MODELS = {path.stem: instantiate(yaml.safe_load(path.read_text())) for path in OPTIONS}
IMAGE = (3, 32, 32)


def modules(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.kind == "module"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name", [name for name, model in MODELS.items() if hasattr(model, "build") and name != "resnet"]
)
def test_the_models_of_the_suite_give_the_same_layers_and_shapes(name: str, training: bool):
    network = MODELS[name].build(IMAGE, 10, nn.Tanh).train(training)
    graph = record(network, torch.randn(2, *IMAGE))
    nodes = modules(graph)
    assert len(nodes) == len(graph.nodes) - 1
    assert [(node.path, node.target) for node in nodes] == list(flattened(network))
    assert all(node.inputs == (before,) for before, node in zip(graph.nodes, nodes, strict=False))
    shapes = {node.path: node.shape[1:] for node in nodes}
    stages = parse_network(network, IMAGE).stages
    assert [stage.output_shape for stage in stages] == [shapes[stage.name] for stage in stages]


def test_a_module_that_is_used_twice_in_a_sequence_has_two_paths():
    act = nn.Tanh()
    block = nn.Sequential(nn.Linear(4, 4), act)
    network = nn.Sequential(block, act, nn.Sequential(block, nn.Linear(4, 4)), block)
    nodes = modules(record(network, torch.randn(2, 4)))
    assert [(node.path, node.target) for node in nodes] == list(flattened(network))
