"""Time and memory of `certify`, by depth, width, image side and theory, against drawn networks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import count
from typing import Any

import torch
from torch import nn

from benchmarks.baselines.draw_networks import draw_moments
from benchmarks.memory import peak_memory, reset_peak_memory
from benchmarks.page import Table
from benchmarks.samples import Summary, interleave, ratios
from benchmarks.section import Case, Mode, Record, Settings
from fanin import certify
from fanin.models import Plain

FANIN, DRAWN = "fanin", "plain"  # processes
FINITE_WIDTH = "finite_width"
N_IMAGES = 2
DRAWS_PER_ROUND = 10
BUDGET = 12  # seconds after which no other round starts
SMALLEST_SE = 0.01  # relative standard error to reach by drawing, if certify's is smaller


@dataclass(frozen=True)
class Network:
    """A network `plain` with ReLU, its images and the theory."""

    depth: int = 6
    width: int = 16
    side: int = 14
    theory: str = FINITE_WIDTH


BASE, TINY = Network(), Network(depth=2, side=4)
SEEDS = count(1)  # in the measuring process, because certify caches its results by seed
# One property is varied at a time: values, then rounds, and draws to estimate the variation.
SIZES: dict[Mode, tuple[dict[str, tuple[Any, ...]], int, int]] = {
    "tiny": ({}, 1, 2),
    "quick": ({"depth": (3, 6), "theory": ("he", "mean_field", "field")}, 1, 100),
    "full": (
        {
            "depth": (3, 6, 12),
            "width": (8, 32, 64, 128),
            "side": (7, 28),
            "theory": ("he", "mean_field", "field"),
        },
        3,
        400,
    ),
}


def check(settings: Settings) -> None:
    """Do nothing: the images are random."""


def networks(mode: Mode) -> list[Network]:
    """Return the networks of a mode, each once."""
    if mode == "tiny":
        return [TINY]
    varied = SIZES[mode][0]
    found = [replace(BASE, **{key: value}) for key, values in varied.items() for value in values]
    return list(dict.fromkeys([BASE, *found]))


def cases(settings: Settings) -> list[Case]:
    """Return a case for each network."""
    _, rounds, draws = SIZES[settings.mode]
    return [
        Case(
            ", ".join(f"{key} {value}" for key, value in asdict(network).items()),
            1.5 + min(rounds * expected_seconds(network), BUDGET + expected_seconds(network)),
            partial(measure, settings, network, rounds, draws),
        )
        for network in networks(settings.mode)
    ]


def expected_seconds(network: Network) -> float:
    """Return the expected seconds of `certify`."""
    positions = network.depth * network.side**2
    if network.theory == FINITE_WIDTH:
        return N_IMAGES * network.depth * (0.02 + 1.2e-4 * positions)
    return 1e-3 * positions if network.theory == "field" else 0.1


def measure(settings: Settings, network: Network, rounds: int, draws: int) -> Record:
    """Measure `certify` and drawn networks in turn, each in a process of its own."""
    call = settings.workers.call
    memory: list[float] = []
    errors: list[float] = []

    def certified() -> float:
        seconds, megabytes, error = call(FANIN, certify_once, network)
        memory.append(megabytes)
        errors.append(error)
        return float(seconds)

    call(FANIN, certify_once, replace(TINY, theory=network.theory))  # warm up
    variation = call(DRAWN, variation_between_draws, replace(network, theory=""), draws)
    actions = {"certify": certified, "draw": lambda: float(call(DRAWN, draw_once, network))}
    times = interleave(actions, rounds, budget=BUDGET)
    return {
        **asdict(network),
        "seconds": times,  # of certify, and of one drawn network
        "memory_mb": memory,
        "relative_se": errors,
        "variation": variation,
    }


def certify_once(network: Network) -> tuple[float, float, float]:
    """Return certify's CPU seconds, its peak memory in MB, and its relative standard error."""
    model, images = build(network)
    before = reset_peak_memory()
    started = time.process_time()
    certificate = certify(
        model,
        images,
        init="he_normal",
        theories=(network.theory,),
        seed=next(SEEDS),
        joint=False,  # the default depends on the size of the images
        quiet=True,
    )
    seconds = time.process_time() - started
    rows = certificate.frame.query("image == -1 and quantity == 'preact_m2'")
    return seconds, peak_memory() - before, float((rows.sampling_se / rows.value).max())


def draw_once(network: Network) -> float:
    """Return the CPU seconds of one drawn network."""
    return draw_moments(*build(network), DRAWS_PER_ROUND)[1] / DRAWS_PER_ROUND


@cache
def variation_between_draws(network: Network, draws: int) -> float:
    """Return the relative standard deviation of E[y²] between draws, the largest of all layers."""
    moments, _ = draw_moments(*build(network), draws)
    return float((moments.std(0) / moments.mean(0)).max())


def build(network: Network) -> tuple[nn.Module, torch.Tensor]:
    """Return the network and its images, uniform random pixels."""
    shape = (1, network.side, network.side)
    images = torch.rand(N_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    return Plain(network.depth, network.width).build(shape, 10, nn.ReLU), images


# --- results ----------------------------------------------------------------------------------


def target_se(record: Record) -> float:
    """Return the relative standard error that the drawn networks must reach."""
    return max(SMALLEST_SE, Summary.of(record["relative_se"]).median)


def draws_needed(record: Record) -> float:
    """Return the number of draws whose mean has this standard error."""
    return max(1.0, math.ceil((record["variation"] / target_se(record)) ** 2))


def relative(record: Record) -> Summary:
    """Return the time of drawing as many networks relative to certify, by round."""
    n, seconds = draws_needed(record), record["seconds"]
    return Summary.of(ratios([n * value for value in seconds["draw"]], seconds["certify"]))


def line(record: Record) -> str:
    """Return time, memory and the time of drawing."""
    seconds = Summary.of(record["seconds"]["certify"])
    return (
        f"{seconds.text()} s, {Summary.of(record['memory_mb']).median:.0f} MB; drawing "
        f"{draws_needed(record):.0f} networks takes {relative(record).text()} times as long, "
        f"n={seconds.n}"
    )


def tables(records: Sequence[Record]) -> list[Table]:
    """Return one table with all networks."""
    rows = []
    for record in records:
        seconds = record["seconds"]
        certified = Summary.of(seconds["certify"])
        rows.append(
            (
                record["theory"],
                *(str(record[key]) for key in ("depth", "width", "side")),
                *(str(certified.n), certified.text("{:.3f}")),
                f"{Summary.of(record['memory_mb']).median:.0f}",
                f"{100 * target_se(record):.1f}",
                f"{draws_needed(record):,.0f}",
                f"{1e3 * Summary.of(seconds['draw']).median:.1f}",
                relative(record).text(),
            )
        )
    return [
        Table(
            "Certificate: time, memory, and drawing networks to the same standard error",
            (
                *("theory", "depth", "width", "side", "n", "certify, s", "memory, MB"),
                *("standard error, %", "draws needed", "one draw, ms"),
                "time of drawing relative to certify",
            ),
            tuple(rows),
            (
                f"Model `plain` with ReLU and He's init, {N_IMAGES} images of one channel, each "
                "theory alone, `joint=False`. *memory*: growth of the process during the call. "
                "*standard error*: that of certify's own sampling for E[y²] (mean over images, "
                f"largest over layers), at least {SMALLEST_SE:.0%}. *draws needed*: the number of "
                "drawn networks whose mean E[y²] has this standard error in every layer. *one "
                "draw*: initialize, forward, backward, float32 "
                "(`benchmarks/baselines/draw_networks.py`). The spread between draws, which "
                "`finite_width` also predicts, would need more draws. The systematic error of a "
                "theory is not part of this comparison ([accuracy](../theory.md#accuracy)).",
            ),
        )
    ]


def short_table(records: Sequence[Record]) -> Table:
    """Return the base network by theory."""
    base = [r for r in records if all(r[k] == v for k, v in asdict(BASE).items() if k != "theory")]
    rows = tuple(
        (
            record["theory"],
            str(len(record["seconds"]["certify"])),
            f"{Summary.of(record['seconds']['certify']).median:.2f}",
            f"{Summary.of(record['memory_mb']).median:.0f}",
            relative(record).text(),
        )
        for record in base
    )
    columns = ("theory", "n", "certify, s", "memory, MB", "time of drawing relative to certify")
    remark = (
        f"Model `plain` of depth {BASE.depth} and width {BASE.width}, 2 images of {BASE.side} x "
        f"{BASE.side} pixels. Networks are drawn until the mean of E[y²] has the standard error of "
        "`certify`, at least 1 %. Drawing has no systematic error, unlike the theories "
        "([accuracy](theory.md#accuracy))."
    )
    return Table("", columns, rows, (remark,))


def answer(records: Sequence[Record]) -> str:
    """Return the range of the time of `certify` and of drawing relative to it."""
    chosen = [record for record in records if record["theory"] == FINITE_WIDTH]
    seconds = [Summary.of(record["seconds"]["certify"]).median for record in chosen]
    factors = [relative(record).median for record in chosen]
    return (
        f"`certify` (theory `{FINITE_WIDTH}`) takes {min(seconds):.1f} to {max(seconds):.1f} s for "
        f"networks of {min(r['depth'] for r in chosen)} to {max(r['depth'] for r in chosen)} "
        f"layers. Drawing networks until E[y²] has the same standard error takes "
        f"{min(factors):.2g} to {max(factors):.2g} times as long."
    )


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw the time of certify and of drawing against depth, width and side, in three panels."""
    figure = axes.figure
    axes.remove()
    labels = {"depth": "depth (layers)", "width": "width (channels)", "side": "image side (pixels)"}
    panels = figure.subplots(1, len(labels), sharey=True)
    for panel, (key, label) in zip(panels, labels.items(), strict=True):
        others = {k: v for k, v in asdict(BASE).items() if k != key}
        chosen = [r for r in records if all(r[k] == v for k, v in others.items())]
        chosen.sort(key=lambda record: record[key])
        x = [record[key] for record in chosen]
        certified = [Summary.of(record["seconds"]["certify"]).median for record in chosen]
        drawn = [
            draws_needed(record) * Summary.of(record["seconds"]["draw"]).median for record in chosen
        ]
        panel.plot(x, certified, "o-", color="black", label="certify")
        panel.plot(x, drawn, "s--", color="0.5", label="drawing networks")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(x, [str(value) for value in x])
        panel.minorticks_off()
        panel.set_xlabel(label)
    panels[0].set_ylabel("time (s)")
    panels[-1].legend(frameon=False)
