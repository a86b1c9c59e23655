"""A set of inputs through a wide dense network: covariances, gradients and the tangent kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.gaussian_pairs import pair_law


@dataclass(frozen=True)
class Kernels:
    """What `dense_kernels` returns, for every layer and pair of inputs.

    Attributes
    ----------
    cov
        E[y(a) y(b)] of the pre-activations.
    ntk
        Tangent kernel of the network that ends at this layer, in NTK parameterisation.
    gradient_factor
        sigma_w^2 E[phi'(y)^2] of each input: how a gradient's second moment changes on its way
        from the next layer to this one, where widths are equal.
    """

    cov: Float[Tensor, "layer input input"]
    ntk: Float[Tensor, "layer input input"]
    gradient_factor: Float[Tensor, "layer input"]

    def correlation(self) -> Float[Tensor, "layer input input"]:
        """Correlations of the pre-activations (second moments, not centred)."""
        sd = self.cov.diagonal(dim1=1, dim2=2).sqrt()
        return self.cov / sd[:, :, None] / sd[:, None, :]


def dense_kernels(
    function: Function,
    weight_var: float,
    bias_var: float,
    gram: Float[Tensor, "input input"],
    depth: int,
) -> Kernels:
    """Carry inputs through `depth` affine layers with the activation in between.

    Lee et al. (2018, eq. 5) for the covariances, Jacot et al. (2018, theorem 1) for the tangent
    kernel.

    Parameters
    ----------
    function
        The activation, elementwise in float64.
    weight_var, bias_var
        sigma_w^2 (fan-in times the weights' variance) and sigma_b^2.
    gram
        Inner products of the inputs over their number of entries, float64.
    depth
        Number of affine layers, 1 or more.

    Examples
    --------
    >>> he = dense_kernels(torch.relu, 2.0, 0.0, torch.eye(2).double(), 3)
    >>> [round(q, 12) for q in he.cov[:, 0, 0].tolist()]
    [2.0, 2.0, 2.0]
    """
    law = pair_law(function)
    cov = weight_var * gram.double() + bias_var
    ntk = cov
    covs, ntks, factors = [], [], []
    for _ in range(depth):
        covs.append(cov)
        ntks.append(ntk)
        var = cov.diagonal()
        slopes = weight_var * law.slope_covariance(cov, var, var)
        factors.append(weight_var * law.slope_m2(var))
        cov = weight_var * law.covariance(cov, var, var) + bias_var
        ntk = cov + slopes * ntk
    return Kernels(torch.stack(covs), torch.stack(ntks), torch.stack(factors))
