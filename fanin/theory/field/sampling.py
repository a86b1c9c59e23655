"""Samples of a Gaussian field with an exact empirical covariance.

Independent samples of a field fluctuate like the channels of a finite network. Antithetic and
whitened samples have no fluctuation in their second moments, which pass exactly through every
linear step (docs/appendix/derivations.md, 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fanin.seeds import make_generator

OVERSAMPLING = 1.25  # antithetic pairs per dimension that stable whitening needs
JITTER = 1e-13  # of a correlation matrix's diagonal; raised until the Cholesky factorization works
MAX_JITTER = 1e-6
MIN_PARTICLES = 8
MIN_REPEATS = 2
TARGET_RELATIVE_SE = 0.01  # a tenth of log 1.1, the smallest margin in use
Quantities = dict[str, np.ndarray]
"""Arrays [image, layer] by quantity."""
MAX_WORK = 4e9  # multiplications per layer, beyond which there are fewer particles


@dataclass(frozen=True)
class Sampling:
    """Sampling options of theory `field`, used where no closed form exists.

    Attributes
    ----------
    samples
        Minimum number of whitened samples of each field.
    repeats
        Largest number of independent repeats. Their scatter gives the sampling error;
        `predict_field` stops after two if it is small.
    particles
        Samples of the mean map, if weights of non-zero mean make it random. Large maps get fewer,
        but at least 8.
    seed
        Seed of all random streams.
    """

    samples: int = 1024
    repeats: int = 4
    particles: int = 16
    seed: int = 0

    def particles_for(self, points: int) -> int:
        """Return an affordable, even number of particles for a field of this many points."""
        affordable = int(MAX_WORK / (max(self.samples, 2.5 * points) * points**2))
        return max(MIN_PARTICLES, min(self.particles, affordable)) // 2 * 2


def whitened(samples: int, dimensions: int, *key: object) -> Float[Tensor, "sample dimension"]:
    """Draw antithetic standard normals with an exact identity as second-moment matrix.

    Parameters
    ----------
    samples
        Minimum number of samples. Many dimensions need more.
    dimensions
        Length of each sample.
    key
        Key of the random stream: seed, repeat, layer.

    Examples
    --------
    >>> z = whitened(64, 3, 0)
    >>> torch.allclose(z.T @ z / len(z), torch.eye(3).double()), z.sum(0).abs().max().item() < 1e-9
    (True, True)
    """
    half = max(-(-samples // 2), int(OVERSAMPLING * dimensions) + 8)
    stream = make_generator("field", *key)
    z = torch.randn(half, dimensions, generator=stream, dtype=torch.float64)
    root = torch.linalg.cholesky(z.T @ z / half)
    z = torch.linalg.solve_triangular(root, z.T, upper=False).T
    # Shuffled, so that modules that combine neighbouring channels do not see a sample and its
    # negative.
    return torch.cat([z, -z])[torch.randperm(2 * half, generator=stream)]


def antithetic(samples: int, dimensions: int, *key: object) -> Float[Tensor, "sample dimension"]:
    """Draw antithetic standard normals, whitened if `samples` is large enough.

    Used to average over many fields with different mean maps.
    """
    if samples // 2 > OVERSAMPLING * dimensions:
        return whitened(samples, dimensions, *key)
    stream = make_generator("field", *key)
    z = torch.randn(-(-samples // 2), dimensions, generator=stream, dtype=torch.float64)
    return torch.cat([z, -z])


def random_signs(samples: int, dimensions: int, *key: object) -> Float[Tensor, "sample dim"]:
    """Draw random signs, used instead of normals for uncorrelated points.

    Both have the same second moments, but the squares of signs are exactly 1.
    """
    stream = make_generator("signs", *key)
    return 2.0 * torch.randint(0, 2, (samples, dimensions), generator=stream).double() - 1


def factor(covariance: Float[Tensor, "*field point point"]) -> Float[Tensor, "*field point rank"]:
    """Return F with F F^T = covariance, also for singular matrices; its diagonal is exact.

    Points of zero variance get zero rows. Singular matrices get the smallest jitter with which the
    Cholesky factorization works, 1e-13 to 1e-6 of the diagonal.
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    # Two multiplications, because the product of two small scales may underflow.
    correlation = (covariance * inverse[..., :, None]).mul_(inverse[..., None, :])
    jitter = torch.full(correlation.shape[:-2], JITTER, dtype=torch.float64)
    diagonal = correlation.diagonal(dim1=-2, dim2=-1)  # a view
    diagonal += (scale == 0).to(correlation)
    ones = diagonal.clone()
    while True:
        diagonal.copy_(ones + jitter[..., None])
        root, failed = torch.linalg.cholesky_ex(correlation)
        if not failed.any():
            break
        if float(jitter.max()) >= MAX_JITTER:
            diagonal.copy_(ones)
            root = torch.where((failed > 0)[..., None, None], eigen_root(correlation), root)
            break
        jitter = torch.where(failed > 0, 100 * jitter, jitter)
    length = torch.linalg.vector_norm(root, dim=-1, keepdim=True)
    return root.mul_(scale[..., None] / torch.where(length > 0, length, 1.0))


def float32_products(a: Float[Tensor, "*f s p"], b: Float[Tensor, "*f s p"]) -> Tensor:
    """Average a(p) b(p') over samples in float32, relative to each field's largest values.

    Rounding, 1e-7 of the product of the root mean squares at p and p', is far below the sampling
    error. The result may have eigenvalues below 0 of this size.
    """
    sizes = [x.abs().amax((-2, -1), keepdim=True) for x in (a, b)]
    sizes = [torch.where(size > 0, size, 1.0) for size in sizes]
    left, right = ((x / size).float() for x, size in zip((a, b), sizes, strict=True))
    return (left.mT @ right).double().mul_(sizes[0] / a.shape[-2]).mul_(sizes[1])


def eigen_root(covariance: Float[Tensor, "*field point point"]) -> Tensor:
    """Return F with F F^T = covariance, columns sorted by decreasing length."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()[..., None, :]).flip(-1)


def is_precise(repeats: Sequence[Quantities]) -> bool:
    """Return True if two repeats or more agree within `TARGET_RELATIVE_SE`, everywhere.

    Two repeats give a poor estimate of a single standard error, but a good one of the largest of
    many.
    """
    if len(repeats) < MIN_REPEATS:
        return False
    values = {q: np.stack([repeat[q] for repeat in repeats]) for q in repeats[0]}
    rms = np.sqrt(values["preact_m2"].mean(0))
    for quantity, x in values.items():
        if quantity == "act_zero_fraction":
            continue
        scale = rms if quantity == "preact_mean" else x.mean(0)
        with np.errstate(invalid="ignore"):  # inf / inf
            relative = x / np.where(scale > 0, scale, np.inf)
        if not (relative.std(0, ddof=1) <= TARGET_RELATIVE_SE * len(x) ** 0.5).all():
            return False
    return True
