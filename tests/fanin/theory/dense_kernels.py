"""Covariances and tangent kernels of wide dense networks, from `pair_expectations`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fanin.theory.elementwise import Function
from fanin.theory.gaussian_pairs import pair_expectations


@dataclass(frozen=True)
class Kernels:
    """Kernels of every layer.

    Attributes
    ----------
    cov, ntk
        Covariance of the pre-activations and tangent kernel, [layer, input, input].
    gradient_factor
        sigma_w^2 E[phi'^2], [layer, input].
    """

    cov: Tensor
    ntk: Tensor
    gradient_factor: Tensor

    def correlation(self) -> Tensor:
        sd = self.cov.diagonal(dim1=1, dim2=2).sqrt()
        return self.cov / sd[:, :, None] / sd[:, None, :]


def dense_kernels(
    function: Function, weight_var: float, bias_var: float, gram: Tensor, depth: int
) -> Kernels:
    """Compute covariances and tangent kernels.

    Covariances: Lee et al. (2018, eq. 5). Tangent kernels: Jacot et al. (2018, theorem 1).
    """
    law = pair_expectations(function)
    cov = ntk = weight_var * gram.double() + bias_var
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
