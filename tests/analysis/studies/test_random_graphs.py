"""Random graphs cover the operations; theory `field` agrees with their draws."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.studies import random_graphs
from analysis.studies.graph_modules import ACTIVATIONS, KINDS, NORMS
from analysis.studies.random_graphs import LEVEL, evaluate, judge, markdown, random_graph, run
from fanin.inits import to_init

SLOW_GRAPHS = range(10)  # of the 60 graphs of the study


def test_a_seed_gives_the_same_graph():
    assert random_graph(3) == random_graph(3)
    assert random_graph(3) != random_graph(4)


def test_sixty_graphs_contain_all_blocks_norms_and_activations():
    blocks = [block for seed in range(60) for block in random_graph(seed).blocks]
    assert set(Counter(block.kind for block in blocks)) == set(KINDS)
    assert set(Counter(block.norm for block in blocks)) == set(NORMS)
    assert set(Counter(block.activation for block in blocks)) == set(ACTIVATIONS)


@pytest.mark.parametrize("seed", range(20))
def test_every_graph_can_be_built(seed: int):
    graph = random_graph(seed)
    channels = 1 if graph.data == "mnist" else 3
    x = torch.randn(2, channels, graph.side, graph.side)
    assert graph.build(32)(x).shape == (2, 10)


def test_a_wrong_moment_is_rejected():
    rows = [
        {"graph": g, "quantity": "preact_m2", "tensor": "a", "operation": "add", "ratio": 1.0}
        for g in range(60)
    ]
    frame = pd.DataFrame(rows).assign(se=0.02, z=0.0)
    right = judge(frame)
    assert (right.p == 1).all()
    assert right.detectable.unique() == pytest.approx((3.76 + 1.28) * 0.02, rel=0.01)
    frame.loc[7, ["ratio", "z"]] = 1.12, 6.0
    wrong = judge(frame)
    assert wrong.index[wrong.p <= LEVEL].tolist() == [7]
    graphs = [random_graph(7)] * 60
    text = markdown(frame, graphs, 200)
    assert "rejects 1 of them" in text
    assert text.startswith("60 graphs, 200 draws")
    text = markdown(frame, [*graphs, random_graph(8)], 200)
    assert text.startswith("60 of 61 graphs (theory refuses the others), 200 draws")


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(
    "FANIN_DATA" not in os.environ,
    reason="FANIN_DATA is not set (folder with MNIST and CIFAR-10)",
)
def test_draws_of_random_graphs_agree_with_predictions():
    """The study runs 60 graphs: `python -m analysis.studies.random_graphs`."""
    frame = run([random_graph(seed) for seed in SLOW_GRAPHS], 200, None)
    judged = judge(frame)
    wrong = judged[judged.p <= LEVEL]
    assert wrong.empty, wrong.to_string()
    assert judged.detectable.median() < 0.25


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(
    "FANIN_DATA" not in os.environ,
    reason="FANIN_DATA is not set (folder with MNIST and CIFAR-10)",
)
def test_draws_of_another_init_disagree(monkeypatch: pytest.MonkeyPatch):
    declared = random_graphs.declared_moments
    he = to_init("he_normal")
    monkeypatch.setattr(random_graphs, "declared_moments", lambda model, init: declared(model, he))
    graph = next(g for g in map(random_graph, range(60)) if g.init == "xavier_normal")
    judged = judge(evaluate(graph, 50, None))
    assert (judged.p <= LEVEL).any()
    assert np.isfinite(judged.z).all()
