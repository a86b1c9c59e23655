"""Predictions of a graph that restart from tensors measured in drawn networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fanin.theory.certificate.segments import (
    BACKWARD,
    MEASURED,
    MEASURED_RESTART,
    RESTART_DRAWS,
    THEORY,
    average_over_draws,
)
from fanin.theory.certificate.weights import WeightMoments, draw_networks
from fanin.theory.graph.network import GraphNetwork
from fanin.theory.graph.plan import distinct
from fanin.theory.graph.restart import measure_tensors, restart_of_steps, steps_before


@dataclass(frozen=True)
class RestartedRows:
    """Dependence of a graph's rows on its measured tensors.

    Attributes
    ----------
    restarted_at
        Name of the last measured tensor from which a row is predicted, by row; rows that are
        predicted from the images are missing.
    without_backward
        Rows on which a measured tensor depends. Theory does not predict their cotangents.
    reasons
        Why each measured tensor is not predicted, by its name.
    """

    restarted_at: dict[str, str]
    without_backward: frozenset[str]
    reasons: dict[str, str]

    @classmethod
    def of(cls, network: GraphNetwork) -> RestartedRows:
        """Return the dependence of a network's rows."""
        plan = network.plan
        restarts = restart_of_steps(plan.steps, plan.measured)
        before = steps_before(plan.steps, plan.measured)
        names = _measured_names(network)
        tensors = {row.name: restarts[row.step] for row in network.rows}
        return cls(
            {row: names[tensor.step] for row, tensor in tensors.items() if tensor is not None},
            frozenset(row.name for row in network.rows if row.step in before),
            {names[tensor.step]: tensor.reason for tensor in plan.measured},
        )

    def basis(self, name: str) -> str:
        """Return `theory`, `measured restart`, or `measured` for a row that is measured itself."""
        if name not in self.restarted_at:
            return THEORY
        return MEASURED if self.restarted_at[name] == name else MEASURED_RESTART


def _measured_names(network: GraphNetwork) -> dict[int, str]:
    """Return a name for each call whose results are measured, by step."""
    rows = {row.step: row.name for row in network.rows}
    others = {x.source: x.name for x in network.plan.measured if x.step not in rows}
    unique = distinct([*rows.values(), *others.values()])[len(rows) :]
    by_source = dict(zip(others, unique, strict=True))
    return {x.step: rows.get(x.step) or by_source[x.source] for x in network.plan.measured}


def predict_restarted(
    network: GraphNetwork, weights: WeightMoments, theories: Sequence[str], seed: int
) -> pd.DataFrame:
    """Predict a graph with measured tensors; the result has the column `basis`.

    Theory `field` starts from the measured tensors of a few new draws, and its predictions are
    averaged.
    """
    rows = RestartedRows.of(network)
    frames = []
    for theory in theories:
        if theory == "field":
            frame = _predict_field(network, weights, seed)
            is_lost = frame.layer_name.isin(rows.without_backward) | frame.value.isna()
            frame = frame[~(is_lost & frame.quantity.isin(BACKWARD))]
            is_restarted = frame.layer_name.isin(rows.restarted_at)
            frame = frame.assign(method=frame.method.mask(is_restarted, "simulated"))
        else:
            frame = network.predict(theory, seed)
        frames.append(frame)
    result = pd.concat(frames, ignore_index=True)
    basis = result.layer_name.map(rows.basis)
    is_predicted = (basis == MEASURED) & result.quantity.isin(BACKWARD)
    return result.assign(basis=basis.mask(is_predicted, MEASURED_RESTART))


def _predict_field(network: GraphNetwork, weights: WeightMoments, seed: int) -> pd.DataFrame:
    plan, frames = network.plan, []
    for drawn in draw_networks(network.model, weights, RESTART_DRAWS, seed, "restart"):
        graph = plan.batch_graph.rebind(network.model, drawn)
        measured = measure_tensors(graph, plan.measured, network.images)
        frames.append(network.predict("field", seed, measured))
    return average_over_draws(frames)
