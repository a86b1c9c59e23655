"""Curvature at initialization, as the `layers` table has it."""

from __future__ import annotations

import pandas as pd

from fanin.probes.table import WHOLE_NET


def initial_sharpness(layers: pd.DataFrame) -> pd.Series:
    """By cell id (a string), the largest Hessian eigenvalue of the whole network at step 0.

    Of each cell the first draw, which is the network that trains.
    """
    mine = layers[
        (layers["quantity"] == "sharpness")
        & (layers["layer"] == WHOLE_NET)
        & (layers["step"] == 0)
        & (layers["draw"] == 0)
    ]
    return pd.Series(mine["value"].to_numpy(), index=mine["cell_id"].astype(str))
