"""Print an explanation: a sentence per direction, then the factors of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, log

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from fanin.text import Fitted, number, shorten_path
from fanin.theory.certificate.record import layer_label
from fanin.theory.certificate.remedies import format_times

# Width of the path, sizes of the module, output shape and number of parameters, significant digits:
# from the widest table on. Without the shapes, a table of their own comes first.
TABLE_VARIANTS = (
    *((24, True, True, 3), (24, False, True, 3), (16, False, True, 2)),
    *((16, False, False, 3), (10, False, False, 2)),
)
MAX_PATH = 40  # columns, in the table of the layers
NEGLIGIBLE = 0.005  # relative deviation from 1 of factors that are left out
LARGE = 1.1  # factors beyond this are named in the sentence
NAMED = 3  # factors in the sentence
TITLES = {
    "preact_m2": "Forward: mean square of each layer's output, before the activation",
    "vjp_m2": "Backward: mean square of the gradient with respect to that output",
}
AXIS_LABELS = {
    "preact_m2": "forward: factor on E[$y^2$]",
    "vjp_m2": r"backward: factor on E[$\delta^2$]",
}


def render_explanation(
    factors: Mapping[str, pd.DataFrame],
    ends: pd.DataFrame,
    modules: Mapping[str, tuple[str, str, str]],
    draws: int,
    width_method: str,
) -> Group:
    """Return an `Explanation` as a rich renderable.

    Parameters
    ----------
    factors
        `Explanation.factors` by quantity.
    ends, modules, draws, width_method
        The attributes of `Explanation`.
    """
    parts: list[RenderableType] = []
    for quantity, table in factors.items():
        rows = ends[ends.quantity == quantity].set_index("layer_name")
        name = str(table.index[-1 if quantity == "preact_m2" else 0])
        module = modules.get(name, ("",))[0]
        label = layer_label(int(rows.loc[name].layer), module, name)
        parts.append(Text(_sentence(quantity, label, table.loc[name], rows.loc[name])))
    variants = []
    for variant in TABLE_VARIANTS:
        _, _, has_shape, _ = variant
        tables: list[RenderableType] = [] if has_shape else [Text(), _layer_table(modules)]
        for quantity, table in factors.items():
            rows = ends[ends.quantity == quantity].set_index("layer_name")
            factor_table = _factor_table(table, rows, modules, *variant)
            tables += [Text(), Text(TITLES[quantity], style="bold"), factor_table]
        variants.append(Group(*tables))
    parts += [Fitted(variants), Text(), Text(_note(draws, width_method))]
    return Group(*parts)


def _new_table() -> Table:
    return Table(
        *(Column("#", justify="right"), Column("path", no_wrap=True)),
        Column("type", no_wrap=True),
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )


def _layer_table(modules: Mapping[str, tuple[str, str, str]]) -> Table:
    table = _new_table()
    for heading in ("output", "params"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, (name, texts) in enumerate(modules.items(), start=1):
        table.add_row(*map(Text, (f"{index}", shorten_path(name, MAX_PATH), *texts)))
    return table


def _sentence(quantity: str, label: str, factors: pd.Series, end: pd.Series) -> str:
    """Compare the whole network with He's formula and name the largest factors."""
    direction = "signal" if quantity == "preact_m2" else "gradient"
    ratio = end.measured / end.he if end.he else float("nan")
    if not (ratio > 0 and isfinite(ratio)):
        return (
            f"The mean square of the {direction} in {label} is {end.measured:.3g};"
            f" He's formula gives {end.he:.3g}."
        )
    if abs(log(ratio)) < log(LARGE):
        size = "within 10 % of the value of He's formula"
    else:
        comparison = "larger" if ratio > 1 else "smaller"
        size = f"{format_times(abs(log(ratio)))} times {comparison} than He's formula gives"
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log(factors.astype(float)).abs()
    largest = sizes[sizes > log(LARGE)].sort_values(ascending=False).index[:NAMED]
    named = ", ".join(f"{step} (×{factors[step]:.2g})" for step in largest)
    reason = f"; largest factors: {named}" if named else ""
    return f"The mean square of the {direction} in {label} is {size}{reason}."


def _factor_table(
    factors: pd.DataFrame,
    ends: pd.DataFrame,
    modules: Mapping[str, tuple[str, str, str]],
    path_width: int,
    has_sizes: bool,
    has_shape: bool,
    digits: int,
) -> Table:
    table = _new_table()
    relevant = [step for step in factors if not _is_negligible(factors[step])]
    steps = [f"×\n{step}".replace(" ", "\n") for step in relevant]
    for heading in (*(("output", "params") if has_shape else ()), "He", *steps, "=\nmeasured"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for name, row in factors[relevant].iterrows():
        end = ends.loc[name]
        kind, *shape = modules.get(str(name), ("", "", ""))
        texts = [f"{end.layer}", shorten_path(str(name), path_width)]
        texts.append(kind if has_sizes else kind.partition("(")[0])
        texts += shape if has_shape else []
        table.add_row(*map(Text, [*texts, *_numbers(end, row.tolist(), digits)]))
    omitted = [step for step in factors if step not in relevant]
    if omitted:
        table.caption = Text(f"Factors of 1 in every layer: {', '.join(omitted)}.")
        table.caption_justify = "left"
    return table


def _numbers(end: pd.Series, factors: Sequence[float], digits: int) -> list[str]:
    """Return He's prediction, the factors and the measurement as text."""
    error = 0.0 if end.log_se < 1e-9 else 100 * end.log_se  # the last gradient is fixed
    values = [number(value, digits) or "nan" for value in (end.he, *factors, end.measured)]
    return [*values[:-1], f"{values[-1]}±{error:.2g}%"]


def _is_negligible(factors: pd.Series) -> bool:
    return bool(((factors - 1).abs() < NEGLIGIBLE).all())


def _note(draws: int, width_method: str) -> str:
    note = (
        "He: He's product formula. Each factor (×) drops one assumption of it, and all factors"
        f" together give the measurement: the geometric mean over {draws} draws of the weights ±"
        " its relative standard error. width: ratio of the geometric to the arithmetic mean over"
        f" networks of this width ({width_method}). rest: not explained by the other factors."
    )
    if width_method == "simulated":
        note += (
            " Here `width` was simulated: networks were drawn, so it includes the errors of the"
            " steps before it, and `rest` tests no theory."
        )
    return note
