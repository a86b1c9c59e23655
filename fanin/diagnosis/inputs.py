"""Checks of a network's inputs and targets: non-finite values, outliers, scale."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from fanin.diagnosis.finding import Finding
from fanin.images import describe_nonfinite

# Networks and inits assume inputs with a root mean square of about 1. He's and Glorot's variances
# multiply the scale of the input, and the curvature of the loss grows with its square.
MAX_RMS = 10.0
MIN_RMS = 1e-3
MAX_OFFSET = 10.0  # largest |mean| / standard deviation
OUTLIER = 100.0  # times the 90 % quantile of the samples' largest deviations from the median
QUANTILE = 0.9
MIN_SAMPLES = 4  # for the search for outliers
MAX_FEATURE_RATIO = 100.0  # between the root mean squares of two features
TABULAR_NDIM = 2  # (sample, feature)


def check_inputs(inputs: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Yield the problems of the floating-point inputs, by name.

    Sparse tensors, such as adjacency matrices, and masks of 0 and -inf are left out.
    """
    for name, tensor in inputs.items():
        is_dense = tensor.layout == torch.strided and tensor.is_floating_point()
        if is_dense and tensor.numel() and not _is_mask(tensor):
            yield from _check_input(name, tensor.detach())


def check_targets(targets: Tensor) -> Iterator[Finding]:
    """Yield a finding if a target is not finite."""
    if targets.is_floating_point():
        yield from _nonfinite("targets", targets.detach())


def _check_input(name: str, tensor: Tensor) -> Iterator[Finding]:
    yield from _nonfinite(name, tensor)
    values = torch.nan_to_num(tensor.double(), 0.0, 0.0, 0.0)
    outlier = _outlier(name, values)
    if outlier is not None:
        yield outlier
        return  # an outlier determines the scale
    scale = _scale(name, values)
    if scale is not None:
        yield scale


def _is_mask(tensor: Tensor) -> bool:
    """Return True for a mask that is added to attention scores: it has only 0 and -inf."""
    is_zero = tensor == 0
    return bool(is_zero.any()) and bool((is_zero | tensor.isneginf()).all())


def _nonfinite(name: str, tensor: Tensor) -> Iterator[Finding]:
    problem = describe_nonfinite(name, tensor)
    if not problem:
        return
    invalid = ~tensor.isfinite()
    keep = f"{name}.flatten(1).isfinite().all(1)" if tensor.ndim > 1 else f"{name}.isfinite()"
    yield Finding(
        "nonfinite_input",
        f"{problem} One such value makes the loss and all gradients NaN.",
        name,
        {"non-finite values": int(invalid.sum()), "first sample": int(invalid.nonzero()[0, 0])},
        f"{name} = torch.nan_to_num({name})  # or keep only samples with {keep}",
    )


def _outlier(name: str, values: Tensor) -> Finding | None:
    """Return a finding if a sample is far outside the range of the others."""
    if values.ndim < TABULAR_NDIM or len(values) < MIN_SAMPLES:
        return None
    # Features of a table are compared separately, because their scales may differ.
    deviation = (values - values.median(0).values).abs()
    largest = deviation if values.ndim == TABULAR_NDIM else deviation.flatten(1).amax(1)[:, None]
    typical = _typical(largest)
    ratio = torch.where(typical > 0, largest / typical, 0.0)
    if float(ratio.max()) <= OUTLIER:
        return None
    sample, feature = divmod(int(ratio.argmax()), ratio.shape[1])
    index = (sample, feature) if values.ndim == TABULAR_NDIM else _largest(deviation, sample)
    return Finding(
        "outlying_input",
        f"{name}{list(index)} is {float(values[index]):.4g}, {float(ratio.max()):,.0f} times as far"
        " from the median as 90 % of the samples. Such a sample dominates the gradients.",
        name,
        {
            "value": float(values[index]),
            "typical deviation": float(typical[feature if values.ndim == TABULAR_NDIM else 0]),
            "sample": sample,
        },
        f"print({name}[{sample}])  # remove or correct it, or clip: {name} = {name}.clamp(-10, 10)",
    )


def _typical(deviations: Tensor) -> Tensor:
    """Return the 90 % quantile over the samples: one outlier among a few samples is above it."""
    return deviations.sort(0).values[int(QUANTILE * (len(deviations) - 1))]


def _largest(deviation: Tensor, sample: int) -> tuple[int, ...]:
    flat = int(deviation[sample].argmax())
    position = torch.unravel_index(torch.tensor(flat), deviation.shape[1:])
    return (sample, *map(int, position))


def _scale(name: str, values: Tensor) -> Finding | None:
    """Return a finding if the scale of the input differs much from 1, or between features."""
    rms = float(values.square().mean().sqrt())
    low, high = float(values.min()), float(values.max())
    mean, std = float(values.mean()), float(values.std(correction=0))
    evidence = {"rms": rms, "mean": mean, "std": std, "min": low, "max": high}

    axes = ", ".join(str(i) for i in range(values.ndim) if i != _feature_axis(values))
    standardize = (
        f"{name} = ({name} - {name}.mean(({axes}), keepdim=True))"
        f" / {name}.std(({axes}), keepdim=True)"
    )
    features = _unequal_features(values)
    if features is not None:
        smallest, largest, by_feature = features
        return Finding(
            "input_scale",
            f"the rms of feature {largest} of {name} is"
            f" {by_feature[largest] / by_feature[smallest]:,.0f} times that of feature {smallest}."
            " The large features dominate the gradients, and"
            " the largest stable learning rate is too small for the others.",
            name,
            {
                f"rms of feature {largest}": by_feature[largest],
                f"rms of feature {smallest}": by_feature[smallest],
            },
            f"{standardize}  # with the mean and std of the training set",
        )
    if rms > MAX_RMS:
        is_pixels = values.ndim > TABULAR_NDIM and low >= 0 and 1 < high <= 255
        raw = " (raw pixels from 0 to 255)" if is_pixels else ""
        return Finding(
            "input_scale",
            f"the root mean square of {name} is {rms:.3g}{raw}; inits assume about 1. Without"
            f" normalization layers, the outputs are {rms:.3g} times too large, and training"
            f" is stable only at learning rates that are about {rms**2:.2g} times smaller.",
            name,
            evidence,
            f"{name} = {name} / 255" if is_pixels else standardize,
        )
    if rms < MIN_RMS and rms > 0:
        return Finding(
            "input_scale",
            f"the root mean square of {name} is {rms:.3g}; inits assume about 1. The outputs hardly"
            " depend on the input.",
            name,
            evidence,
            standardize,
        )
    if std > 0 and abs(mean) > MAX_OFFSET * std and rms > 1:
        return Finding(
            "input_scale",
            f"the mean of {name} is {mean:.3g}, {abs(mean) / std:.0f} times its standard deviation."
            " All samples look alike to the network.",
            name,
            evidence,
            standardize,
        )
    return None


def _unequal_features(values: Tensor) -> tuple[int, int, list[float]] | None:
    """Return the smallest and the largest feature of a table, and all root mean squares."""
    if values.ndim != TABULAR_NDIM or len(values) < MIN_SAMPLES:
        return None
    by_feature = values.square().mean(0).sqrt()
    varying = values.std(0, correction=0) > 0
    if not varying.any() or float(by_feature.max()) <= MAX_RMS:
        return None
    smallest = int(torch.where(varying, by_feature, float("inf")).argmin())
    largest = int(by_feature.argmax())
    if by_feature[largest] <= MAX_FEATURE_RATIO * by_feature[smallest]:
        return None
    return smallest, largest, by_feature.tolist()


def corrected_input(tensor: Tensor, causes: Collection[str]) -> Tensor:
    """Return an input whose problems are corrected, to find the problems that remain."""
    if "nonfinite_input" in causes:
        tensor = torch.nan_to_num(tensor, 0.0, 0.0, 0.0)
    if "outlying_input" in causes:
        median = tensor.median(0).values
        deviation = (tensor - median).abs()
        limit = _typical(deviation.flatten(1).amax(1))
        tensor = median + (tensor - median).clamp(-limit, limit)
    if "input_scale" in causes:
        axes = [axis for axis in range(tensor.ndim) if axis != _feature_axis(tensor)]
        std = tensor.std(axes, correction=0, keepdim=True)
        tensor = (tensor - tensor.mean(axes, keepdim=True)) / torch.where(std > 0, std, 1.0)
    return tensor


def _feature_axis(tensor: Tensor) -> int:
    """Return 2 for (sample, time, feature), else 1 for (sample, feature, ...)."""
    return 2 if tensor.ndim == 3 else 1
