"""`ProbeTable`: the result of `probe`, a DataFrame with a plot by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from fanin.plots import plot_rms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL_IMAGES = -1


class ProbeTable(pd.DataFrame):
    """Measurements of one network. Created by `probe`.

    It is a pandas.DataFrame; selections and other results of its methods are ordinary DataFrames.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def plot(self, quantity: str = "preact_m2", ax: Axes | None = None) -> Axes:
        """Draw the root of a quantity's mean over the images, layer by layer.

        For other plots, use the methods of an ordinary DataFrame: `pandas.DataFrame(table).plot`.

        Parameters
        ----------
        quantity
            Name of a second moment, such as `preact_m2`, `act_m2`, `vjp_m2` or `weight_grad_m2`.
        ax
            Axes to draw on. None creates a figure.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.

        Raises
        ------
        ConfigError
            The table has no such second moment.

        Examples
        --------
        >>> import torch
        >>> from torch import nn
        >>> from fanin import probe
        >>> table = probe(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.randn(32, 8))
        >>> table.plot().get_yscale()
        'log'
        """
        rows = self[(self["image"] == ALL_IMAGES) & (self["layer"] > 0)]
        return plot_rms(rows, quantity, ax)
