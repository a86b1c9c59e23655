"""Command that compares theory `field` with draws of residual networks and VGG.

python -m analysis.studies.graph_networks --write docs/appendix/graph-networks.md
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.studies.blocks import publish
from analysis.studies.graph_draws import (
    BACKWARD,
    QUANTITIES,
    Ratio,
    interval_hits,
    measure_graph,
    ratios,
)
from analysis.studies.tables import markdown_table
from experiments.console import exit_on_error
from experiments.data import Cifar10, Data
from experiments.scaling import Scaling, Standardize
from experiments.sweep.provenance import code_version
from fanin.inits import HeNormal, Init, Scheme, SkipInit, initialize
from fanin.inits.residual import Fixup
from fanin.models import Model, ResNet, Vgg
from fanin.seeds import make_generator
from fanin.theory.field.sampling import Sampling
from fanin.theory.graph.plan import plan_graph
from fanin.theory.graph.predict import predict_graph
from fanin.theory.moments import declared_moments
from fanin.theory.prediction import Prediction

NAME = "graph_networks"
WIDE = 64  # channels from which a layer counts as wide
GIB = 2**20  # kilobytes
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A model with its init, drawn at some widths.

    Attributes
    ----------
    title
        Name in the tables.
    model
        Function of the keyword `width`.
    scheme
        Init of the weights.
    widths
        Channels of the first stage in the drawn networks.
    images
        Number of images.
    """

    title: str
    model: Callable[..., Model]
    scheme: Scheme
    widths: tuple[int, ...] = (16,)
    images: int = 4

    def network(self, width: int) -> nn.Module:
        """Build the network, and set its scalars."""
        network = self.model(width=width).build((3, 32, 32), 10, nn.ReLU)
        initialize(network, self.scheme, lambda name: make_generator("weights", 0, 0, name))
        return network


def _cases() -> Iterator[Case]:
    he = HeNormal()
    yield Case("ResNet-20 v1, batch norm, one image", partial(ResNet, 20), he, (16, 64), images=1)
    yield Case("ResNet-20 v1, batch norm", partial(ResNet, 20), he)
    yield Case("ResNet-20 v2, batch norm", partial(ResNet, 20, version="v2"), he)
    fixup: dict[str, Any] = {"norm": "none", "scalars": "fixup"}
    yield Case("ResNet-20 v1, Fixup", partial(ResNet, 20, **fixup), Fixup())
    skip: dict[str, Any] = {"norm": "none", "scalars": "multiplier"}
    yield Case("ResNet-20 v1, SkipInit 1/3", partial(ResNet, 20, **skip), SkipInit(1 / 3))
    yield Case("VGG-16", partial(Vgg, 16), he, widths=(64,))
    yield Case("VGG-16, batch norm", partial(Vgg, 16, norm="batch"), he, widths=(64,))
    yield Case("ResNet-56 v1, Fixup", partial(ResNet, 56, **fixup), Fixup())
    yield Case("ResNet-56 v1, batch norm", partial(ResNet, 56), he)
    yield Case("ResNet-56 v2, batch norm", partial(ResNet, 56, version="v2"), he)


CASES = {case.title: case for case in _cases()}


@dataclass(frozen=True)
class Cost:
    """Cost of the prediction at the first width: time on one core, peak memory of the process."""

    method: str
    repeats: int
    points: int
    cpu_s: float
    wall_s: float
    peak_gib: float


@dataclass(frozen=True)
class Entry:
    """Measured / predicted of one moment.

    Attributes
    ----------
    width
        Channels of the first stage.
    channels
        Channels of the tensor.
    hits
        Draws inside the 95 % interval fitted to the other half of the draws.
    """

    width: int
    quantity: str
    tensor: str
    channels: int
    value: float
    se: float
    hits: int


@dataclass(frozen=True)
class CaseResult:
    """Cost, ratios, and the number of moments that are 0 in prediction and draws.

    Attributes
    ----------
    commit
        Version of the code that computed it.
    """

    title: str
    commit: str
    draws: int
    cost: Cost
    entries: tuple[Entry, ...]
    zeros: int

    @classmethod
    def from_json(cls, text: str) -> CaseResult:
        """Read a result that `json.dumps(asdict(...))` wrote."""
        data = json.loads(text)
        entries = tuple(Entry(**entry) for entry in data.pop("entries"))
        return cls(cost=Cost(**data.pop("cost")), entries=entries, **data)


def load_images(count: int, root: str | None) -> Float[Tensor, "image 3 32 32"]:
    """Return the first training images of CIFAR-10, standardized by channel."""
    data = Data(Cifar10(), root=root).load()
    scaling = Scaling(Standardize()).fit(data.train.x, data.full_scale)
    return scaling.apply(data.train.x[:count]).float()


def predict_case(
    title: str, width: int, images: Tensor, max_repeats: int
) -> tuple[Prediction, Cost]:
    """Predict a case; to run in a process of its own, whose peak memory it reports."""
    torch.set_num_threads(1)
    case = CASES[title]
    network = case.network(width)
    moments = declared_moments(network, Init(case.scheme))
    start = time.process_time(), time.perf_counter()
    prediction = predict_graph(network, moments, images, sampling=Sampling(repeats=max_repeats))
    cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    repeats = len(prediction.repeats["preact_m2"])
    n_joint = len(images) if plan_graph(network, moments, images, Sampling()).joint else 1
    points = images[0, 0].numel() * n_joint
    return prediction, Cost(prediction.method, repeats, points, cpu, wall, peak)


def measure_case(
    title: str, width: int, images: Tensor, draws: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the draws of a case at one width, and the channels of each tensor."""
    torch.set_num_threads(1)
    case = CASES[title]
    network = case.network(width)
    init = Init(case.scheme)
    plan = plan_graph(network, declared_moments(network, init), images, Sampling())
    channels = {
        name: (node.shape or (0, 0))[1]
        for name, node in zip(plan.names, plan.reported, strict=True)
    }
    return measure_graph(network, plan, images, init, draws), channels


def evaluate(title: str, draws: int, root: str | None, max_repeats: int) -> CaseResult:
    """Predict and draw one case at each of its widths."""
    case = CASES[title]
    images = load_images(case.images, root)
    entries: list[Entry] = []
    costs: list[Cost] = []
    zeros = 0
    for width in case.widths:
        prediction, cost = _in_process(predict_case, title, width, images, max_repeats)
        costs.append(cost)
        measured, channels = _in_process(measure_case, title, width, images, draws)
        found = ratios(prediction, measured)
        zeros += _count_zeros(prediction, found, measured)
        hits = interval_hits(prediction.layer_names, measured)
        for (quantity, tensor), ratio in found.items():
            values = channels[tensor], ratio.value, ratio.se, hits[quantity, tensor]
            entries.append(Entry(width, quantity, tensor, *values))
    return CaseResult(title, code_version(), draws, costs[0], tuple(entries), zeros)


def _in_process(function: Callable[..., T], *args: Any) -> T:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def _count_zeros(
    prediction: Prediction, found: dict[tuple[str, str], Ratio], measured: dict[str, np.ndarray]
) -> int:
    known = sum(
        int(np.isfinite(measured[q].mean((0, 1)) + prediction.value(q).mean(0)).sum())
        for q in QUANTITIES
    )
    return known - len(found)


def markdown(results: Sequence[CaseResult]) -> str:
    """Format all cases as Markdown."""
    header = ["network", "width", "direction", "moments", "worst", "tensor"]
    wide_rows, rows = [], []
    for result in results:
        for width in CASES[result.title].widths:
            entries = [entry for entry in result.entries if entry.width == width]
            for direction, is_backward in (("forward", False), ("backward", True)):
                chosen = [e for e in entries if (e.quantity in BACKWARD) == is_backward]
                wide = [e for e in chosen if e.channels >= WIDE]
                name = [result.title, f"{width}", direction]
                wide_rows.append([*name, f"{len(wide)}", *_worst(wide)])
                coverage = _coverage(chosen, result.draws)
                rows.append([*name, f"{len(chosen)}", *_worst(chosen), coverage])
    draws = " or ".join(f"{n}" for n in sorted({result.draws for result in results}))
    zeros = [f"{r.title}: {r.zeros}" for r in results if r.zeros]
    parts = [
        f"Measured / predicted of {draws} draws, mean over the images, in the tensor in which it is"
        " furthest from 1 (worst); in brackets its standard error. Coverage: share of the draws"
        " inside the 95 % interval that theory `finite_width` fits to drawn networks, here to the"
        " other half of the draws.",
        f"Tensors of {WIDE} channels or more:",
        markdown_table(header, wide_rows),
        "All tensors:",
        markdown_table([*header, "coverage"], rows),
        "Moments that are 0 in the prediction and in all draws: " + "; ".join(zeros) + "."
        if zeros
        else "",
        "Cost of the prediction, on one core. Points: of the largest field.",
        _costs(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _worst(entries: Sequence[Entry]) -> tuple[str, str]:
    if not entries:
        return "-", "-"
    worst = max(entries, key=lambda e: abs(np.log(e.value)) if e.value > 0 else np.inf)
    label = {"weight_vjp_m2": f"{worst.tensor} (weight)"}.get(worst.quantity, worst.tensor)
    return f"{worst.value:.3f} ({worst.se:.3f})", label


def _coverage(entries: Sequence[Entry], draws: int) -> str:
    if not entries:
        return "-"
    return f"{sum(entry.hits for entry in entries) / (draws * len(entries)):.1%}"


def _costs(results: Sequence[CaseResult]) -> str:
    header = ["network", "images", "points", "method", "repeats", "CPU s", "wall s"]
    header += ["peak GiB", "commit"]
    rows = [
        [
            *(r.title, f"{CASES[r.title].images}", f"{r.cost.points}", r.cost.method),
            *(f"{r.cost.repeats}", f"{r.cost.cpu_s:.0f}", f"{r.cost.wall_s:.0f}"),
            *(f"{r.cost.peak_gib:.1f}", r.commit),
        ]
        for r in results
    ]
    return markdown_table(header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare all networks with draws, and write or print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.graph_networks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--draws", type=int, default=100, help="default: %(default)s")
    parser.add_argument(
        "--repeats", type=int, default=2, help="of sampled predictions; default: %(default)s"
    )
    parser.add_argument(
        "--only", action="append", metavar="TITLE", choices=CASES, help="a case; default: all"
    )
    parser.add_argument("--data-root", help="folder of the data sets")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="keep finished cases here, and reuse them"
    )
    parser.add_argument("--write", metavar="PAGE", type=Path, help="default: print")
    args = parser.parse_args(argv)
    with exit_on_error(OSError):
        results = []
        for title in args.only or CASES:
            path = args.results / f"{title.replace('/', '_')}.json" if args.results else None
            if path and path.is_file():
                results.append(CaseResult.from_json(path.read_text()))
                continue
            results.append(evaluate(title, args.draws, args.data_root, args.repeats))
            print(markdown(results[-1:]), flush=True)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(asdict(results[-1])))
        publish(markdown(results), args.write, NAME)


if __name__ == "__main__":
    main()
