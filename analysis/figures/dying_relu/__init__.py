"""Study `dying_relu`: a ReLU that dies after one training step, and its remedies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.figures.dying_relu.cells import SweepCells
from analysis.figures.dying_relu.claims import claim_results
from analysis.figures.dying_relu.figures import network_figure, remedies_figure, steps_figure
from analysis.figures.study import Study
from analysis.load import Results

CLAIM = (
    "One training step on the cross makes the feature maps of both images black. Smaller or "
    "zero-mean weights, tanh, a smaller learning rate or a smaller convolution gradient help."
)


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Test the claims of the report, and the closed-form predictions for a network with one filter.

    The report (docs/questions/dying_relu.md) describes a network that is trained on two images, a
    circle and a cross. After one step on the cross, its feature maps are 0 everywhere (black).

    Parameters
    ----------
    results
        Results of the sweep `dying_relu`.
    criterion
        `filter`, `circle`, `cross`: numbers of the report. `factor`: allowed factor between a
        measured filter or curvature and its claimed value. `boundary`: allowed factor between the
        measured and the predicted learning rate above which one step makes the maps black.
    """
    cells = SweepCells.load(results)
    trained = cells.part("remedies")
    caption = (
        "Images: a circle (label 1) and a cross (label 0). Network: one 3x3x3 filter, ReLU, "
        "logistic regression, with weights from U(0, 1) except where stated. A map is black if it "
        "is 0 at every position; a learning rate “kills” if one step on the cross makes both maps "
        "black. First figure: the network before and after its first step on the cross (learning "
        "rate 1, inputs 0 to 255). The numbers under an image are its smallest and largest value. "
        f"Second figure: {trained['seed'].nunique()} runs per box, after "
        f"{trained['train.steps'].max():g} steps of one image each. Shade: share of runs with both "
        "maps black at the end. Number: runs that classify both images (thick frame: all do). "
        "Triangle: smallest learning rate that is predicted to kill. Third figure, A: the smallest "
        "learning rate that kills, predicted (lines) and measured (one bar per seed, from the "
        "largest tested rate that does not kill to the smallest that does). B: curvature of the "
        "filter divided by that of the linear layer, predicted (lines) and measured (median and "
        f"quartiles of {cells.part('curvature')['probe.draws'].max():g} draws). C: result of one "
        "step of gradient descent on both images, from logits that are not saturated, by learning "
        "rate. Vertical lines: 2 / lambda of the filter (dashed) and of the linear layer (dotted). "
        "Triangle: the smallest rate that is predicted to kill."
    )
    figures = {
        "dying_relu": network_figure(cells),
        "dying_relu_remedies": remedies_figure(cells),
        "dying_relu_steps": steps_figure(cells),
    }
    return Study(CLAIM, figures, caption, tuple(claim_results(cells, criterion)))
