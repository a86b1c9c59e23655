"""`train.dtype` declares the arithmetic: TF32 only where it is asked for and supported."""

from dataclasses import replace

import pytest
import torch
from stacks import max_difference, max_parameter, stack_specs, train_as_stack, train_serial

from experiments.config.identity import cell_id
from experiments.training.arithmetic import use_arithmetic
from fanin.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that sets the compute capability of an imaginary GPU."""

    def set_capability(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    yield set_capability
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


def test_tf32_is_refused_on_a_cpu(cell_config):
    with pytest.raises(ConfigError, match=r"runs on cpu; use train\.dtype=float32"):
        stack_specs(cell_config, "model=linear train.dtype=tf32", 1)


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
def test_an_old_gpu_is_named(gpu, dtype):
    gpu(7, 0)
    with pytest.raises(ConfigError, match=f"{dtype}: Tesla V100 does not support it.*7.0"):
        use_arithmetic(dtype, CUDA)
    use_arithmetic("float32", CUDA)


@pytest.mark.parametrize(
    ("dtype", "allowed"), [("tf32", True), ("float32", False), ("bfloat16", False)]
)
def test_only_tf32_allows_tf32(gpu, dtype, allowed):
    gpu(9, 0)
    use_arithmetic("float32" if allowed else "tf32", CUDA)
    use_arithmetic(dtype, CUDA)
    assert torch.backends.cuda.matmul.allow_tf32 == allowed
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_the_dtype_is_part_of_the_cell_id(cell_config):
    dtypes = ("float32", "tf32", "bfloat16")
    assert len({cell_id(cell_config(f"train.dtype={dtype}")) for dtype in dtypes}) == len(dtypes)


@pytest.mark.parametrize("optim", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("model", ["mlp model.width=9", "two_layer model.channels=3"])
def test_a_step_in_bfloat16_agrees_in_a_stack(cell_config, worker_settings, optim, model):
    case = f"model={model} optim={optim} train.dtype=bfloat16 train.steps=1"
    specs = stack_specs(cell_config, case, 3)
    if optim != "sgd":  # else the first step divides gradients that are rounding errors
        specs = [
            replace(s, step=replace(s.step, optim=replace(s.step.optim, eps=0.1))) for s in specs
        ]
    eps = torch.finfo(torch.bfloat16).eps
    for stacked, serial in zip(train_as_stack(specs), map(train_serial, specs), strict=True):
        # One rounding of the largest parameter, and that of an update of at most its size.
        assert max_difference(stacked, serial) <= 2 * eps * max_parameter(serial)
