"""`from fanin import probe`: any model, any batch, nothing changed."""

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
def test_model_and_images_are_left_as_they_were(model, images, training):
    model.train(training)
    before, pixels = copy.deepcopy(model.state_dict()), images.clone()
    probe(model, (images, torch.zeros(6, dtype=torch.int64)), loss=F.cross_entropy)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(images, pixels)
    assert model.training is training
    assert model[0].inplace
    assert model[3].inplace
    assert all(not m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_hooks_are_removed_also_when_the_model_fails(model):
    with pytest.raises(RuntimeError):
        probe(model, torch.zeros(2, 1, 9, 9))
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


def test_it_measures_under_no_grad_too(model, images):
    model.eval()
    with torch.no_grad():
        inside = probe(model, images)
    assert inside.equals(probe(model, images))


def test_frozen_weights_are_measured_too(model, images):
    model.eval()
    free = probe(model, images)
    model.requires_grad_(False)
    assert probe(model, images).equals(free)


def test_images_of_another_type_are_cast_to_the_models(model, images):
    model.eval()
    whole = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    assert probe(model, whole).equals(probe(model, whole.float()))


def test_a_seed_gives_one_direction(model, images):
    def vjp(seed: int) -> list[float]:
        table = probe(model.eval(), images, seed=seed)
        return table[table.quantity == "vjp_m2"].value.tolist()

    assert vjp(1) == vjp(1) != vjp(2)


@pytest.mark.parametrize("wrong", [(-1,), (6,)])
def test_an_image_that_the_batch_lacks_is_refused(model, images, wrong):
    with pytest.raises(ValueError, match="the batch has images 0 to 5"):
        probe(model, images, images=wrong)


@pytest.mark.parametrize("wrong", [{"x": torch.zeros(1)}, "images", 3, [{"x": 1}]])
def test_what_is_no_batch_is_refused(model, wrong):
    with pytest.raises(TypeError, match="expected images"):
        probe(model, wrong)


def test_a_loss_needs_targets(model, images):
    with pytest.raises(ValueError, match="a loss needs targets"):
        probe(model, images, loss=F.cross_entropy)


def test_a_model_without_logits_is_refused(images):
    with pytest.raises(ValueError, match="returns \\[image, logit\\]"):
        probe(nn.Sequential(nn.Conv2d(1, 2, 3)), images)
