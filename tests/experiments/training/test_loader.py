"""The order of the images in batches."""

import torch

from experiments.training.loader import BatchOrder
from experiments.training.settings import Train


def batches(n_images: int, batch_size: int, steps: int, seed: int) -> list[torch.Tensor]:
    order = BatchOrder(n_images, batch_size, seed)
    return [order.at(step) for step in range(steps)]


def test_every_epoch_is_a_new_permutation_without_the_remainder():
    order = batches(23, 5, steps=12, seed=0)
    epochs = [torch.cat(order[i : i + 4]) for i in (0, 4, 8)]
    for epoch in epochs:
        assert len(epoch.unique()) == 20
        assert epoch.max() < 23
    assert not torch.equal(epochs[0], epochs[1])


def test_the_order_depends_on_the_seed_and_not_on_the_number_of_steps():
    short, long = batches(23, 5, 3, seed=1), batches(23, 5, 9, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))
    assert not torch.equal(short[0], batches(23, 5, 3, seed=2)[0])


def test_steps_can_be_read_repeatedly_in_any_order():
    order = BatchOrder(23, 5, seed=1)
    first = [order.at(step).clone() for step in range(12)]
    assert all(torch.equal(order.at(step), first[step]) for step in (11, 0, 5, 4))


def test_a_batch_larger_than_the_set_is_the_whole_set():
    train = Train(epochs=2.0, batch_size=64)
    assert (train.batch_of(10), train.total_steps(10)) == (10, 2)
    for batch in batches(10, train.batch_of(10), 2, seed=0):
        assert batch.sort().values.tolist() == list(range(10))
