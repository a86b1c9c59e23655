"""Tests of `from fanin import probe`."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fanin import probe


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ReLU(inplace=True),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False])
def test_model_and_images_are_not_changed(model, images, training):
    model.train(training)
    initial_state, initial_images = copy.deepcopy(model.state_dict()), images.clone()
    probe(model, (images, torch.zeros(6, dtype=torch.int64)), loss=F.cross_entropy)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, initial_state[name]), name
    assert torch.equal(images, initial_images)
    assert model.training is training
    assert model[0].inplace
    assert model[3].inplace
    assert all(not m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_hooks_are_removed_if_the_model_fails(model):
    with pytest.raises(ValueError, match="needs 36 inputs"):
        probe(model, torch.zeros(2, 1, 9, 9))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    with pytest.raises(RuntimeError):
        probe(nn.Sequential(model, nn.Unflatten(1, (2, 2))), torch.zeros(2, 1, 5, 5))
    assert all(not m._forward_hooks for m in model.modules())


def test_a_loader_gives_its_first_batch(model, images):
    targets = torch.arange(6) % 3
    loader = DataLoader(TensorDataset(images, targets), batch_size=4)
    model.eval()
    from_loader = probe(model, loader, loss=F.cross_entropy)
    direct = probe(model, (images[:4], targets[:4]), loss=F.cross_entropy)
    assert from_loader.equals(direct)
    only_images = DataLoader(TensorDataset(images), batch_size=4)
    assert probe(model, only_images).equals(probe(model, images[:4]))


def test_probe_works_under_no_grad(model, images):
    model.eval()
    with torch.no_grad():
        table = probe(model, images)
    assert table.equals(probe(model, images))


def test_frozen_weights_can_be_measured(model, images):
    model.eval()
    trainable = probe(model, images)
    model.requires_grad_(False)
    assert probe(model, images).equals(trainable)


def test_images_are_cast_to_the_dtype_of_the_model(model, images):
    model.eval()
    assert probe(model, images.double()).equals(probe(model, images))


def test_a_seed_determines_the_cotangent(model, images):
    def vjp(seed: int) -> list[float]:
        table = probe(model.eval(), images, seed=seed)
        return table[table.quantity == "vjp_m2"].value.tolist()

    assert vjp(1) == vjp(1) != vjp(2)


@pytest.mark.parametrize("single_images", [(-1,), (6,)])
def test_an_image_outside_the_batch_is_rejected(model, images, single_images):
    with pytest.raises(ValueError, match="the batch has images 0 to 5"):
        probe(model, images, images=single_images)


@pytest.mark.parametrize("batch", [{"x": torch.zeros(1)}, "images", 3, [{"x": 1}]])
def test_an_invalid_batch_is_rejected(model, batch):
    with pytest.raises(TypeError, match="batch must be images"):
        probe(model, batch)


def test_a_loss_needs_targets(model, images):
    with pytest.raises(ValueError, match="a loss needs targets"):
        probe(model, images, loss=F.cross_entropy)


def test_a_model_without_logits_is_rejected(images):
    with pytest.raises(ValueError, match="must return a tensor of shape"):
        probe(nn.Sequential(nn.Conv2d(1, 2, 3)), images)
