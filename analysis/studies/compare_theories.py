"""Theories side by side on five networks, against measured draws: for docs/appendix/theory-networks.md.

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

from analysis.studies.baselines import NOT_INSTALLED, VENV, ToolResult, how_to_install, query_tools
from analysis.studies.draws import mean_and_error, measure_draws
from analysis.studies.networks import ANYINIT_CASE, CASES, NetworkCase
from analysis.studies.tables import markdown_table, publish
from experiments.console import exit_on_error
from fanin.inits import LayerInit, Normal
from fanin.statistics.agreement import ROUNDING
from fanin.statistics.coverage import inside
from fanin.theory.predict import predict_moments

OURS = {
    "he": "He",
    "mean_field": "mean field",
    "field": "fanin: field",
    "finite_width": "fanin: finite",
}
OTHERS = {"anyinit": "anyinit", "neural_tangents": "neural-tangents"}
QUANTITIES = {
    "preact_m2": "second moment of the pre-activation",
    "vjp_m2": "second moment of a random cotangent that came back to the pre-activation",
    "weight_vjp_m2": "the same, of the weight's gradient",
}


@dataclass(frozen=True)
class CaseResult:
    """One network's measurement and what each theory said.

    Attributes
    ----------
    draws
        As `measure_draws`.
    predicted
        Rows of the `predictions` table, for the one image.
    others
        By tool: a number per weight layer (`preact_m2`), or why there is none.
    """

    subject: NetworkCase
    draws: pd.DataFrame
    predicted: pd.DataFrame
    others: dict[str, ToolResult]

    @property
    def n_draws(self) -> int:
        """Number of networks measured."""
        return self.draws.draw.nunique()

    def means(self, quantity: str) -> pd.DataFrame:
        """Measured mean and its standard error, a row per layer."""
        return mean_and_error(self.draws, quantity)

    def ratio(self, theory: str, quantity: str) -> np.ndarray | None:
        """Predicted / measured, by layer; None where the theory says nothing.

        A mean over draws is held against the draws' mean, but theory `finite_width`, whose law is
        one of logarithms, by the median of its law against the draws' geometric mean.
        """
        value = self.value(theory, quantity)
        if value is None:
            return None
        if theory != "finite_width":
            return np.asarray(value / self.means(quantity)["mean"].to_numpy())
        rows = self.draws[self.draws.quantity == quantity]
        measured = np.log(rows.value).groupby(rows.layer).mean().sort_index().to_numpy()
        return np.asarray(value * np.exp(-(self.log_sd(quantity) ** 2) / 2 - measured))

    def value(self, theory: str, quantity: str) -> np.ndarray | None:
        """Return a theory's value for each layer; None where it has none."""
        if theory in self.others:
            answer = self.others[theory]
            if quantity != "preact_m2" or isinstance(answer, str):
                return None
            return np.array(answer)
        rows = self._rows(theory, quantity)
        return rows.value.to_numpy() if len(rows) else None

    def covered(self, quantity: str) -> np.ndarray:
        """Share of the draws inside the interval of 95 %, by layer; NaN where all are the same."""
        rows = self._rows("finite_width", quantity)
        shares = []
        for row in rows.itertuples():
            mine = self.draws[(self.draws.quantity == quantity) & (self.draws.layer == row.layer)]
            logs = np.log(mine.value.to_numpy())
            hits = inside(logs, np.full(len(logs), log(row.value)), np.full(len(logs), row.log_sd))
            shares.append(hits.mean() if row.log_sd > ROUNDING else np.nan)
        return np.array(shares)

    def log_sd(self, quantity: str) -> np.ndarray:
        """The predicted spread of one draw's log-moment, by layer."""
        return self._rows("finite_width", quantity).log_sd.to_numpy()

    def _rows(self, theory: str, quantity: str) -> pd.DataFrame:
        rows = self.predicted
        return rows[(rows.theory == theory) & (rows.quantity == quantity)].sort_values("layer")


def compare(subject: NetworkCase, draws: int, root: str, venv: str = VENV) -> CaseResult:
    """Measure one network, and query_tools everybody."""
    image = subject.image(root)
    network = subject.network(image)
    moments = subject.moments(network)
    predicted = predict_moments(network, moments, image, tuple(OURS))
    others = query_tools(network, moments, image, tuple(OTHERS), venv)
    measured = measure_draws(network, subject.init, image, draws)
    return CaseResult(subject, measured, predicted[predicted.image == -1], others)


def compare_anyinit_init(draws: int, root: str, venv: str = VENV) -> CaseResult | None:
    """The max-pool network with the weights that anyinit gives it; None where that is missing."""
    image = ANYINIT_CASE.image(root)
    network = ANYINIT_CASE.network(image)
    moments = ANYINIT_CASE.moments(network)
    answers = query_tools(network, moments, image, ("anyinit_init", "anyinit_own"), venv)
    variances, own = answers["anyinit_init"], answers["anyinit_own"]
    if isinstance(variances, str) or isinstance(own, str):
        return None
    layers = {
        name: LayerInit(Normal(std=var**0.5)) for name, var in zip(moments, variances, strict=True)
    }
    subject = replace(ANYINIT_CASE, layers=layers)
    return replace(compare(subject, draws, root, venv), others={"anyinit": own})


def markdown(compared: Sequence[CaseResult]) -> str:
    """The whole block: a summary, then each network's layers."""
    return "\n\n".join([_summary(compared), *(_network(c) for c in compared)])


def _summary(compared: Sequence[CaseResult]) -> str:
    theories = {**OURS, **OTHERS}
    lines = [
        "Furthest from 1 of predicted / measured over a network's layers; where the measured mean "
        "is itself uncertain by more than 1 %, its largest standard error stands in brackets.",
    ]
    for quantity, words in QUANTITIES.items():
        rows = [
            [_short(c), *(_furthest(c, t, quantity) for t in theories), _overall(c, quantity)]
            for c in compared
        ]
        header = ["network", *theories.values(), "draws in fanin's 95 %"]
        lines += [f"**{words[0].upper()}{words[1:]}**", markdown_table(header, rows)]
    return "\n\n".join(lines)


def _short(compared: CaseResult) -> str:
    return compared.subject.title.partition(":")[0]


def _furthest(compared: CaseResult, theory: str, quantity: str) -> str:
    ratio = compared.ratio(theory, quantity)
    if ratio is None:
        answer = compared.others.get(theory)
        return answer if isinstance(answer, str) and quantity == "preact_m2" else "-"
    means = compared.means(quantity)
    worst = int(np.abs(np.log(ratio)).argmax())
    error = (means.se / means["mean"]).max()
    return _number(ratio[worst]) + (f" ({error:.0%})" if error > 0.01 else "")


def _overall(compared: CaseResult, quantity: str) -> str:
    return f"{np.nanmean(compared.covered(quantity)):.1%}"


def _network(compared: CaseResult) -> str:
    lines = [f"### {compared.subject.title}", f"{compared.n_draws} draws."]
    for quantity, words in QUANTITIES.items():
        lines += [
            f"{words[0].upper()}{words[1:]}, predicted / measured:",
            _layers(compared, quantity),
        ]
    said = [f"{OTHERS[t]}: {a}" for t, a in compared.others.items() if isinstance(a, str)]
    return "\n\n".join([*lines, *said])


def _layers(compared: CaseResult, quantity: str) -> str:
    means = compared.means(quantity)
    theories = {
        words: ratio
        for theory, words in {**OURS, **OTHERS}.items()
        if (ratio := compared.ratio(theory, quantity)) is not None
    }
    spread, covered = compared.log_sd(quantity), compared.covered(quantity)
    header = ["layer", "measured", "error", *theories, "sd of a draw's log", "inside 95 %"]
    rows = []
    for i, row in enumerate(means.itertuples()):
        measured = [f"{row.mean:.4g}", f"{row.se / row.mean:.1%}"]
        ratios = [_number(ratio[i]) for ratio in theories.values()]
        scatter = ["0", "-"] if np.isnan(covered[i]) else [f"{spread[i]:.3f}", f"{covered[i]:.1%}"]
        rows.append([row.layer_name, *measured, *ratios, *scatter])
    return markdown_table(header, rows)


def _number(ratio: float) -> str:
    return f"{ratio:.3f}" if 0.01 <= ratio < 100 else f"{ratio:.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, query_tools, and write or print."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.compare_theories", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--draws", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--data-root", default="~/.cache/fanin", help="default: %(default)s")
    parser.add_argument("--venv", default=VENV, help="where the other tools are; %(default)s")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the tables there")
    args = parser.parse_args(argv)
    with exit_on_error():
        compared = [compare(s, args.draws, args.data_root, args.venv) for s in CASES]
        if any(NOT_INSTALLED in c.others.values() for c in compared):
            print(how_to_install(args.venv), file=sys.stderr)
        own = compare_anyinit_init(args.draws, args.data_root, args.venv)
        text = markdown([*compared, own] if own else compared)
        publish(text, args.write, "compare_theories")


if __name__ == "__main__":
    main()
