"""Expectations of activations over zero-mean Gaussian pairs, for whole covariance matrices.

E[phi(u) phi(v)] propagates a covariance forward, E[phi'(u) phi'(v)] backward. Positively
homogeneous functions (ReLU, leaky ReLU, identity) have closed forms. Other functions use
`fanin.theory.mehler`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.theory.elementwise import Function, derivative
from fanin.theory.mehler import Breakpoints, pair_products
from fanin.theory.quadrature import BREAKPOINTS, EXACT, gaussian_nodes, max_nodes

NODES_AT_ONCE = 2**18


@dataclass(frozen=True)
class PairExpectations:
    """Gaussian pair expectations of one elementwise function, created by `pair_expectations`.

    The errors of `covariance` and of `slope_covariance`, relative to the root mean squares of both
    factors, are rounding errors for positively homogeneous functions; 1e-11 and 1e-11 for smooth
    functions (1e-9 and 1e-6 at variance 100); 1e-8 and 1e-5 if the first or second derivative
    jumps at 0 (ELU, SELU); and 1e-4 and 1e-2 if it jumps elsewhere (hardtanh). They are largest at
    correlations of 0.99 and above.

    Attributes
    ----------
    function
        phi, elementwise, float64.
    homogeneous
        phi(1), phi(-1) and autograd's phi'(0) if phi is positively homogeneous (linear on either
        side of 0), else None.
    breakpoints
        Breakpoints of phi and of phi'.

    Examples
    --------
    >>> relu = pair_expectations(torch.relu)
    >>> var = torch.tensor([1.0, 4.0]).double()
    >>> cov = torch.tensor([[1.0, 2.0], [2.0, 4.0]]).double()
    >>> [[round(x, 9) for x in row] for row in relu.covariance(cov, var, var).tolist()]
    [[0.5, 1.0], [1.0, 2.0]]
    """

    function: Function
    homogeneous: tuple[float, float, float] | None
    breakpoints: tuple[Breakpoints, Breakpoints]

    def second_moment(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return E[phi(u)^2] for u ~ N(0, var)."""
        if self.homogeneous is not None:
            plus, minus, _ = self.homogeneous
            return (plus**2 + minus**2) / 2 * var
        return self._expectation(lambda y: self.function(y).square(), var)

    def mean(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return E[phi(u)] for u ~ N(0, var)."""
        if self.homogeneous is not None:
            plus, minus, _ = self.homogeneous
            return (plus + minus) * (var / (2 * math.pi)).sqrt()
        return self._expectation(self.function, var)

    def slope_mean(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return E[phi'(u)] for u ~ N(0, var)."""
        return self._expectation(self._slope, var)

    def slope_m2(self, var: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return E[phi'(u)^2] for u ~ N(0, var), with autograd's derivative."""
        if self.homogeneous is not None:
            plus, minus, at_0 = self.homogeneous
            return _constant_slope(var, (plus**2 + minus**2) / 2, at_0**2)
        return self._expectation(lambda y: self._slope(y).square(), var)

    def covariance(
        self,
        cov: Float[Tensor, "*b n m"],
        var_rows: Float[Tensor, "*b n"],
        var_cols: Float[Tensor, "*b m"],
    ) -> Float[Tensor, "*b n m"]:
        """Return E[phi(u_i) phi(v_j)] for u ~ N(0, var_rows), v ~ N(0, var_cols); not centred.

        Parameters
        ----------
        cov
            E[u_i v_j], clamped to +- sqrt(var_rows var_cols).
        var_rows, var_cols
            Variances. A variance of 0 is treated exactly, as a point mass.
        """
        if self.homogeneous is not None:
            plus, minus, _ = self.homogeneous
            size = (var_rows.sqrt()[..., None] * var_cols.sqrt()[..., None, :]) / (2 * math.pi)
            theta = _angle(cov, var_rows, var_cols)
            return size * (
                (plus**2 + minus**2) * _arccosine_1(theta)
                + 2 * plus * minus * _arccosine_1(math.pi - theta)
            )
        norms = [self.second_moment(var).sqrt() for var in (var_rows, var_cols)]
        at_0 = float(self.function(torch.zeros(1, dtype=torch.float64)))
        c = _products(self.function, self.breakpoints[0], cov, var_rows, var_cols)
        products = c * norms[0][..., None] * norms[1][..., None, :]
        means = [at_0 * self.mean(var) for var in (var_rows, var_cols)]
        return _replace_point_masses(products, var_rows, var_cols, means[0], means[1])

    def slope_covariance(
        self,
        cov: Float[Tensor, "*b n m"],
        var_rows: Float[Tensor, "*b n"],
        var_cols: Float[Tensor, "*b m"],
    ) -> Float[Tensor, "*b n m"]:
        """Return E[phi'(u_i) phi'(v_j)], with the parameters of `covariance`."""
        if self.homogeneous is not None:
            plus, minus, at_0 = self.homogeneous
            theta = _angle(cov, var_rows, var_cols)
            products = ((plus**2 + minus**2) * (math.pi - theta) - 2 * plus * minus * theta) / (
                2 * math.pi
            )
            means = [
                at_0 * _constant_slope(var, (plus - minus) / 2, at_0)
                for var in (var_rows, var_cols)
            ]
            return _replace_point_masses(products, var_rows, var_cols, means[0], means[1])
        norms = [self.slope_m2(var).sqrt() for var in (var_rows, var_cols)]
        at_0 = float(self._slope(torch.zeros(1, dtype=torch.float64)))
        c = _products(self._slope, self.breakpoints[1], cov, var_rows, var_cols)
        products = c * norms[0][..., None] * norms[1][..., None, :]
        means = [at_0 * self.slope_mean(var) for var in (var_rows, var_cols)]
        return _replace_point_masses(products, var_rows, var_cols, means[0], means[1])

    def _slope(self, y: Tensor) -> Tensor:
        return derivative(self.function, y)[1]

    def _expectation(self, function: Function, var: Tensor) -> Tensor:
        # Equal variances are common (circular padding, dense layers), so compute each only once.
        distinct, index = var.flatten().unique(return_inverse=True)
        parts = []
        for part in distinct.split(max(1, NODES_AT_ONCE // max_nodes(EXACT))):
            y, weight = gaussian_nodes(torch.zeros_like(part), part, EXACT)
            mean = (weight * function(y)).sum(-1)
            parts.append(torch.where(part > 0, mean, function(0 * part)))
        return torch.cat(parts)[index].reshape(var.shape) if parts else var.clone()


def pair_expectations(function: Function) -> PairExpectations:
    """Return rules for E[f(x) f(y)] of a function f, where x and y are jointly Gaussian.

    Parameters
    ----------
    function
        Elementwise float64 function, such as a result of `fanin.theory.elementwise.elementwise`.

    Examples
    --------
    >>> pair_expectations(torch.relu).homogeneous, pair_expectations(torch.tanh).homogeneous
    ((1.0, 0.0, 0.0), None)
    >>> pair_expectations(torch.nn.Hardtanh()).breakpoints[0]
    Breakpoints(jumps=False, locations=(-1.0, 1.0))
    """
    return PairExpectations(function, _homogeneous_values(function), _find_breakpoints(function))


def _constant_slope(var: Tensor, value: float, at_0: float) -> Tensor:
    return torch.full_like(var, value).where(var > 0, at_0)


def _homogeneous_values(function: Function) -> tuple[float, float, float] | None:
    x = torch.tensor(
        [1e-8, 1e-3, 0.1, 0.5, 1.0, 2.0, 3.0, 7.0, 13.0, 60.0, 1e4, 1e8], dtype=torch.float64
    )
    x_1 = torch.ones(1, dtype=torch.float64)
    plus, minus = float(function(x_1)), float(function(-x_1))
    is_homogeneous = torch.allclose(function(x), plus * x, rtol=1e-13, atol=0) and torch.allclose(
        function(-x), minus * x, rtol=1e-13, atol=0
    )
    value_at_0, slope_at_0 = derivative(function, torch.zeros(1, dtype=torch.float64))
    if not is_homogeneous or float(value_at_0) != 0:
        return None
    return plus, minus, float(slope_at_0)


def _find_breakpoints(function: Function) -> tuple[Breakpoints, Breakpoints]:
    at = torch.tensor([*(-b for b in BREAKPOINTS[:0:-1]), *BREAKPOINTS], dtype=torch.float64)
    h = 1e-4
    steps = torch.tensor([-2 * h, -h, h, 2 * h], dtype=torch.float64)
    value, slope = derivative(function, at[:, None] + steps)
    breaks, jumps = _has_break(slope, 1e-6), _has_break(slope, 1e-2)
    value_jumps = _has_break(value, 1e-2)
    nonzero = at != 0
    locations = tuple(at[breaks & nonzero].tolist())
    mask = nonzero if locations else ~nonzero
    return Breakpoints(bool((value_jumps & mask).any()), locations), Breakpoints(
        bool((jumps & mask).any()), locations
    )


def _has_break(f: Float[Tensor, "location 4"], threshold: float) -> Tensor:
    """Return True where extrapolations from the left and from the right differ."""
    # They differ by h^2 times a derivative for smooth functions, by 2 h times the angle at a kink.
    return (f[:, 2] - (3 * f[:, 1] - 2 * f[:, 0])).abs() > threshold


def _angle(cov: Tensor, var_rows: Tensor, var_cols: Tensor) -> Tensor:
    rows = torch.where(var_rows > 0, var_rows, 1.0).sqrt()[..., None]
    cols = torch.where(var_cols > 0, var_cols, 1.0).sqrt()[..., None, :]
    return torch.arccos(((cov / rows) / cols).clamp(-1, 1))


def _arccosine_1(theta: Tensor) -> Tensor:
    """Return eq. 6 of Cho & Saul (2009) without its factor |x||y| / pi."""
    return torch.sin(theta) + (math.pi - theta) * torch.cos(theta)


def _products(
    function: Function,
    breakpoints: Breakpoints,
    cov: Tensor,
    var_rows: Tensor,
    var_cols: Tensor,
) -> Tensor:
    n, m = cov.shape[-2:]
    rows = var_rows.expand(*cov.shape[:-2], n).reshape(-1, n)
    cols = var_cols.expand(*cov.shape[:-2], m).reshape(-1, m)
    products = pair_products(function, breakpoints, cov.reshape(-1, n, m), rows, cols)
    return products.reshape(cov.shape)


def _replace_point_masses(
    products: Tensor, var_rows: Tensor, var_cols: Tensor, from_rows: Tensor, from_cols: Tensor
) -> Tensor:
    """Replace pairs with a zero variance by f(0) times the mean of the other factor."""
    products = torch.where(var_rows[..., None] > 0, products, from_cols[..., None, :])
    return torch.where(var_cols[..., None, :] > 0, products, from_rows[..., None])
