"""What is known of a network's weights: declared by its init, given, or estimated from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.inits import Init, Moments, Scheme, WeightLayer, weight_layers
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import LayerMoments, declared_moments

Source = Literal["declared", "given", "estimated"]
# An estimated mean within so many standard errors of 0 is taken for a declared 0: a real mean so
# small is seldom meant, and theory would have to follow it with particles.
NOTABLE = 4.0


@dataclass(frozen=True)
class Weights:
    """Moments of every weight layer, and where they come from.

    Attributes
    ----------
    moments
        By layer name.
    source
        `declared` by an init scheme, `given` as numbers, or `estimated` from the model's own
        tensors. An estimate from n entries has a relative standard error of sqrt(2 / n) in the
        variance (Gaussian weights), so 3 % for the 1,728 weights of a 3x3 convolution from 3 to
        64 channels.
    init
        What declared them; None otherwise.
    """

    moments: Mapping[str, LayerMoments]
    source: Source
    init: Init | None


def weights_of(
    model: nn.Module, init: Init | Scheme | Mapping[str, LayerMoments] | None
) -> Weights:
    """Moments of a model's weight layers, from whatever is known of them.

    Parameters
    ----------
    model
        Its weights are read only where `init` is None.
    init
        An `Init`, a bare scheme, moments by layer name, or None: the model was initialized by
        hand, and its own tensors tell.

    Raises
    ------
    ConfigError
        It is nothing of the above.
    UnpredictableLayer
        The scheme declares no moments.

    Examples
    --------
    >>> from fanin.inits import HeNormal
    >>> weights_of(nn.Sequential(nn.Linear(8, 4)), HeNormal()).moments["0"].weight
    Moments(mean=0.0, var=0.25)
    """
    if init is None:
        layers = weight_layers(model).items()
        return Weights({name: _estimated(name, layer) for name, layer in layers}, "estimated", None)
    if isinstance(init, Mapping):
        return Weights(init, "given", None)
    if not isinstance(init, Init):
        if not callable(getattr(init, "sample", None)):
            raise ConfigError(
                f"init={init!r}: expected an fanin.inits.Init, a scheme with"
                " sample(weight, generator), moments by layer name, or None"
            )
        init = Init(init)
    return Weights(declared_moments(model, init), "declared", init)


def _estimated(name: str, layer: WeightLayer) -> LayerMoments:
    weight, bias = layer.weight, layer.bias
    if weight.is_meta:
        raise UnpredictableLayer(name, "its weights hold no numbers (meta device); give an init")
    taps = weight.detach().double().cpu().flatten(2) if weight.ndim > 2 else None
    empty = None if taps is None else (taps == 0).all(0).all(0)
    if taps is not None and empty is not None and empty.any() and not empty.all():
        # Some taps are 0 throughout, as delta-orthogonal kernels have them.
        var = taps.square().mean((0, 1)).reshape(weight.shape[2:])
        return LayerMoments(Moments(0.0, var), estimated_moments(bias))
    return LayerMoments(estimated_moments(weight), estimated_moments(bias))


def estimated_moments(entries: Tensor | None) -> Moments:
    """Mean and variance of a drawn tensor; exact where all entries are alike, 0 where it is None.

    A mean within 4 standard errors of 0 is taken for 0.
    """
    if entries is None:
        return Moments(0.0, 0.0)
    flat = entries.detach().double().cpu().flatten()
    if bool((flat == flat[0]).all()):
        return Moments(float(flat[0]), 0.0)
    mean, var = float(flat.mean()), float(flat.var(correction=0))
    if abs(mean) < NOTABLE * (var / len(flat)) ** 0.5:
        return Moments(0.0, float(flat.square().mean()))
    return Moments(mean, var)
