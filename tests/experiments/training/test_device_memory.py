"""The size of a stack follows from the memory that a step of a small stack needs."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import stack_specs, train_serial

from experiments import stack
from experiments.training.device_memory import (
    MEASURED_NETWORKS,
    SHARE,
    equal_parts,
    networks_that_fit,
)

pytestmark = pytest.mark.usefixtures("worker_settings")


@dataclass
class FakeMemory:
    bytes_of_step: int
    free_bytes: int
    actions: list[object] = field(default_factory=list)

    def peak(self, action):
        action()
        self.actions.append(action)
        return self.bytes_of_step

    def free(self):
        return self.free_bytes


def test_the_memory_of_a_step_sets_the_number_of_networks(cell_config):
    specs = stack_specs(cell_config, "model=linear train.steps=3", MEASURED_NETWORKS + 1)
    memory = FakeMemory(MEASURED_NETWORKS * 1000, 100_000)
    assert networks_that_fit(specs, memory) == int(SHARE * 100)
    assert networks_that_fit(specs, FakeMemory(10**9, 1)) == 1
    assert len(memory.actions) == 1


def test_measuring_does_not_change_training(cell_config):
    measured, usual = (stack_specs(cell_config, "model=mlp train.steps=3", 2) for _ in range(2))
    networks_that_fit(measured, FakeMemory(1, 1))
    assert train_serial(measured[0]).train_loss == train_serial(usual[0]).train_loss


@given(st.integers(1, 300), st.integers(1, 300))
def test_parts_cover_all_networks_and_are_of_similar_sizes(n_networks, limit):
    parts = equal_parts(n_networks, limit)
    assert [slot for part in parts for slot in part] == list(range(n_networks))
    assert max(map(len, parts)) <= limit
    assert len(parts) == -(-n_networks // limit)


def test_a_stack_is_divided_if_it_does_not_fit(cell_config, monkeypatch):
    specs = stack_specs(cell_config, "model=linear train.steps=3", 5)
    configs = [
        cell_config("model=linear", "train.steps=3", "data.n_train=64", f"seed={seed}")
        for seed in range(len(specs))
    ]
    sizes = []
    original = stack.train_stacked

    def counting(specs, on_progress):
        sizes.append(len(specs))
        return original(specs, on_progress)

    monkeypatch.setattr(stack, "train_stacked", counting)
    monkeypatch.setattr(stack, "_stack_limit", lambda runs, device: 2)
    device = specs[0].data.train.x.device
    ends = dict(stack.run_stack(configs, device))
    assert sizes == [2, 2, 1]
    assert sorted(ends) == list(range(5))
