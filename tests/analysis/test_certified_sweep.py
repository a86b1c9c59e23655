"""`init=certified` takes part in a sweep, and levels the layers as it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis import Results


def test_certified_is_an_option_like_any_other(sweep: Callable[..., Results]) -> None:
    """Against He's, on a padded network with poolings, whose moments He's formula misses."""
    network = ("model=two_layer", "model.channels=16", "train.steps=2", "probe.draws=6")
    results = sweep("certified", "init=certified,he_normal", *network)
    assert (results.cells.outcome == "ok").all()
    rows = results.layers[(results.layers.quantity == "preact_m2") & (results.layers.image == -1)]
    rows = rows[rows.step == 0].merge(results.cells[["cell_id", "init._target_"]])
    logs = rows.assign(value=np.log(rows.value)).groupby(["init._target_", "layer"], observed=True)
    mean, error = logs.value.mean(), logs.value.std() / 6**0.5
    certified = "fanin.theory.prescribe.Certified"
    # It saw eight of the images that are probed, and sixteen channels leave a bias of order 1/16.
    assert (mean[certified].abs() < 4 * error[certified] + 0.2).all()
    assert mean["fanin.inits.HeNormal"].abs().max() > 2 * mean[certified].abs().max()
