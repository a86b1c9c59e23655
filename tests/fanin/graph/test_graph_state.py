"""`record` and `replay` leave the model and the random generators as they were."""

from __future__ import annotations

import random
from collections import Counter, deque

import numpy as np
import pytest
import torch
from graph_cases import Lambda
from graph_modules import CASES
from torch import Tensor, nn

from fanin.graph import GraphError, record
from fanin.graph.recorder import Recorder
from fanin.graph.state import ModelState
from fanin.models.layers import SeededDropout

IMAGES = torch.randn(3, 4, 6, 6)


class Stateful(nn.Module):
    """A module that changes everything that a forward pass can change."""

    def __init__(self, fails: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("average", torch.zeros(4))
        self.register_buffer("steps", torch.tensor(0))
        self.cache = torch.zeros(4)
        self.features: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.nested = deque([{"count": torch.zeros(())}])
        self.counter = Counter(images=1)
        self.calls = 0
        self.fails = fails

    def forward(self, x):
        self.calls += 1
        with torch.no_grad():
            self.average = 0.9 * self.average + x.mean((0, 2, 3))
            self.steps += 1
            self.cache.add_(1)
        y = self.drop(self.bn(self.conv(x)))
        self.train(not self.training)
        self.features.append(y)
        self.by_name["y"] = y
        self.nested[0]["count"].add_(1)
        self.nested.append({})
        self.counter["images"] += len(x)
        self.last = y
        if self.fails:
            raise ValueError("no")
        return y


def snapshot(model: nn.Module) -> dict[str, object]:
    tensors = [*model.parameters(), *model.buffers(), model.cache, model.nested[0]["count"]]
    return {
        "ids": [id(tensor) for tensor in tensors],
        "values": [tensor.detach().clone() for tensor in tensors],
        "gradients": [p.grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "lists": (len(model.features), len(model.by_name), model.calls, len(model.nested)),
        "counter": model.counter.copy(),
        "hooks": [
            (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
            for module in model.modules()
        ],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "call": nn.Module.__call__,
    }


def assert_unchanged(before: dict[str, object], after: dict[str, object]) -> None:
    for key, value in before.items():
        if key == "values":
            assert all(map(torch.equal, value, after[key]))
        elif key == "torch":
            assert torch.equal(value, after[key])
        elif key == "gradients":
            assert all(a is b for a, b in zip(value, after[key], strict=True))
        else:
            assert value == after[key], key


@pytest.mark.parametrize("training", [False, True])
def test_record_changes_nothing(training: bool):
    model = Stateful().train(training)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    model.conv.register_forward_hook(lambda module, args, output: None)
    before = snapshot(model)
    record(model, IMAGES)
    assert_unchanged(before, snapshot(model))


def test_the_module_changes_everything():
    torch.manual_seed(0)
    model = Stateful().train()
    model(IMAGES)
    assert model.calls == len(model.features) == int(model.steps) == int(model.cache[0]) == 1
    assert model.bn.num_batches_tracked == 1
    assert model.nested[0]["count"] == 1
    assert (len(model.nested), model.counter["images"]) == (2, 4)
    assert not model.training


def test_record_changes_nothing_when_forward_raises():
    model = Stateful(fails=True)
    before = snapshot(model)
    with pytest.raises(GraphError, match=r"raise ValueError.*raises ValueError: no"):
        record(model, IMAGES)
    assert_unchanged(before, snapshot(model))


def test_record_changes_nothing_when_a_graph_is_refused():
    model = Stateful()
    model.drop = Lambda(lambda x: x / x.max().item())
    before = snapshot(model)
    with pytest.raises(GraphError, match="argument of div"):
        record(model, IMAGES)
    assert_unchanged(before, snapshot(model))


class ClampedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        with torch.no_grad():
            self.conv.weight.clamp_(-0.01, 0.01)
        return self.conv(x)


def test_a_change_of_the_weights_is_refused_and_undone():
    model = ClampedWeight()
    before = model.conv.weight.detach().clone()
    with pytest.raises(GraphError, match=r"clamp_\(-0.01, 0.01\): a tensor is changed in place"):
        record(model, IMAGES)
    assert torch.equal(model.conv.weight, before)
    assert before.abs().max() > 0.01


class ClampedData(ClampedWeight):
    def forward(self, x):
        self.conv.weight.data.clamp_(-0.01, 0.01)
        return self.conv(x)


def test_a_change_of_the_weights_through_data_is_refused_and_undone():
    model = ClampedData()
    before = model.conv.weight.detach().clone()
    with pytest.raises(GraphError, match=r"changes the values of conv.weight"):
        record(model, IMAGES)
    assert torch.equal(model.conv.weight, before)


def test_weights_that_are_nan_are_not_changed():
    model = nn.Conv2d(4, 4, 3)
    nn.init.constant_(model.weight, torch.nan)
    state = ModelState(model)
    assert state.restore() == []


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(GraphError, match=r"outside torch\.inference_mode"):
        record(nn.Conv2d(4, 4, 3), IMAGES)


def test_a_pending_backward_pass_survives():
    """Buffers that autograd has saved keep their version."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    loss = model(IMAGES).square().mean()
    graph = record(model, IMAGES)
    graph.replay(IMAGES)
    loss.backward()
    assert model[0].weight.grad is not None


def test_the_images_are_not_changed():
    images = torch.randn(3, 4)
    before = images.clone()
    record(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), images)
    assert torch.equal(images, before)
    assert not images.requires_grad


def test_replay_reads_the_weights_that_the_model_has_now():
    model = CASES["functional convolution"].build()
    images = torch.randn(3, 4, 8, 8)
    graph = record(model, images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(graph.replay(images), model(images))


def test_replay_draws_random_numbers_like_the_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    images = torch.randn(3, 4)
    graph = record(model, images)
    torch.manual_seed(0)
    expected = [model(images), model(images)]
    torch.manual_seed(0)
    assert all(torch.equal(graph.replay(images), output) for output in expected)
    assert [node.is_random for node in graph.nodes] == [False, False, True]


def test_seeded_dropout_needs_no_masks():
    model = nn.Sequential(nn.Flatten(), SeededDropout(0.5, (144,)), nn.Linear(144, 2)).train()
    graph = record(model, IMAGES)
    assert [node.operation for node in graph.nodes] == ["input", "flatten", "dropout", "linear"]
    assert graph.nodes[2].arguments["training"]
    assert model[1].mask is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype):
    graph = record(CASES["torchvision resnet"].build().to(dtype), torch.rand(2, 3, 8, 8).to(dtype))
    assert {node.dtype for node in graph.nodes} == {dtype}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("training", [False, True])
def test_a_gpu_gives_the_same_graphs(training: bool):
    for case in CASES.values():
        torch.manual_seed(0)
        model = case.build().train(training)
        images = torch.rand(2, *case.image)
        operations = [node.operation for node in record(model, images).nodes]
        state = torch.cuda.get_rng_state()
        graph = record(model.cuda(), images.cuda())
        assert torch.equal(torch.cuda.get_rng_state(), state)
        assert [node.operation for node in graph.nodes] == operations


def test_the_number_of_runs():
    """Two runs on the images and one on other images, beside plain runs."""
    runs = 0
    original = Recorder.run

    def run(self, images):
        nonlocal runs
        runs += 1
        return original(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "run", run)
        record(nn.Linear(4, 2), torch.randn(3, 4))
    assert runs == 3
