"""Expectations over Gaussian pairs of mean 0, for whole covariance matrices at once.

What carries a covariance through an activation: E[phi(u) phi(v)] forward, E[phi'(u) phi'(v)]
backward. Closed forms for functions that are straight on both sides of 0, otherwise
`fanin.theory.mehler`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function, derivative
from fanin.theory.mehler import Rough, pair_products
from fanin.theory.quadrature import BENDS, EXACT, gaussian_nodes, max_nodes

NODES_AT_ONCE = 2**18


@dataclass(frozen=True)
class PairExpectations:
    """Pair expectations of one elementwise function; made by `pair_expectations`.

    Errors, over the root mean squares of both sides, covariance and then slopes: rounding for
    functions straight on both sides of 0; 1e-11 and 1e-11 for smooth ones (1e-9 and 1e-6 at
    variance 100); 1e-8 and 1e-5 where the slope or its slope breaks at 0 (ELU, SELU); 1e-4 and
    1e-2 where it does so elsewhere (hardtanh), worst at correlations of .99 and more.

    Attributes
    ----------
    function
        phi, elementwise, float64.
    rays
        phi(1), phi(-1) and torch's phi'(0) if phi is straight from 0 on either side, else None.
    roughness
        Breaks of phi and of phi'.

    Examples
    --------
    >>> relu = pair_expectations(torch.relu)
    >>> var = torch.tensor([1.0, 4.0]).double()
    >>> cov = torch.tensor([[1.0, 2.0], [2.0, 4.0]]).double()
    >>> [[round(x, 9) for x in row] for row in relu.covariance(cov, var, var).tolist()]
    [[0.5, 1.0], [1.0, 2.0]]
    """

    function: Function
    rays: tuple[float, float, float] | None
    roughness: tuple[Rough, Rough]

    def second_moment(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """E[phi(u)^2] for u ~ N(0, var)."""
        if self.rays is not None:
            right, left, _ = self.rays
            return (right**2 + left**2) / 2 * var
        return self._expected(lambda y: self.function(y).square(), var)

    def mean(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """E[phi(u)] for u ~ N(0, var)."""
        if self.rays is not None:
            right, left, _ = self.rays
            return (right + left) * (var / (2 * math.pi)).sqrt()
        return self._expected(self.function, var)

    def slope_mean(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """E[phi'(u)] for u ~ N(0, var)."""
        return self._expected(self._slope, var)

    def slope_m2(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """E[phi'(u)^2] for u ~ N(0, var), by torch's own derivative."""
        if self.rays is not None:
            right, left, at_0 = self.rays
            return _by_variance(var, (right**2 + left**2) / 2, at_0**2)
        return self._expected(lambda y: self._slope(y).square(), var)

    def covariance(
        self,
        cov: Float[Tensor, "*b n m"],
        var_rows: Float[Tensor, "*b n"],
        var_cols: Float[Tensor, "*b m"],
    ) -> Float[Tensor, "*b n m"]:
        """E[phi(u_i) phi(v_j)] for u ~ N(0, var_rows), v ~ N(0, var_cols); not centred.

        Parameters
        ----------
        cov
            E[u_i v_j]; beyond +- sqrt(var var), by rounding, it counts as that.
        var_rows, var_cols
            Variances; 0 is a point mass, treated exactly.
        """
        if self.rays is not None:
            right, left, _ = self.rays
            size = (var_rows.sqrt()[..., None] * var_cols.sqrt()[..., None, :]) / (2 * math.pi)
            theta = _angle(cov, var_rows, var_cols)
            return size * (
                (right**2 + left**2) * _arccosine_1(theta)
                + 2 * right * left * _arccosine_1(math.pi - theta)
            )
        norms = [self.second_moment(var).sqrt() for var in (var_rows, var_cols)]
        at_0 = float(self.function(torch.zeros(1, dtype=torch.float64)))
        c = _products(self.function, self.roughness[0], cov, var_rows, var_cols)
        products = c * norms[0][..., None] * norms[1][..., None, :]
        means = [at_0 * self.mean(var) for var in (var_rows, var_cols)]
        return _with_points(products, var_rows, var_cols, means[0], means[1])

    def slope_covariance(
        self,
        cov: Float[Tensor, "*b n m"],
        var_rows: Float[Tensor, "*b n"],
        var_cols: Float[Tensor, "*b m"],
    ) -> Float[Tensor, "*b n m"]:
        """E[phi'(u_i) phi'(v_j)], parameters as in `covariance`."""
        if self.rays is not None:
            right, left, at_0 = self.rays
            theta = _angle(cov, var_rows, var_cols)
            products = ((right**2 + left**2) * (math.pi - theta) - 2 * right * left * theta) / (
                2 * math.pi
            )
            means = [
                at_0 * _by_variance(var, (right - left) / 2, at_0) for var in (var_rows, var_cols)
            ]
            return _with_points(products, var_rows, var_cols, means[0], means[1])
        norms = [self.slope_m2(var).sqrt() for var in (var_rows, var_cols)]
        at_0 = float(self._slope(torch.zeros(1, dtype=torch.float64)))
        c = _products(self._slope, self.roughness[1], cov, var_rows, var_cols)
        products = c * norms[0][..., None] * norms[1][..., None, :]
        means = [at_0 * self.slope_mean(var) for var in (var_rows, var_cols)]
        return _with_points(products, var_rows, var_cols, means[0], means[1])

    def _slope(self, y: Tensor) -> Tensor:
        return derivative(self.function, y)[1]

    def _expected(self, of: Function, var: Tensor) -> Tensor:
        # Equal variances are common (circular padding, dense layers) and computed once.
        distinct, where = var.flatten().unique(return_inverse=True)
        parts = []
        for part in distinct.split(max(1, NODES_AT_ONCE // max_nodes(EXACT))):
            y, weight = gaussian_nodes(torch.zeros_like(part), part, EXACT)
            value = of(y)
            parts.append(torch.where(part > 0, (weight * value).sum(-1), of(0 * part)))
        return torch.cat(parts)[where].reshape(var.shape) if parts else var.clone()


def pair_expectations(function: Function) -> PairExpectations:
    """Look at a function and return its pair expectations.

    Parameters
    ----------
    function
        Elementwise and float64, such as `fanin.theory.elementwise.elementwise` returns.

    Examples
    --------
    >>> pair_expectations(torch.relu).rays, pair_expectations(torch.tanh).rays
    ((1.0, 0.0, 0.0), None)
    >>> pair_expectations(torch.nn.Hardtanh()).roughness[0]
    Rough(jumps=False, bends=(-1.0, 1.0))
    """
    return PairExpectations(function, _rays(function), _roughness(function))


def _by_variance(var: Tensor, value: float, at_0: float) -> Tensor:
    return torch.full_like(var, value).where(var > 0, at_0)


def _rays(function: Function) -> tuple[float, float, float] | None:
    x = torch.tensor(
        [1e-8, 1e-3, 0.1, 0.5, 1.0, 2.0, 3.0, 7.0, 13.0, 60.0, 1e4, 1e8], dtype=torch.float64
    )
    one = torch.ones(1, dtype=torch.float64)
    right, left = float(function(one)), float(function(-one))
    straight = torch.allclose(function(x), right * x, rtol=1e-13, atol=0) and torch.allclose(
        function(-x), left * x, rtol=1e-13, atol=0
    )
    value_at_0, slope_at_0 = derivative(function, torch.zeros(1, dtype=torch.float64))
    if not straight or float(value_at_0) != 0:
        return None
    return right, left, float(slope_at_0)


def _roughness(function: Function) -> tuple[Rough, Rough]:
    at = torch.tensor([*(-b for b in BENDS[:0:-1]), *BENDS], dtype=torch.float64)
    h = 1e-4
    steps = torch.tensor([-2 * h, -h, h, 2 * h], dtype=torch.float64)
    value, slope = derivative(function, at[:, None] + steps)
    breaks, jumps = _broken(slope, 1e-6), _broken(slope, 1e-2)
    value_jumps = _broken(value, 1e-2)
    away = at != 0
    bends = tuple(at[breaks & away].tolist())
    where = away if bends else ~away
    return Rough(bool((value_jumps & where).any()), bends), Rough(
        bool((jumps & where).any()), bends
    )


def _broken(f: Float[Tensor, "place 4"], by: float) -> Tensor:
    """Return True where the lines from the left and from the right do not meet."""
    # A smooth function is off by h^2 times its curvature's slope, a bend by 2 h times its angle.
    return (f[:, 2] - (3 * f[:, 1] - 2 * f[:, 0])).abs() > by


def _angle(cov: Tensor, var_rows: Tensor, var_cols: Tensor) -> Tensor:
    rows = torch.where(var_rows > 0, var_rows, 1.0).sqrt()[..., None]
    cols = torch.where(var_cols > 0, var_cols, 1.0).sqrt()[..., None, :]
    return torch.arccos(((cov / rows) / cols).clamp(-1, 1))


def _arccosine_1(theta: Tensor) -> Tensor:
    """Cho & Saul (2009), eq. 6, without its factor |x||y| / pi."""
    return torch.sin(theta) + (math.pi - theta) * torch.cos(theta)


def _products(
    function: Function,
    rough: Rough,
    cov: Tensor,
    var_rows: Tensor,
    var_cols: Tensor,
) -> Tensor:
    n, m = cov.shape[-2:]
    rows = var_rows.expand(*cov.shape[:-2], n).reshape(-1, n)
    cols = var_cols.expand(*cov.shape[:-2], m).reshape(-1, m)
    products = pair_products(function, rough, cov.reshape(-1, n, m), rows, cols)
    return products.reshape(cov.shape)


def _with_points(
    products: Tensor, var_rows: Tensor, var_cols: Tensor, from_rows: Tensor, from_cols: Tensor
) -> Tensor:
    """A pair of which one has no variance: f(0) times the mean of the other."""
    products = torch.where(var_rows[..., None] > 0, products, from_cols[..., None, :])
    return torch.where(var_cols[..., None, :] > 0, products, from_rows[..., None])
