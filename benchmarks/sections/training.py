"""Training throughput of every model, against a plain PyTorch loop and the machine's limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.baselines import plain_loop
from benchmarks.cells import CPU, config, image_file, image_shape, models, specs
from benchmarks.limit import COUNTS, StepCost, bandwidth, gemm_rate, step_cost
from benchmarks.page import Table
from benchmarks.samples import Summary, interleave, ratios
from benchmarks.section import Case, Mode, Record, Settings, by
from experiments.schema import build_cell
from experiments.training.loop import train

FANIN, PLAIN, CHANNELS_LAST = "fanin", "plain", "channels_last"
# Batch sizes, rounds, and CPU seconds of one competitor in one round.
SIZES: dict[Mode, tuple[tuple[int, ...], int, float]] = {
    "tiny": ((8,), 1, 0.0),
    "quick": ((64,), 3, 0.15),
    "full": ((64,), 5, 0.5),
}
MIN_STEPS, MAX_STEPS = 2, 2000
SPEED_COLUMNS = (
    *("speed relative to the faster loop", "to the plain loop"),
    "to the loop with channels_last",
)


def check(settings: Settings) -> None:
    """Do nothing: the images are random."""


def cases(settings: Settings) -> list[Case]:
    """Return a case for each model and batch size."""
    batch_sizes, repeats, seconds = SIZES[settings.mode]
    expected = 3 + repeats * (3.5 * seconds + 0.1)
    return [
        Case(
            f"{model}, batch {batch_size}",
            expected,
            partial(measure, settings, model, batch_size, repeats, seconds),
        )
        for batch_size in batch_sizes
        for model in (["linear", "two_layer"] if settings.mode == "tiny" else models())
    ]


def measure(
    settings: Settings, model: str, batch_size: int, repeats: int, seconds: float
) -> Record:
    """Measure one model with all competitors in turn, each in a process of its own."""
    shape = image_shape(model)
    file = image_file(settings.folder, shape)
    call = settings.workers.call
    overrides = _overrides(model, file, batch_size)
    cost: StepCost = call(PLAIN, cost_of, overrides, shape, batch_size)
    # As many steps for all competitors as the plain loop takes in the time of a round.
    step = call(PLAIN, plain_seconds, overrides, file, batch_size, 8, False) / 8
    steps = max(MIN_STEPS, min(MAX_STEPS, int(seconds / step)))
    call(FANIN, fanin_seconds, overrides, MIN_STEPS)
    rates: dict[str, list[float]] = {"gemm": [], "bandwidth": []}

    def run_fanin() -> float:
        rates["gemm"].append(call(PLAIN, gemm_rate))
        rates["bandwidth"].append(call(PLAIN, bandwidth, cost.bytes))
        return float(call(FANIN, fanin_seconds, overrides, steps))

    def run_plain(channels_last: bool) -> float:
        arguments = (overrides, file, batch_size, steps, channels_last)
        return float(call(PLAIN, plain_seconds, *arguments))

    competitors = {FANIN: run_fanin, PLAIN: lambda: run_plain(False)}
    if call(PLAIN, has_convolution, overrides):
        competitors[CHANNELS_LAST] = lambda: run_plain(True)
    times = interleave(competitors, repeats, budget=10 * repeats * max(seconds, 0.1))
    return {
        "model": model,
        "shape": "x".join(map(str, shape)),
        "batch_size": batch_size,
        "steps": steps,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "parameters": cost.parameters,
        "gemm_flops_per_second": rates["gemm"],
        "bytes_per_second": rates["bandwidth"],
        "seconds_per_step": {name: [t / steps for t in ts] for name, ts in times.items()},
    }


def fanin_seconds(overrides: tuple[str, ...], steps: int) -> float:
    """Train with fanin's serial engine; return the CPU seconds of `steps` steps.

    The seconds of a run of one step are subtracted from those of a longer run: they include work
    that a run does once, such as a forward pass after the last step.
    """
    return _run_seconds(overrides, steps + 1) - _run_seconds(overrides, 1)


def _run_seconds(overrides: tuple[str, ...], steps: int) -> float:
    (spec,) = specs((*overrides, f"train.steps={steps}"), 1)
    started = time.process_time()
    result = train(spec, lambda done, total: None)
    seconds = time.process_time() - started
    assert result.divergence is None  # its last steps would be repeated
    return seconds


def plain_seconds(
    overrides: tuple[str, ...], file: Path, batch_size: int, steps: int, channels_last: bool
) -> float:
    """Train the same network with the plain loop; return its seconds."""
    x, y = _images(file)
    network = _network(overrides)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return plain_loop.train_plain(network, x, y, batch_size, steps)


def cost_of(overrides: tuple[str, ...], shape: tuple[int, int, int], batch_size: int) -> StepCost:
    """Count the FLOPs and bytes of a model's step."""
    return step_cost(_network(overrides), shape, batch_size)


def has_convolution(overrides: tuple[str, ...]) -> bool:
    """Return True if a model has a convolution, which torch's memory format affects."""
    return any(isinstance(layer, nn.Conv2d) for layer in _network(overrides).modules())


def _network(overrides: tuple[str, ...]) -> nn.Module:
    return build_cell(config(*overrides)).network().to(CPU)


@cache
def _images(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return plain_loop.load(file)


def _overrides(model: str, file: Path, batch_size: int) -> tuple[str, ...]:
    data = ("data=arrays", f"data.file='{file}'", "scaling=standardize", "probe=none")
    return (*data, f"model={model}", f"train.batch_size={batch_size}", "optim.lr=1e-4")


# --- results ----------------------------------------------------------------------------------


def speed_up(record: Record, baseline: str) -> Summary | None:
    """Return the plain loop's seconds relative to fanin's, by round."""
    times = record["seconds_per_step"]
    if baseline not in times:
        return None
    return Summary.of(ratios(times[baseline], times[FANIN]))


def faster_loop(record: Record) -> str:
    """Return the plain loop that is faster: without or with channels_last."""
    times = record["seconds_per_step"]
    return min(
        (name for name in (PLAIN, CHANNELS_LAST) if name in times),
        key=lambda name: Summary.of(times[name]).median,
    )


def speed_ups(record: Record) -> tuple[Summary, Summary, Summary | None]:
    """Return the speed relative to the faster loop, to the plain one, and to channels_last."""
    fastest, plain = speed_up(record, faster_loop(record)), speed_up(record, PLAIN)
    assert fastest is not None
    assert plain is not None
    return fastest, plain, speed_up(record, CHANNELS_LAST)


def shares_of_limit(record: Record) -> list[float]:
    """Return the limit's seconds relative to fanin's, by round."""
    limits = [max(pair) for pair in zip(*limit_seconds(record).values(), strict=True)]
    return ratios(limits, record["seconds_per_step"][FANIN])


def limit_seconds(record: Record) -> dict[str, list[float]]:
    """Return the seconds of a step's FLOPs and bytes at the measured rates, by round."""
    return {
        "compute": [record["flops"] / rate for rate in record["gemm_flops_per_second"]],
        "bandwidth": [record["bytes"] / rate for rate in record["bytes_per_second"]],
    }


def limit_name(record: Record) -> str:
    """Return the limit that needs more time: compute or bandwidth."""
    seconds = limit_seconds(record)
    return max(seconds, key=lambda name: sum(seconds[name]))


def line(record: Record) -> str:
    """Return the speed relative to the loops and to the limit."""
    fastest, plain, _ = speed_ups(record)
    return (
        f"speed relative to the faster loop {fastest.text()}, to the plain loop {plain.text()}; "
        f"{_percent(record)} % of the {limit_name(record)} limit, n={plain.n}"
    )


def tables(records: Sequence[Record]) -> list[Table]:
    """Return one table with all models and one with the rates and counts."""
    speeds, counts = [], []
    for record in records:
        times = record["seconds_per_step"]
        case = (record["model"], record["shape"], str(record["batch_size"]))
        speeds.append(
            (
                *case,
                str(len(times[FANIN])),
                f"{1e3 * Summary.of(times[FANIN]).median:.3f}",
                *_speeds(record),
                _percent(record),
                limit_name(record),
            )
        )
        gemm = Summary.of(record["gemm_flops_per_second"]).median
        speed = Summary.of(record["bytes_per_second"]).median
        counts.append(
            (
                *case,
                f"{record['parameters']:,}",
                f"{record['flops'] / 1e6:.1f}",
                f"{record['bytes'] / 1e6:.2f}",
                f"{gemm / 1e9:.0f}",
                f"{speed / 1e9:.0f}",
                f"{1e3 * record['flops'] / gemm:.3f}",
                f"{1e3 * record['bytes'] / speed:.3f}",
            )
        )
    return [
        Table(
            "Training: speed of one step on one thread",
            (
                *("model", "image", "batch", "n", "fanin, ms per step"),
                *SPEED_COLUMNS,
                *("% of the limit", "limit"),
            ),
            tuple(speeds),
            (plain_loop.DESCRIPTION, plain_loop.FORMATS),
        ),
        Table(
            "Training: what the limit is computed from",
            (
                *("model", "image", "batch", "parameters", "MFLOP per step", "MB per step"),
                *("GEMM, GFLOP/s", "bandwidth, GB/s", "compute limit, ms", "bandwidth limit, ms"),
            ),
            tuple(counts),
            (COUNTS,),
        ),
    ]


def _percent(record: Record) -> str:
    return Summary.of([100 * share for share in shares_of_limit(record)]).text("{:.0f}")


def _speeds(record: Record) -> tuple[str, ...]:
    return tuple("" if speed is None else speed.text() for speed in speed_ups(record))


def short_table(records: Sequence[Record]) -> Table:
    """Return speed and share of the limit for the default batch size."""
    rows = tuple(
        (
            *(record["model"], str(len(record["seconds_per_step"][FANIN]))),
            *(*_speeds(record), _percent(record), limit_name(record)),
        )
        for record in _default_batch(records)
    )
    columns = ("model", "n", *SPEED_COLUMNS, "% of the limit", "limit")
    remark = (
        "*limit*: the shortest time that a step could take, from this machine's rate of matrix "
        "products (*compute*) or its memory bandwidth (*bandwidth*), whichever is longer. *% of "
        "the limit*: that time relative to the measured one."
    )
    return Table("", columns, rows, (plain_loop.FORMATS, remark))


def answer(records: Sequence[Record]) -> str:
    """Return the range of the speed relative to the faster loop, and to the plain one."""
    found = [(record["model"], *speed_ups(record)) for record in _default_batch(records)]
    fastest = sorted((speed.median, model) for model, speed, _, _ in found)
    plain = sorted((speed.median, model) for model, _, speed, _ in found)
    slower = [model for speed, model in fastest if speed < 1]
    text = (
        f"On one thread, a training step has {_range(fastest)} times the speed of the faster of "
        "two plain PyTorch loops, without and with `channels_last`"
    )
    if slower:
        text += f"; it is slower in {len(slower)} of {len(found)} models ({', '.join(slower)})"
    return f"{text}. It has {_range(plain)} times the speed of the loop without `channels_last`."


def _range(speeds: Sequence[tuple[float, str]]) -> str:
    (low, slowest), (high, fastest) = speeds[0], speeds[-1]
    return f"{low:.2f} ({slowest}) to {high:.2f} ({fastest})"


def draw(records: Sequence[Record], axes: Any) -> None:
    """Draw the speed relative to both loops, a bar for each model."""
    chosen = _default_batch(records)
    names = [record["model"] for record in chosen]
    for offset, baseline, color, hatch in (
        (-0.2, PLAIN, "0.35", ""),
        (0.2, CHANNELS_LAST, "0.8", "//"),
    ):
        for position, record in enumerate(chosen):
            speed = speed_up(record, baseline)
            if speed is not None:
                error = [[speed.median - speed.low], [speed.high - speed.median]]
                axes.barh(
                    position + offset, speed.median, 0.36, xerr=error, color=color, hatch=hatch,
                    edgecolor="black", linewidth=0.6, error_kw={"elinewidth": 1, "capsize": 2},
                    label=LABELS[baseline] if position == len(chosen) - 1 else None,
                )  # fmt: skip
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("speed of fanin's step relative to the loop (1: equal)")
    axes.legend(title="loop", frameon=False)


LABELS = {PLAIN: "plain", CHANNELS_LAST: "plain, channels_last"}


def _default_batch(records: Sequence[Record]) -> list[Record]:
    return by(records, batch_size=min(record["batch_size"] for record in records))
