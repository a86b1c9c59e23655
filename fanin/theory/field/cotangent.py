"""What comes back: moments of a cotangent, and what different channels have of it in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fanin.theory.field.axes import Pairs, Points, mixed, overlaps


@dataclass(frozen=True)
class Coherent:
    r"""What the cotangents of different channels have in common, where weights have a mean.

    Behind the modules a channel x receives :math:`g = \text{own} + S(p) + \theta(p) x(p)`, with S
    and theta alike for all channels: S comes through the weights' mean, and theta because
    :math:`W^T \delta` is no fresh draw where the mean over channels of :math:`d\delta/dy` differs
    from 0 (Stein's lemma; Yang 2020, "Tensor Programs II", has it as a correction term). At the
    pre-activations S and theta are the means over channels of delta and of d delta / dy.

    Attributes
    ----------
    shared, cross, response
        E[S S'], E[S theta'] and E[theta theta'].
    """

    shared: Pairs
    cross: Pairs
    response: Pairs

    @property
    def joint(self) -> Tensor:
        """The covariance of (S, theta), [..., 2 point, 2 point]."""
        above = torch.cat([self.shared, self.cross], -1)
        below = torch.cat([self.cross.mT, self.response], -1)
        return torch.cat([above, below], -2)

    def each(self, change: Callable[[Pairs], Pairs]) -> Coherent:
        """The same change made to all three."""
        return Coherent(change(self.shared), change(self.cross), change(self.response))


@dataclass(frozen=True)
class Cotangent:
    """Second moments of a cotangent.

    Attributes
    ----------
    m2, products
        E[d(p)^2] and E[d(p) d(p')] of one channel; no `products` where different points are
        uncorrelated. Behind the modules without what is coherent, at the pre-activations with it.
    coherent
        What different channels have in common; None where they are uncorrelated.
    log_scale
        The true cotangent is e^log_scale times the one described here.
    """

    m2: Points
    products: Pairs | None = None
    coherent: Coherent | None = None
    log_scale: float = 0.0

    def each(self, change: Callable[[Tensor], Tensor]) -> Cotangent:
        """The same linear change, along the leading axes, made to all moments."""
        return Cotangent(
            change(self.m2),
            None if self.products is None else change(self.products),
            None if self.coherent is None else self.coherent.each(change),
            self.log_scale,
        )

    def spread(self, parts: int) -> Cotangent:
        """What each part of the channels below receives from the groups that it feeds."""
        groups = self.m2.shape[2]
        if groups in (1, parts):
            return self
        share = parts * overlaps(parts, groups)
        return self.each(lambda x: mixed(share, x))

    def over_particles(self) -> Cotangent:
        """The average over particles, for a layer whose own mean map is certain."""
        return self.each(lambda x: x.mean(1, True))

    @property
    def matrix(self) -> Pairs:
        """`products`, written out."""
        return torch.diag_embed(self.m2) if self.products is None else self.products
