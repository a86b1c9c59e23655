"""Samples of a Gaussian field whose empirical covariance is exactly the one asked for.

Independent samples of a field carry the noise of a network of that many channels; antithetic and
whitened ones pass a second moment through every linear step without any (derivations.md, 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import make_generator

OVERSAMPLING = (
    1.25  # samples per dimension, halved by antithetic pairs, that whitening needs to be stable
)
JITTER = 1e-13  # of a correlation matrix's diagonal, raised until it factors
MAX_JITTER = 1e-6
MIN_PARTICLES = 8
MAX_WORK = 4e9  # multiplications that one layer's particles may cost before there are fewer of them


@dataclass(frozen=True)
class Sampling:
    """Options of sampling where a walk has no closed form.

    Attributes
    ----------
    samples
        Whitened samples of each field, at least.
    repeats
        Independent walks, whose scatter is the sampling error.
    particles
        Draws of the mean map where weights of non-zero mean make it random; fewer, but at least
        8, for large maps.
    seed
        Of all streams.
    """

    samples: int = 1024
    repeats: int = 4
    particles: int = 16
    seed: int = 0

    def particles_for(self, points: int) -> int:
        """As many as the work on a field of that many points allows, an even number."""
        affordable = int(MAX_WORK / (max(self.samples, 2.5 * points) * points**2))
        return max(MIN_PARTICLES, min(self.particles, affordable)) // 2 * 2


def whitened(samples: int, dimensions: int, *key: object) -> Float[Tensor, "sample dimension"]:
    """Antithetic standard normals whose second moments are exactly the identity.

    Parameters
    ----------
    samples
        At least; more are drawn where the dimensions need them.
    dimensions
        Of the space that they span.
    place
        Of the stream: seed, repeat, layer.

    Examples
    --------
    >>> z = whitened(64, 3, 0)
    >>> torch.allclose(z.T @ z / len(z), torch.eye(3).double()), z.sum(0).abs().max().item() < 1e-9
    (True, True)
    """
    half = max(samples // 2, int(OVERSAMPLING * dimensions) + 8)
    stream = make_generator("field", *key)
    z = torch.randn(half, dimensions, generator=stream, dtype=torch.float64)
    root = torch.linalg.cholesky(z.T @ z / half)
    z = torch.linalg.solve_triangular(root, z.T, upper=False).T
    # Shuffled, so that modules that look at neighbouring channels don't meet a sample's negative.
    return torch.cat([z, -z])[torch.randperm(2 * half, generator=stream)]


def antithetic(samples: int, dimensions: int, *key: object) -> Float[Tensor, "sample dimension"]:
    """Antithetic standard normals, whitened where `samples` are enough for it.

    For fields of which many are averaged, each with a mean map of its own.
    """
    if samples // 2 > OVERSAMPLING * dimensions:
        return whitened(samples, dimensions, *key)
    stream = make_generator("field", *key)
    z = torch.randn(samples // 2, dimensions, generator=stream, dtype=torch.float64)
    return torch.cat([z, -z])


def random_signs(samples: int, dimensions: int, *key: object) -> Float[Tensor, "sample dim"]:
    """Random signs: normals whose squares are exactly 1, for directions that don't mix."""
    stream = make_generator("signs", *key)
    return 2.0 * torch.randint(0, 2, (samples, dimensions), generator=stream).double() - 1


def factor(covariance: Float[Tensor, "*field point point"]) -> Float[Tensor, "*field point rank"]:
    """A matrix F with F F^T = covariance, for singular ones too; its diagonal is exact.

    Points of zero variance get zero rows. What rounding leaves of a singular matrix is lifted by
    the smallest jitter that factors, 1e-13 to 1e-6 of the diagonal.
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    # Scaled side by side, because the product of two small scales may vanish.
    correlation = covariance * inverse[..., :, None] * inverse[..., None, :]
    identity = torch.eye(correlation.shape[-1], dtype=torch.float64)
    jitter = torch.full(correlation.shape[:-2], JITTER, dtype=torch.float64)
    zero_variance = (scale == 0).to(correlation)
    correlation = correlation + torch.diag_embed(zero_variance)
    while True:
        root, failed = torch.linalg.cholesky_ex(correlation + jitter[..., None, None] * identity)
        if not failed.any():
            break
        if float(jitter.max()) >= MAX_JITTER:
            root = torch.where((failed > 0)[..., None, None], eigen_root(correlation), root)
            break
        jitter = torch.where(failed > 0, 100 * jitter, jitter)
    length = root.square().sum(-1, keepdim=True).sqrt()
    return scale[..., None] * root / torch.where(length > 0, length, 1.0)


def eigen_root(covariance: Float[Tensor, "*field point point"]) -> Tensor:
    """A matrix F with F F^T = covariance, its columns by falling length."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()[..., None, :]).flip(-1)
