"""Command that compares theory `field` on graphs with neural-tangents and anyinit.

python -m analysis.studies.compare_graph_tools --write docs/appendix/graph-networks.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.studies import graph_tools
from analysis.studies.baselines import VENV, install_hint
from analysis.studies.blocks import publish
from analysis.studies.graph_draws import measure_graph
from analysis.studies.tables import markdown_table
from experiments.console import exit_on_error
from experiments.data import Cifar10, Data
from experiments.scaling import Scaling, Standardize
from fanin.errors import FaninError
from fanin.inits import HeNormal, Init, LayerInit, Normal
from fanin.inits.weight_shape import weight_layers
from fanin.theory.field.sampling import Sampling
from fanin.theory.graph.plan import plan_graph
from fanin.theory.graph.predict import predict_graph
from fanin.theory.moments import declared_moments
from fanin.theory.prediction import Prediction

NAME = "compare_graph_tools"
SCRIPT = Path(graph_tools.__file__)
WIDTH = 64
SIDE = 16


@dataclass(frozen=True)
class AnyinitComparison:
    """E[y^2] of the network's output with anyinit's own init: predictions, draws, their error."""

    anyinit: float
    fanin: float
    measured: float
    se: float


@dataclass(frozen=True)
class Comparison:
    """One network: fanin's prediction, the tools' answers, and draws.

    Attributes
    ----------
    name
        Key of `graph_tools.NETWORKS`.
    prediction
        Of theory `field`.
    ntk
        Neural tangent kernel that follows from the predicted weight gradients.
    tools
        Answer of each tool.
    measured
        Mean of each tensor's second moment over draws, and its standard error.
    anyinit
        Comparison on the network with anyinit's init; None if anyinit raised an error.
    """

    name: str
    prediction: Prediction
    ntk: float
    tools: Mapping[str, Any]
    measured: Mapping[str, tuple[float, float]]
    anyinit: AnyinitComparison | None

    def value(self, tensor: str) -> float:
        """Return the predicted second moment of one tensor, mean over images."""
        index = self.prediction.layer_names.index(tensor)
        return float(self.prediction.value("preact_m2")[:, index].mean())


def compare(name: str, images: Tensor, draws: int, venv: str) -> Comparison:
    """Compare one network."""
    network = graph_tools.NETWORKS[name](WIDTH)
    init = Init(HeNormal())
    moments = declared_moments(network, init)
    prediction = predict_graph(network, moments, images)
    plan = plan_graph(network, moments, images, Sampling())
    m2 = measure_graph(network, plan, images, init, draws)["preact_m2"].mean(1)
    errors = m2.std(0, ddof=1) / draws**0.5
    measured = dict(zip(plan.names, zip(m2.mean(0), errors, strict=True), strict=True))
    tools = query(name, images, venv)
    anyinit = None
    if "layers" in tools["anyinit"]:
        anyinit = compare_anyinit(name, tools["anyinit"]["layers"], images, draws)
    return Comparison(
        name, prediction, tangent_kernel(network, prediction), tools, measured, anyinit
    )


def compare_anyinit(
    name: str, layers: Sequence[Mapping[str, Any]], images: Tensor, draws: int
) -> AnyinitComparison:
    """Compare the output with anyinit's init, which also scales the normalizations."""
    network = graph_tools.NETWORKS[name](WIDTH)
    modules = dict(network.named_modules())
    weighted = weight_layers(network)
    stds = {}
    for layer in layers:
        if layer["name"] in weighted:
            stds[layer["name"]] = LayerInit(Normal(std=layer["scale"]))
        else:
            torch.nn.init.constant_(modules[layer["name"]].weight, layer["scale"])
    init = Init(HeNormal(), layers=stds)
    moments = declared_moments(network, init)
    prediction = predict_graph(network, moments, images)
    plan = plan_graph(network, moments, images, Sampling())
    m2 = measure_graph(network, plan, images, init, draws)["preact_m2"].mean(1)[:, -1]
    return AnyinitComparison(
        anyinit=layers[-1]["predicted"],
        fanin=float(prediction.value("preact_m2")[:, -1].mean()),
        measured=float(m2.mean()),
        se=float(m2.std(ddof=1) / draws**0.5),
    )


def tangent_kernel(network: nn.Module, prediction: Prediction) -> float:
    r"""Return the diagonal of the neural tangent kernel, mean over images.

    In its parametrization each weight is a standard deviation s times a parameter, so the kernel of
    one of n outputs is the sum over layers of :math:`s^2 N E[(dL/dw)^2] / n`, for N weights.
    """
    gradients = prediction.value("weight_vjp_m2").mean(0)
    layers = weight_layers(network)
    n_outputs = list(layers.values())[-1].weight.shape[0]
    total = 0.0
    for tensor, gradient in zip(prediction.layer_names, gradients, strict=True):
        if tensor in layers:
            weight = layers[tensor].weight
            variance = graph_tools.GAIN**2 / weight[0].numel()
            total += variance * weight.numel() * float(gradient) / n_outputs
    return total


def query(name: str, images: Float[Tensor, "image channel row column"], venv: str) -> Any:
    """Return the tools' answers.

    Raises
    ------
    FaninError
        The tools are not installed, or their script failed.
    """
    python = Path(venv) / "bin" / "python"
    if not python.exists():
        raise FaninError(install_hint(venv))
    request = {"name": name, "width": WIDTH, "images": images.double().tolist()}
    process = subprocess.run(
        [str(python), str(SCRIPT)], input=json.dumps(request), capture_output=True, text=True
    )
    if process.returncode:
        last_line = process.stderr.strip().splitlines()[-1:]
        raise FaninError(f"{SCRIPT.name} failed: {' '.join(last_line)}")
    return json.loads(process.stdout.splitlines()[-1])


def markdown(compared: Sequence[Comparison], draws: int) -> str:
    """Format all networks as Markdown."""
    header = ["network", "tensor", "fanin: field", "fanin / neural-tangents - 1"]
    header += ["measured / fanin"]
    rows = []
    for c in compared:
        answer = c.tools["neural_tangents"]
        for tensor, value in answer.get("moments", {}).items():
            mean, se = c.measured[tensor]
            own = c.value(tensor)
            rows.append(
                [
                    *(c.name, f"{tensor}: E[y²]", f"{own:.6g}", f"{own / value - 1:+.1e}"),
                    f"{mean / own:.3f} ({se / own:.3f})",
                ]
            )
        if "ntk" in answer:
            rows.append(
                [
                    *(c.name, "tangent kernel, from all weight gradients", f"{c.ntk:.6g}"),
                    *(f"{c.ntk / answer['ntk'] - 1:+.1e}", "-"),
                ]
            )
    parts = [
        f"Width {WIDTH}; {draws} draws of float32 networks, in brackets the standard error.",
        markdown_table(header, rows),
    ]
    header = ["network with anyinit's init", "anyinit", "fanin: field", "measured"]
    parts += [
        "E[y²] of the output:",
        markdown_table(
            header,
            [
                [
                    *(c.name, f"{c.anyinit.anyinit:.4g}", f"{c.anyinit.fanin:.4g}"),
                    f"{c.anyinit.measured:.4g} ({c.anyinit.se:.2g})",
                ]
                for c in compared
                if c.anyinit
            ],
        ),
    ]
    for c in compared:
        for tool, answer in c.tools.items():
            if "error" in answer:
                parts.append(f"{tool}, {c.name}: `{answer['error']}`")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare all networks, and write or print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.compare_graph_tools", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--draws", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--data-root", help="folder of the data sets")
    parser.add_argument("--venv", default=VENV, help="of the other tools (default: %(default)s)")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="default: print")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with exit_on_error(OSError):
        data = Data(Cifar10(), side=SIDE, root=args.data_root).load()
        scaling = Scaling(Standardize()).fit(data.train.x, data.full_scale)
        images = scaling.apply(data.train.x[:2]).float()
        compared = [compare(name, images, args.draws, args.venv) for name in graph_tools.NETWORKS]
        publish(markdown(compared, args.draws), args.write, NAME)


if __name__ == "__main__":
    main()
