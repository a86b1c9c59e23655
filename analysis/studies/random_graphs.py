"""Command that compares theory `field` with draws of random graphs.

python -m analysis.studies.random_graphs --write docs/appendix/graph-networks.md
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor, nn

from analysis.studies.blocks import publish
from analysis.studies.graph_draws import BACKWARD, extrapolate, measure_graph, ratios
from analysis.studies.graph_modules import NORMS, BlockSpec, Readout
from analysis.studies.tables import markdown_table
from experiments.console import exit_on_error
from experiments.data import Cifar10, Data, Mnist
from experiments.data.dataset import Source
from fanin.inits import Init, LecunNormal, NormalBias, to_init
from fanin.statistics.holm import holm
from fanin.theory.field.sampling import Sampling
from fanin.theory.graph.plan import plan_graph
from fanin.theory.graph.predict import predict_graph
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments

NAME = "random_graphs"
WIDTHS = (32, 80)
LEVEL = 0.01
POWER = 0.9
# Weights and biases are normal: theory takes a layer's output as Gaussian, but it has the law of a
# uniform bias, or of few uniform weights, at any width.
INITS = {
    **{name: to_init(name) for name in ("he_normal", "lecun_normal", "xavier_normal")},
    "lecun_normal with biases": Init(LecunNormal(), bias=NormalBias(0.5)),
}
DATA: dict[str, Source] = {"mnist": Mnist(), "cifar10": Cifar10()}
N_IMAGES = 100  # training images to choose from
N_JOINT = 3  # images of a graph with batch normalization


@dataclass(frozen=True)
class RandomGraph:
    """A random graph, to build at any width.

    Attributes
    ----------
    blocks
        Blocks between the first convolution and the readout.
    readout, hidden
        `mean`, `max` or `flat`, and whether a hidden linear layer follows.
    init, data, side
        Init of the weights, and source and side of the images.
    """

    seed: int
    blocks: tuple[BlockSpec, ...]
    readout: str
    hidden: bool
    init: str
    data: str
    side: int

    def build(self, width: int) -> nn.Module:
        """Build the network."""
        return RandomNetwork(self, width)

    def images(self, root: str | None) -> Float[Tensor, "image channel side side"]:
        """Return standardized training images: three if a batch normalization needs them."""
        x = _training_images(self.data, self.side, root)
        count = N_JOINT if any(block.norm == "batch" for block in self.blocks) else 1
        chosen = x[[(self.seed + i) % N_IMAGES for i in range(count)]].float()
        return (chosen - chosen.mean()) / chosen.std()

    def __str__(self) -> str:
        blocks = "; ".join(map(str, self.blocks))
        end = f"{self.readout}{', hidden' if self.hidden else ''}"
        return f"{self.data} {self.side}x{self.side}, {self.init}: {blocks}; {end}"


@cache
def _training_images(data: str, side: int, root: str | None) -> Tensor:
    source = Data(DATA[data], root=root, n_train=N_IMAGES, n_test=10, side=side)
    return source.load().train.x


class RandomNetwork(nn.Module):
    """The network of a random graph."""

    def __init__(self, graph: RandomGraph, width: int) -> None:
        super().__init__()
        channels, side = DATA[graph.data].shape[0], graph.side
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList()
        n_in = width
        for spec in graph.blocks:
            block = spec.build(n_in, width)
            self.blocks.append(block)
            n_in = block.n_out
            with torch.no_grad():
                x = torch.randn(2, block.n_in, side, side)
                side = block(x).shape[-1]
        self.readout = Readout(graph.readout, graph.hidden, n_in, side, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.readout(x)


def random_graph(seed: int) -> RandomGraph:
    """Draw a graph of two to four blocks."""
    rng = random.Random(seed)
    data, side = rng.choice(sorted(DATA)), rng.choice([7, 8])
    # One normalization in all blocks, or any in each.
    norms = NORMS if rng.random() < 0.5 else (rng.choice(NORMS),)
    blocks, map_side = [], side
    for _ in range(rng.randint(2, 4)):
        spec = BlockSpec.draw(rng, map_side, norms)
        blocks.append(spec)
        if spec.kind in ("plain", "residual", "padded shortcut", "dense", "gate"):
            map_side = -(-map_side // spec.stride)
        map_side = map_side // 2 if spec.pool else map_side
    return RandomGraph(
        seed,
        tuple(blocks),
        rng.choice(["mean", "mean", "flat", "max"]),
        rng.random() < 0.4,
        rng.choice(sorted(INITS)),
        data,
        side,
    )


def evaluate(
    graph: RandomGraph, draws: int, root: str | None, widths: Sequence[int] = WIDTHS
) -> pd.DataFrame:
    """Compare one graph with draws at two widths, extrapolated to infinite width.

    Returns
    -------
    pandas.DataFrame
        A row per quantity and tensor: `graph`, `quantity`, `tensor`, `operation`, `ratio`
        (measured / predicted), `se`, `z`, `wide` (the ratio at the larger width).
    """
    images = graph.images(root)
    by_width, operations = [], {}
    for width in widths:
        model = graph.build(width)
        moments = declared_moments(model, INITS[graph.init])
        plan = plan_graph(model, moments, images, Sampling())
        prediction = predict_graph(model, moments, images, sampling=Sampling(seed=graph.seed))
        measured = measure_graph(model, plan, images, INITS[graph.init], draws, seed=graph.seed)
        by_width.append(ratios(prediction, measured))
        operations = dict(zip(plan.names, (n.operation for n in plan.reported), strict=True))
    rows = []
    for key, wide in by_width[1].items():
        limit = extrapolate([by_width[0][key], wide], widths)
        quantity, tensor = key
        rows.append(
            {
                **{"graph": graph.seed, "quantity": quantity, "tensor": tensor},
                **{"operation": operations[tensor], "ratio": limit.value, "se": limit.se},
                **{"z": limit.z, "wide": wide.value},
            }
        )
    return pd.DataFrame(rows)


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the p-value `p` after Holm's correction, and `detectable`.

    `detectable` is the relative error that the test would find with a probability of 90 %, if it
    had the smallest p-value.
    """
    critical = norm.isf(LEVEL / 2 / len(frame))
    detectable = (critical + norm.ppf(POWER)) * frame.se
    return frame.assign(p=holm(2 * norm.sf(np.abs(frame.z))), detectable=detectable)


def markdown(frame: pd.DataFrame, graphs: Sequence[RandomGraph], draws: int) -> str:
    """Format the result of all graphs as Markdown."""
    judged = judge(frame)
    wrong = judged[judged.p <= LEVEL]
    n_graphs = frame.graph.nunique()
    refused = f" of {len(graphs)} graphs (theory refuses the others)"
    lines = [
        f"{n_graphs}{refused if n_graphs < len(graphs) else ' graphs'}, {draws}"
        f" draws at each of the widths {WIDTHS[0]} and {WIDTHS[1]}; "
        f"{len(judged)} moments. Holm's test at {LEVEL:.0%} rejects {len(wrong)} of them.",
    ]
    rows = [
        [f"{r.graph}", r.quantity, r.tensor, f"{r.ratio:.3f}", f"{r.z:.1f}"]
        for r in wrong.itertuples()
    ]
    if rows:
        lines.append(
            markdown_table(["graph", "moment", "tensor", "measured / predicted", "z"], rows)
        )
    groups: list[tuple[str, pd.DataFrame]] = [("all", judged)]
    groups += [(str(name), part) for name, part in judged.groupby("operation")]
    lines.append(_table(groups))
    lines.append("Graphs:\n\n" + "\n".join(f"{graph.seed}. {graph}" for graph in graphs))
    return "\n\n".join(lines)


def _table(groups: Sequence[tuple[str, pd.DataFrame]]) -> str:
    header = ["tensor", "direction", "graphs", "moments", "largest \\|z\\|", "mean deviation"]
    header += ["detectable: median", "detectable: 90 % of the moments"]
    rows = []
    for name, part in groups:
        is_backward = part.quantity.isin(BACKWARD)
        for direction, chosen in (("forward", part[~is_backward]), ("backward", part[is_backward])):
            if chosen.empty:
                continue
            mean, se = mean_deviation(chosen)
            rows.append(
                [
                    *(name, direction, f"{chosen.graph.nunique()}", f"{len(chosen)}"),
                    *(f"{chosen.z.abs().max():.1f}", f"{mean:+.1%} (se {se:.1%})"),
                    f"{chosen.detectable.median():.0%}",
                    f"{chosen.detectable.quantile(0.9):.0%}",
                ]
            )
    return markdown_table(header, rows)


def mean_deviation(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the mean of measured / predicted - 1 over graphs, and its standard error."""
    by_graph = (frame.ratio - 1).groupby(frame.graph).mean()
    return float(by_graph.mean()), float(by_graph.sem()) if len(by_graph) > 1 else float("nan")


def run(
    graphs: Sequence[RandomGraph],
    draws: int,
    root: str | None,
    report: Callable[[str], None] = print,
    results: Path | None = None,
) -> pd.DataFrame:
    """Evaluate graphs one after the other; those that theory refuses have no rows.

    Finished graphs are kept in the folder `results`, and not evaluated again.
    """
    frames = []
    for graph in graphs:
        path = results / f"{graph.seed}.json" if results else None
        if path and path.is_file():
            frames.append(pd.read_json(path, orient="table"))
            continue
        try:
            frames.append(evaluate(graph, draws, root))
        except UnpredictableLayer as error:
            report(f"graph {graph.seed}: {error}")
            continue
        z = frames[-1].z
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            frames[-1].to_json(path, orient="table", index=False, double_precision=15)
        report(f"graph {graph.seed}: {len(z)} moments, largest |z| {z.abs().max():.1f}: {graph}")
    return pd.concat(frames, ignore_index=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare random graphs with draws, and write or print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.random_graphs", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--graphs", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=200, help="per width; default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--data-root", help="folder of the data sets")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="keep finished graphs here, and reuse them"
    )
    parser.add_argument("--write", metavar="PAGE", type=Path, help="default: print")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with exit_on_error(OSError):
        seeds = range(args.first_seed, args.first_seed + args.graphs)
        graphs = [random_graph(seed) for seed in seeds]
        report = partial(print, flush=True)
        frame = run(graphs, args.draws, args.data_root, report, args.results)
        publish(markdown(frame, graphs, args.draws), args.write, NAME)


if __name__ == "__main__":
    main()
