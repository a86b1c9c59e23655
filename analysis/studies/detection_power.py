"""Command that measures how often the check of a sweep detects a wrong weight variance.

python -m analysis.studies.detection_power --write docs/appendix/detection-power.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from analysis.predictions import predict_cell
from analysis.settings import Setting, group_settings
from analysis.studies.blocks import publish
from analysis.studies.detection_tables import markdown
from analysis.theory_comparison import TheoryComparison
from analysis.verdicts import LayerSummaries, judge, summarize_layers
from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.console import exit_on_error
from experiments.inputs import prepared, probe_images
from experiments.schema import build_cell
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request
from fanin.errors import FaninError
from fanin.inits import Init, initialize, weight_layers
from fanin.probes import moments
from fanin.probes.moments import random_cotangent
from fanin.probes.trace import trace
from fanin.seeds import make_generator
from fanin.statistics.agreement import DISAGREES
from fanin.statistics.log_ratio import LogRatio

NAME = "detection_power"
SWEEP = "he_vs_glorot"
SETTINGS = tuple(
    f"{model} {rest}"
    for model in ("two_layer", "plain depth=10")
    for rest in ("relu he_normal", "tanh xavier_normal", "relu pytorch_default")
)
ERRORS = (0.0, 0.05, 0.1, 0.2)  # relative errors of the weight variance
DRAWS = (16, 64, 256, 1024)
MARGINS = (1.25, 1.1, 1.05, 1.02)  # the demo's, the check's default, and two smaller ones
QUANTITIES = ("preact_m2", "preact_var", "vjp_m2")
MEAN = -1  # `image` of the mean over the probe set


@dataclass(frozen=True)
class Measured:
    """Comparisons of one setting, one for each error of the weight variance of one layer.

    Attributes
    ----------
    pool
        Number of draws for each error.
    layer
        Number of the layer whose weight variance is wrong, from 1.
    layer_name
        Its name.
    comparisons
        By relative error of the variance, with all measured draws. The prediction is always that of
        the correct variance.
    """

    pool: int
    layer: int
    layer_name: str
    comparisons: Mapping[float, TheoryComparison]

    @property
    def label(self) -> str:
        """Label of the setting."""
        return next(iter(self.comparisons.values())).setting.label

    def change(self, error: float) -> float:
        """Return the factor by which the error changes the layer's mean log `preact_m2`.

        The draws with and without the error have the same seeds.
        """
        means = []
        for draws in (self.comparisons[error].draws, self.comparisons[0.0].draws):
            is_moment = (draws.layer == self.layer) & (draws.quantity == "preact_m2")
            means.append(np.log(draws[is_moment].value).mean())
        return float(np.exp(means[0] - means[1]))

    def batch(self, error: float, number: int, draws: int) -> TheoryComparison:
        """Compare theory with batch `number` of the draws. Batches have no draws in common."""
        comparison = self.comparisons[error]
        first = number * draws
        rows = comparison.draws
        return replace(comparison, draws=rows[rows.draw.between(first, first + draws - 1)])


def sweep_settings(sweep: str, labels: Sequence[str]) -> list[Setting]:
    """Return the settings of a named sweep that have these labels.

    Raises
    ------
    FaninError
        The sweep has no setting with one of the labels.
    """
    loader = config_loader()
    catalog = ConfigCatalog(loader, "config")
    request = parse_request(catalog, parse_arguments(loader, [f"sweep={sweep}"]))
    settings = group_settings(
        [
            {
                "cell_id": cell.id,
                "config": cell.config,
                "choices": cell.choices,
                "assignment": cell.assignment,
            }
            for cell in expand(catalog, request.grids)
        ]
    )
    by_label = {setting.label: setting for setting in settings}
    for label in labels:
        if label not in by_label:
            raise FaninError(f"{sweep}: no setting {label!r}; it has {', '.join(by_label)}")
    return [by_label[label] for label in labels]


def measure_setting(setting: Setting, errors: Sequence[float], draws: int) -> Measured:
    """Predict a setting, and draw its networks with each error in its middle layer."""
    torch.set_num_threads(1)
    cell = build_cell(setting.config)
    data, scaling = prepared(cell, torch.device("cpu"))
    images = probe_images(cell, data, scaling)
    network = cell.network().to(cell.train.torch_dtype)
    names = list(weight_layers(network))
    layer = (len(names) - 1) // 2
    predicted = predict_cell(setting.config, whole_set=True)
    predicted = predicted[predicted.image == MEAN]
    comparisons = {}
    for error in errors:
        init = with_variance_error(cell.init, names[layer], error)
        measured = draw_moments(network, init, images, draws)
        comparisons[error] = TheoryComparison(setting, measured, predicted, None)
    return Measured(draws, layer + 1, names[layer], comparisons)


def draw_moments(network: nn.Module, init: Init, images: Tensor, draws: int) -> pd.DataFrame:
    """Draw networks and measure `QUANTITIES` as the probe does, without its other quantities.

    The complete measurement of a deep network takes four times as long.
    """
    rows = []
    for draw in range(draws):
        initialize(network, init, partial(make_generator, "weights", 0, draw))
        layers, logits = trace(network, images)
        cotangent = random_cotangent(
            len(images), logits.shape[1], make_generator("cotangent", 0, draw)
        )
        gradients = torch.autograd.grad(
            logits, [layer.preactivation for layer in layers], cotangent.to(logits)
        )
        for number, (layer, gradient) in enumerate(zip(layers, gradients, strict=True), start=1):
            per_image = (
                moments.second_moment(layer.preactivation),
                moments.variance(layer.preactivation),
                moments.second_moment(gradient),
            )
            values = torch.stack(per_image).mean(1).tolist()
            rows += [
                (draw, number, layer.name, quantity, value)
                for quantity, value in zip(QUANTITIES, values, strict=True)
            ]
    columns = ["draw", "layer", "layer_name", "quantity", "value"]
    return pd.DataFrame(rows, columns=columns).assign(image=MEAN, seed_weights=0)


def with_variance_error(init: Init, layer_name: str, error: float) -> Init:
    """Multiply the weight variance of one layer by 1 + error.

    Examples
    --------
    >>> from fanin.inits import HeNormal, WeightShape
    >>> init = with_variance_error(Init(HeNormal()), "conv1", 0.2)
    >>> [round(init.for_layer(name).weight_moments(WeightShape(4, 8)).var, 3)
    ...  for name in ("conv1", "conv2")]
    [0.3, 0.25]
    """
    layer = init.for_layer(layer_name)
    wrong = replace(layer, gain=layer.gain * (1 + error) ** 0.5)
    return replace(init, layers={**init.layers, layer_name: wrong})


def detect(
    measured: Sequence[Measured],
    *,
    draws: Sequence[int] = DRAWS,
    margins: Sequence[float] = MARGINS,
    level: float = 0.05,
    max_batches: int = 16,
) -> pd.DataFrame:
    """Check sweeps in which one layer of one setting is wrong.

    Parameters
    ----------
    measured
        The settings of the sweep.
    draws
        Numbers of draws per setting.
    margins, level
        As for `analysis.verdicts.compute_verdicts`.
    max_batches
        Largest number of disjoint batches of draws to use.

    Returns
    -------
    pandas.DataFrame
        A row per checked sweep and margin: `error`, `draws`, `margin`, `setting` (label of the
        wrong one; empty for error 0), `change` (`Measured.change`), `at_layer` (the wrong layer
        disagrees in some quantity) and `anywhere` (some layer of the sweep disagrees).
    """
    rows: list[dict[str, Any]] = []
    changes = {(k, e): m.change(e) for k, m in enumerate(measured) for e in m.comparisons}
    for n in draws:
        batches = range(min(min(m.pool for m in measured) // n, max_batches))
        keys = [
            (batch, number, error)
            for batch in batches
            for number, setting in enumerate(measured)
            for error in setting.comparisons
        ]
        summaries = summarize_layers(
            [measured[number].batch(error, batch, n) for batch, number, error in keys]
        )
        assert summaries is not None
        rows_of_key = summaries.rows.groupby("setting").indices
        index = {key: rows_of_key[number] for number, key in enumerate(keys)}
        for batch in batches:
            for error, wrong in _cases(measured):
                parts = [
                    index[batch, number, error if number == wrong else 0.0]
                    for number in range(len(measured))
                ]
                sweep = _join(summaries, parts)
                for margin in margins:
                    verdicts = judge(sweep, margin=margin, level=level)
                    disagreeing = verdicts[verdicts.verdict == DISAGREES]
                    is_layer = pd.Series(False, index=disagreeing.index)
                    label, change = "", 1.0
                    if wrong is not None:
                        is_layer = disagreeing.setting == wrong
                        is_layer &= disagreeing.layer == measured[wrong].layer
                        label, change = measured[wrong].label, changes[wrong, error]
                    rows.append(
                        {
                            "error": error,
                            "draws": n,
                            "margin": margin,
                            "setting": label,
                            "change": change,
                            "at_layer": bool(is_layer.any()),
                            "anywhere": len(disagreeing) > 0,
                        }
                    )
    return pd.DataFrame(rows)


def _join(summaries: LayerSummaries, parts: Sequence[np.ndarray]) -> LayerSummaries:
    """Make a sweep of settings, given the positions of their rows in `summaries`."""
    index = np.concatenate(parts)
    setting = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows = summaries.rows.iloc[index].assign(setting=setting).reset_index(drop=True)
    steps = {f.name: getattr(summaries.steps, f.name)[index] for f in fields(LogRatio)}
    return LayerSummaries(rows, LogRatio(**steps))


def _cases(measured: Sequence[Measured]) -> Iterator[tuple[float, int | None]]:
    """Yield each error with the number of the wrong setting, and (0, None) once."""
    yield 0.0, None
    for number, setting in enumerate(measured):
        for error in setting.comparisons:
            if error:
                yield error, number


def main(argv: Sequence[str] | None = None) -> None:
    """Draw networks with and without errors, check them, and write or print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.detection_power", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--pool",
        type=int,
        default=1024,
        help="draws per setting and error, split into disjoint batches (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="default: print")
    args = parser.parse_args(argv)
    if args.pool < max(DRAWS):
        parser.error(f"--pool {args.pool}: must be at least {max(DRAWS)}")
    with exit_on_error(OSError):
        settings = sweep_settings(SWEEP, SETTINGS)
        with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
            futures = [pool.submit(measure_setting, s, ERRORS, args.pool) for s in settings]
            measured = []
            for setting, future in zip(settings, futures, strict=True):
                measured.append(future.result())
                print(f"measured {setting.label}", flush=True)
        layers = [f"{m.label} ({m.layer_name})" for m in measured]
        publish(markdown(detect(measured), layers), args.write, NAME)


if __name__ == "__main__":
    main()
