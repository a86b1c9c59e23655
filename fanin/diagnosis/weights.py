"""Checks of a network's weights: non-finite values, identical units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from fanin.diagnosis.finding import Finding
from fanin.diagnosis.recording import is_invalid, stored_values


def invalid_values(model: nn.Module) -> dict[str, Tensor]:
    """Return where parameters and buffers are not finite, by name; -inf in a buffer is a mask."""
    buffers: dict[str, Tensor] = dict(model.named_buffers())
    invalid = {
        name: is_invalid(stored_values(tensor), mask=name in buffers)
        for name, tensor in [*model.named_parameters(), *buffers.items()]
        if tensor.is_floating_point()
    }
    return {name: where for name, where in invalid.items() if where.any()}


def check_weights(model: nn.Module) -> Iterator[Finding]:
    """Yield a finding for the first parameter or buffer with non-finite values."""
    invalid = {name: int(where.sum()) for name, where in invalid_values(model).items()}
    if not invalid:
        return
    name = next(iter(invalid))
    layer, _, tensor = name.rpartition(".")
    others = f", and {len(invalid) - 1} other tensors have some" if len(invalid) > 1 else ""
    yield Finding(
        "nonfinite_weight",
        f"{invalid[name]} values of {name} are NaN or infinite{others}. An earlier step diverged,"
        " or a checkpoint is damaged; the loss stays NaN.",
        layer,
        {f"non-finite values of {tensor}": invalid[name], "affected tensors": len(invalid)},
        "model.load_state_dict(torch.load(CHECKPOINT))  # from before the loss became NaN\n"
        f"# or initialize it: {_submodule(layer)}.reset_parameters()",
    )


def check_identical_units(
    model: nn.Module, gradients: Mapping[str, Tensor | None]
) -> Iterator[Finding]:
    """Yield a finding if all units of a layer have equal weights and equal gradients.

    Such units stay equal, so that a layer acts like a single unit. A zero output layer, or a zero
    layer at the end of a residual branch, has gradients that differ between units and is healthy.
    """
    identical = [
        name
        for name, weight in model.named_parameters()
        if weight.ndim > 1
        and len(weight) > 1
        and _rows_are_equal(weight.detach())
        and (gradient := gradients.get(name)) is not None
        and _rows_are_equal(gradient)
    ]
    if not identical:
        return
    layer = identical[0].rpartition(".")[0]
    weight = model.get_parameter(identical[0])
    value = float(weight.detach().flatten()[0])
    others = f", as do {len(identical) - 1} other layers" if len(identical) > 1 else ""
    yield Finding(
        "identical_units",
        f"all {len(weight)} units of {layer} have the same weights and the same gradient{others}."
        " They stay equal in training, so the layer acts like a single unit.",
        layer,
        {"units": len(weight), "first weight": value},
        f"nn.init.kaiming_normal_({_submodule(layer)}.weight)",
    )


def _rows_are_equal(weight: Tensor) -> bool:
    rows = weight.to_dense().flatten(1)  # gradients of nn.Embedding(sparse=True) are sparse
    return bool((rows == rows[:1]).all())


def _submodule(layer: str) -> str:
    return f'model.get_submodule("{layer}")'
