"""Compare theories with measured draws on five networks, for docs/appendix/.

python -m analysis.studies.compare_theories --write docs/appendix/theory-networks.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.studies.baselines import NOT_INSTALLED, VENV, ToolResult, install_hint, query_tools
from analysis.studies.blocks import publish
from analysis.studies.draws import mean_and_error, measure_draws
from analysis.studies.networks import ANYINIT_CASE, CASES, NetworkCase
from analysis.studies.tables import markdown_table
from experiments.console import exit_on_error
from fanin.inits import LayerInit, Normal
from fanin.statistics.agreement import ROUNDING
from fanin.statistics.coverage import inside
from fanin.statistics.draw_distribution import SHAPE, predicted_mean_log
from fanin.theory.predict import predict_moments

THEORY_LABELS = {
    "he": "He",
    "mean_field": "mean field",
    "field": "fanin: field",
    "finite_width": "fanin: finite_width",
}
TOOL_LABELS = {"anyinit": "anyinit", "neural_tangents": "neural-tangents"}
QUANTITIES = {
    "preact_m2": "second moment of the pre-activation",
    "vjp_m2": "second moment of the cotangent at the pre-activation",
    "weight_vjp_m2": "second moment of the cotangent at the weight",
}


@dataclass(frozen=True)
class CaseResult:
    """Measured draws and predictions of one network.

    Attributes
    ----------
    case
        The network.
    draws
        Table of `measure_draws`.
    predicted
        Rows of the `predictions` table for the image.
    tools
        Predictions of anyinit and neural-tangents, by name: one `preact_m2` per weight layer, or
        the reason for having none.
    """

    case: NetworkCase
    draws: pd.DataFrame
    predicted: pd.DataFrame
    tools: dict[str, ToolResult]

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return self.draws.draw.nunique()

    def means(self, quantity: str) -> pd.DataFrame:
        """Return the measured mean and its standard error, one row per layer."""
        return mean_and_error(self.draws, quantity)

    def ratio(self, theory: str, quantity: str) -> np.ndarray | None:
        """Return predicted / measured by layer; None if the theory has no prediction.

        Predicted means are divided by the mean over draws. Theory `finite_width` predicts a
        distribution of the draws that are not 0; its geometric mean is divided by theirs.
        """
        value = self.value(theory, quantity)
        if value is None:
            return None
        if theory != "finite_width":
            return np.asarray(value / self.means(quantity)["mean"].to_numpy())
        rows = self.draws[(self.draws.quantity == quantity) & (self.draws.value > 0)]
        measured = np.log(rows.value).groupby(rows.layer).mean().sort_index().to_numpy()
        predicted = self._rows("finite_width", quantity)
        shape = predicted[[*SHAPE]].to_numpy(float).T
        return np.exp(predicted_mean_log(np.log(value), *shape) - measured)

    def value(self, theory: str, quantity: str) -> np.ndarray | None:
        """Return a theory's prediction for each layer; None if it has none."""
        if theory in self.tools:
            tool_result = self.tools[theory]
            if quantity != "preact_m2" or isinstance(tool_result, str):
                return None
            return np.array(tool_result)
        rows = self._rows(theory, quantity)
        return rows.value.to_numpy() if len(rows) else None

    def coverage(self, quantity: str) -> np.ndarray:
        """Return the share of draws inside the 95 % interval by layer; NaN if all are equal."""
        rows = self._rows("finite_width", quantity)
        shares = []
        for row in rows.itertuples():
            is_row = (self.draws.quantity == quantity) & (self.draws.layer == row.layer)
            with np.errstate(divide="ignore"):  # a draw of 0
                logs = np.log(self.draws[is_row].value.to_numpy())
            hits = inside(
                logs,
                np.full(len(logs), log(row.value)),
                np.full(len(logs), row.log_sd),
                row.zero_probability,
                row.log_skew,
            )
            shares.append(hits.mean() if row.log_sd > ROUNDING else np.nan)
        return np.array(shares)

    def log_sd(self, quantity: str) -> np.ndarray:
        """Return the predicted standard deviation of one draw's log moment, by layer."""
        return self._rows("finite_width", quantity).log_sd.to_numpy()

    def _rows(self, theory: str, quantity: str) -> pd.DataFrame:
        rows = self.predicted
        return rows[(rows.theory == theory) & (rows.quantity == quantity)].sort_values("layer")


def compare(case: NetworkCase, draws: int, root: str, venv: str = VENV) -> CaseResult:
    """Measure one network and predict it with all theories, anyinit and neural-tangents."""
    image = case.image(root)
    network = case.network(image)
    moments = case.moments(network)
    predicted = predict_moments(network, moments, image, tuple(THEORY_LABELS))
    tool_results = query_tools(network, moments, image, tuple(TOOL_LABELS), venv)
    measured = measure_draws(network, case.init, image, draws)
    return CaseResult(case, measured, predicted[predicted.image == -1], tool_results)


def compare_anyinit_init(draws: int, root: str, venv: str = VENV) -> CaseResult | None:
    """Compare the theories on a network with anyinit's own init; None without anyinit."""
    image = ANYINIT_CASE.image(root)
    network = ANYINIT_CASE.network(image)
    moments = ANYINIT_CASE.moments(network)
    tool_results = query_tools(network, moments, image, ("anyinit_init", "anyinit_own"), venv)
    variances, predicted = tool_results["anyinit_init"], tool_results["anyinit_own"]
    if isinstance(variances, str) or isinstance(predicted, str):
        return None
    layers = {
        name: LayerInit(Normal(std=var**0.5)) for name, var in zip(moments, variances, strict=True)
    }
    case = replace(ANYINIT_CASE, layers=layers)
    return replace(compare(case, draws, root, venv), tools={"anyinit": predicted})


def markdown(compared: Sequence[CaseResult]) -> str:
    """Format a summary, then a table of layers for each network."""
    return "\n\n".join([_summary(compared), *(_network(c) for c in compared)])


def _summary(compared: Sequence[CaseResult]) -> str:
    theories = {**THEORY_LABELS, **TOOL_LABELS}
    lines = [
        "Predicted / measured, for each column in the layer in which this ratio is furthest from "
        "1; the last column counts all layers. In "
        "brackets: largest standard error of the measured mean, if it is above 1 %. `-`: no "
        "prediction.",
    ]
    for quantity, label in QUANTITIES.items():
        rows = [
            [_short(c), *(_furthest(c, t, quantity) for t in theories), _overall(c, quantity)]
            for c in compared
        ]
        header = ["network", *theories.values(), "draws inside the 95 % interval"]
        lines += [f"**{label.capitalize()}**", markdown_table(header, rows)]
    return "\n\n".join(lines)


def _short(compared: CaseResult) -> str:
    return compared.case.title.partition(":")[0]


def _furthest(compared: CaseResult, theory: str, quantity: str) -> str:
    ratio = compared.ratio(theory, quantity)
    if ratio is None:
        reason = compared.tools.get(theory)
        return reason if isinstance(reason, str) and quantity == "preact_m2" else "-"
    means = compared.means(quantity)
    worst = int(np.abs(np.log(ratio)).argmax())
    error = (means.se / means["mean"]).max()
    return _number(ratio[worst]) + (f" ({error:.0%})" if error > 0.01 else "")


def _overall(compared: CaseResult, quantity: str) -> str:
    return f"{np.nanmean(compared.coverage(quantity)):.1%}"


def _network(compared: CaseResult) -> str:
    lines = [f"### {compared.case.title}", f"{compared.n_draws} draws."]
    for quantity, label in QUANTITIES.items():
        lines += [
            f"{label.capitalize()}, predicted / measured:",
            _layers(compared, quantity),
        ]
    reasons = [f"{TOOL_LABELS[t]}: {r}" for t, r in compared.tools.items() if isinstance(r, str)]
    return "\n\n".join([*lines, *reasons])


def _layers(compared: CaseResult, quantity: str) -> str:
    means = compared.means(quantity)
    theories = {
        label: ratio
        for theory, label in {**THEORY_LABELS, **TOOL_LABELS}.items()
        if (ratio := compared.ratio(theory, quantity)) is not None
    }
    log_sd, coverage = compared.log_sd(quantity), compared.coverage(quantity)
    header = ["layer", "measured", "standard error", *theories]
    header += ["predicted sd of log", "draws inside 95 %"]
    rows = []
    for i, row in enumerate(means.itertuples()):
        measured = [f"{row.mean:.4g}", f"{row.se / row.mean:.1%}"]
        ratios = [_number(ratio[i]) for ratio in theories.values()]
        is_constant = np.isnan(coverage[i])
        spread = ["0", "-"] if is_constant else [f"{log_sd[i]:.3f}", f"{coverage[i]:.1%}"]
        rows.append([row.layer_name, *measured, *ratios, *spread])
    return markdown_table(header, rows)


def _number(ratio: float) -> str:
    return f"{ratio:.3f}" if 0.01 <= ratio < 100 else f"{ratio:.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    """Compare all networks, and write or print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.compare_theories", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--draws", type=int, default=400, help="draws per network (default: %(default)s)"
    )
    parser.add_argument(
        "--data-root",
        default="~/.cache/fanin",
        help="folder of the data sets (default: %(default)s)",
    )
    parser.add_argument(
        "--venv", default=VENV, help="virtual environment of the other tools (default: %(default)s)"
    )
    parser.add_argument(
        "--write",
        metavar="PAGE",
        type=Path,
        help="write the tables into this page, between its marker lines (default: print them)",
    )
    args = parser.parse_args(argv)
    with exit_on_error():
        compared = [compare(s, args.draws, args.data_root, args.venv) for s in CASES]
        if any(NOT_INSTALLED in c.tools.values() for c in compared):
            print(install_hint(args.venv), file=sys.stderr)
        anyinit_init = compare_anyinit_init(args.draws, args.data_root, args.venv)
        text = markdown([*compared, anyinit_init] if anyinit_init else compared)
        publish(text, args.write, "compare_theories")


if __name__ == "__main__":
    main()
