"""Study of a ReLU that dies after one step, and its remedies (a field report)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.figures.dying_relu.cells import SweepCells
from analysis.figures.dying_relu.claims import claim_results
from analysis.figures.dying_relu.figures import pictures, remedies, steps
from analysis.figures.study import Study
from analysis.load import Results

CLAIM = (
    "One step on the cross turns the feature map of both images black; smaller or centred "
    "weights, tanh, a smaller learning rate and a shrunk convolution gradient are said to help."
)


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Hold what happened against the report, and against what was to be expected beforehand.

    Parameters
    ----------
    results
        Of the sweep `dying_relu`.
    criterion
        `filter`, `circle`, `cross`: the report's numbers; `factor`, by which a filter or a
        curvature may miss; `boundary`, by which a learning rate that smallest_dead may.
    """
    runs = SweepCells.of(results)
    trained = runs.part("remedies")
    caption = (
        f"A circle (label 1) and a cross (label 0), one 3x3x3 filter, ReLU, logistic regression; "
        f"weights from U(0, 1) where nothing else is said. First: the network before and after "
        f"its first step on the cross (learning rate 1, inputs 0 to 255), with smallest and "
        f"largest value. Second: {trained['train.steps'].max():g} steps, one image each, "
        f"{trained['seed'].nunique()} seeds; grey: share of runs whose maps are black for both "
        "images in the end; number: runs that classify both; thick frame: all do; triangle: the "
        "learning rate predicted to kill in one step. Third: A: rates that kill in one step (bars "
        "from the largest that largest_alive to the smallest that smallest_dead, a bar a seed) and
        the predicted " "ones (lines). B: curvature of the filter over that of the linear layer "
        f"({runs.part('curvature')['probe.draws'].max():g} draws; bars: half of them) and the "
        "prediction (lines). C: gradient descent on both images from unsaturated logits: what " "one
        step does, beside 2 / lambda of each layer (dashed: filter, dotted: linear) and the " "rate
        predicted to kill (triangle)."
    )
    drawn = {
        "dying_relu": pictures(runs),
        "dying_relu_remedies": remedies(runs),
        "dying_relu_steps": steps(runs),
    }
    return Study(CLAIM, drawn, caption, tuple(claim_results(runs, criterion)))
