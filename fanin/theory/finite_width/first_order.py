r"""Spread of one draw's log-moments, by differentiating the field's recursion.

At finite width, a layer's second moments are averages over its C channels. To first order, a
channel of layer j changes the target log T (T: a moment of one layer) by psi_j / C_j. This
influence psi_j is the sum of the channel's products x x^T of outputs and d d^T of cotangents,
weighted by the derivatives of log T with respect to their averages. Given the layers before, the
influences of different channels are independent (docs/appendix/derivations.md, 5.3):

.. math:: Var[\log T] = \sum_j Var[\psi_j] / C_j + \text{own term}

The own term is the variance caused by the weights of T's own layer. `sweep_up` goes from the first
layer to the last and computes derivatives with respect to moments of cotangents; `sweep_down` goes
back and computes derivatives with respect to covariances. Both handle all targets at once. These
derivatives are called forms (see `adjoints`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fanin.theory.field.state import Cotangent, FieldLayer
from fanin.theory.finite_width.adjoints import (
    Forms,
    as_matrices,
    diagonal,
    gradient_by_cotangent,
    gradient_by_input,
    mean_diagonals,
    quadratic_forms,
    readout_matrix,
    squeeze_field,
    tracked_layers,
)
from fanin.theory.finite_width.free_fraction import FreeFraction
from fanin.theory.finite_width.layer_samples import LayerSamples, sample_layers
from fanin.theory.finite_width.mean_shift import mean_shift
from fanin.theory.finite_width.own_variance import (
    fourth_cumulant,
    log_m2_variance,
    log_var_variance,
)


@dataclass(frozen=True)
class LogMoments:
    """Variance of the log-moments of one draw, and shift of the mean moments.

    Attributes
    ----------
    variance
        Variance over draws, for preact_m2, preact_var, vjp_m2 and weight_vjp_m2.
    shift
        log(E[moment] / infinite-width value), for the same quantities; 0 if it was not computed.
    """

    variance: Mapping[str, Float64[np.ndarray, " layer"]]
    shift: Mapping[str, Float64[np.ndarray, " layer"]]


def log_moments(
    layers: Sequence[FieldLayer],
    free_fractions: Sequence[FreeFraction],
    *,
    images_per_field: int = 1,
    seed: int = 0,
) -> LogMoments:
    """Compute the variance of the logarithm of one draw's moments, and the shift of their mean.

    If several images share the field, the moments are means over these images. The shift is
    computed for single images and independent weights.

    Parameters
    ----------
    layers
        One pass of `propagate_field` with covariances of all layers and weights of mean zero.
    free_fractions
        `FreeFraction` of each layer's weights: their variance relative to independent weights.
    images_per_field
        Images that share the field.

    Returns
    -------
    LogMoments
        Arrays over layers.
    """
    sweeps = _Sweeps(tuple(layers), tuple(free_fractions), images_per_field, seed)
    sweeps.sweep_up()
    sweeps.sweep_down()
    n = len(layers)
    variance = sweeps.variance.clamp(min=0).numpy()
    weight, tracked = variance[2 * n :], sweeps.weight_targets
    variances = {
        "preact_m2": variance[:n],
        "preact_var": (variance[:n] + sweeps.centring_correction.numpy()).clip(min=0),
        "vjp_m2": variance[n : 2 * n],
        "weight_vjp_m2": np.interp(np.arange(n), tracked, weight[tracked]),
    }
    if images_per_field > 1 or any(fraction != FreeFraction() for fraction in free_fractions):
        return LogMoments(variances, dict.fromkeys(variances, np.zeros(n)))
    shift = mean_shift(layers, [samples.channels for samples in sweeps.samples])
    return LogMoments(variances, {"preact_var": shift["preact_m2"], **shift})


@dataclass
class _TargetGroup:
    """Targets whose derivatives with respect to cotangent moments are propagated together."""

    targets: list[int] = field(default_factory=list)
    forms: Forms | None = None

    def add(self, target: int, form: Tensor) -> None:
        self.targets.append(target)
        self.forms = form[None] if self.forms is None else torch.cat([self.forms, form[None]])


class _Sweeps:
    """The two passes through the layers, up and down.

    Targets are preact_m2 of all layers, then vjp_m2, then weight_vjp_m2.
    """

    def __init__(
        self,
        layers: tuple[FieldLayer, ...],
        free_fractions: tuple[FreeFraction, ...],
        images_per_field: int,
        seed: int,
    ) -> None:
        self.layers = layers
        self.free_fractions = free_fractions
        self.images_per_field = images_per_field
        self.seed = seed
        self.n = len(layers)
        self.variance = torch.zeros(3 * self.n, dtype=torch.float64)
        # Correction of a layer's own variance if moments are taken around the mean over all units.
        self.centring_correction = torch.zeros(self.n, dtype=torch.float64)
        self.weight_targets = tracked_layers(layers)
        self.samples = sample_layers(layers, free_fractions, seed)

    def sweep_up(self) -> None:
        """Propagate forms of cotangent moments from the first layer to the last sampled one."""
        points, pairs = _TargetGroup(), _TargetGroup()
        for index, layer in enumerate(self.layers[: len(self.samples)]):
            assert layer.cotangent is not None
            m2 = squeeze_field(layer.cotangent.m2, 1)
            if m2.sum() > 0:
                form = torch.full_like(m2, 1 / float(m2.sum()))
                if layer.cotangent.products is None:
                    points.add(self.n + index, form)
                else:
                    pairs.add(self.n + index, torch.diag(form))
                if index in self.weight_targets:
                    pairs.add(
                        2 * self.n + index, gradient_by_cotangent(layer, self.images_per_field)
                    )
            for group in (points, pairs):
                if group.forms is not None:
                    self._propagate_up(index, group)
        if len(self.samples) < self.n and not self.layers[-1].taps.is_linear:
            self._add_cotangent_variance(points, pairs)

    def _add_cotangent_variance(self, points: _TargetGroup, pairs: _TargetGroup) -> None:
        """Add the variance due to the random cotangent at the logits, whose length is fixed."""
        last, readout = self.layers[-1], readout_matrix(self.layers[-1])
        if self.n - 1 in self.weight_targets:
            pairs.add(3 * self.n - 1, gradient_by_cotangent(last, self.images_per_field))
        if readout is not None:  # pooling with overlapping windows does not preserve the length
            assert last.cotangent is not None
            m2 = squeeze_field(last.cotangent.m2, 1)
            pairs.add(2 * self.n - 1, torch.eye(len(m2), dtype=torch.float64) / float(m2.sum()))
        for group in (points, pairs):
            if group.forms is not None:
                forms = as_matrices(group.forms)
                if readout is not None:
                    forms = readout.mT @ forms @ readout
                length = mean_diagonals(forms, self.images_per_field)
                free = (forms - torch.diag_embed(length)).square().sum((1, 2))
                self.variance[group.targets] += 2 * free / last.weights.out_channels

    def _propagate_up(self, index: int, group: _TargetGroup) -> None:
        layer, samples = self.layers[index], self.samples[index]
        forms, targets = group.forms, torch.tensor(group.targets)
        assert forms is not None
        assert layer.output_cotangent is not None
        # Diagonal forms ignore the correlations of one draw; matrices include them.
        channels, diagonal_forms = samples.channels, forms.ndim == 2
        influence = quadratic_forms((samples if diagonal_forms else channels).cotangent, forms)
        samples.influence = samples.influence.index_add(1, targets, influence)
        if samples.adjoint is not None:
            output_forms, field_forms = samples.adjoint.cotangent_adjoint(forms)
        else:
            assert samples.whitened is not None
            output_forms = samples.whitened.cotangent_adjoint(forms, layer.output_cotangent)
            field_forms = forms
        samples.field_forms.append((list(group.targets), field_forms))
        if index == self.n - 1:  # the length of the cotangent at the logits is fixed
            cotangent = (samples if diagonal_forms else channels).output_cotangent
            length = quadratic_forms(cotangent, mean_diagonals(output_forms, self.images_per_field))
            samples.influence = samples.influence.index_add(1, targets, -length)
            return
        next_layer = self.layers[index + 1]
        taps, weights = next_layer.taps, next_layer.weights
        if self.free_fractions[index + 1].backward < 1:
            fixed_forms = output_forms
            if taps.is_linear:
                fixed_forms = _length_part(output_forms, layer.output_cotangent)
            cotangent = (samples if diagonal_forms else channels).output_cotangent
            fixed_influence = quadratic_forms(cotangent, fixed_forms)
            samples.fixed_influence = samples.fixed_influence.index_add(1, targets, fixed_influence)
        if output_forms.ndim == 2:
            group.forms = weights.group_out_channels * taps.forward_m2(output_forms, weights.var)
        else:
            group.forms = weights.group_out_channels * taps.forward_products(
                output_forms, weights.var
            )

    def sweep_down(self) -> None:
        """Propagate forms of field covariances from the last layer to the first."""
        forms = self._last_forms()
        if len(self.samples) < self.n:
            forms = self._add_own_target(self.n - 1, forms)
        for index in range(len(self.samples) - 1, -1, -1):
            layer, samples = self.layers[index], self.samples[index]
            free_forward, free_backward = self.free_fractions[index].forward, 1.0
            if index < self.n - 1:
                forms = self._to_inputs(index + 1, forms)
                free_backward = self.free_fractions[index + 1].backward
            influence = samples.influence + quadratic_forms(samples.channels.x, forms)
            if index == 0 and free_forward == 1:
                fixed_influence = torch.zeros(())
            else:
                forms, fixed_influence = self._to_field(index, samples, forms, free_forward)
            spread = influence.var(0)
            if min(free_forward, free_backward) < 1:
                spread = (influence - samples.fixed_influence - fixed_influence).var(0)
                spread = (
                    spread
                    + free_backward * samples.fixed_influence.var(0)
                    + free_forward * fixed_influence.var(0)
                )
            self.variance += spread / layer.weights.out_channels
            forms = self._add_own_target(index, forms)

    def _last_forms(self) -> Forms:
        """Return forms of 0: at the outputs of the modules if the last layer is sampled."""
        last = self.layers[-1]
        points = last.preact.var.shape[-1]
        if len(self.samples) == self.n:
            assert last.output_cotangent is not None
            points = last.output_cotangent.m2.shape[-1]
        # A pooled readout correlates the cotangents of different points.
        is_pooled = last.interlayer is not None and last.interlayer.mixes_points
        shape = (points, points) if is_pooled else (points,)
        return torch.zeros(3 * self.n, *shape, dtype=torch.float64)

    def _to_inputs(self, index: int, forms: Forms) -> Forms:
        """Convert forms of the covariance of y to forms of the moments of the layer's input."""
        layer = self.layers[index]
        taps, weights = layer.taps, layer.weights
        propagate = taps.backward_m2 if forms.ndim == 2 else taps.backward_products
        forms = weights.group_in_channels * propagate(forms, weights.var)
        if index in self.weight_targets:
            direct = gradient_by_input(layer, self.images_per_field)
            forms[2 * self.n + index] += direct if direct.ndim == forms.ndim - 1 else direct.diag()
        return forms

    def _to_field(
        self, index: int, samples: LayerSamples, forms: Forms, free_fraction: float
    ) -> tuple[Forms, Tensor]:
        """Convert forms of the moments of x to forms of the covariance of y.

        Also return the influence of each sample of y under these forms; 0 for independent weights,
        which do not need it.
        """
        layer, channels, whitened = self.layers[index], samples.channels, samples.whitened
        if whitened is None:
            assert samples.adjoint is not None
            field_forms = samples.adjoint.field_adjoint(forms)
            for targets, group in samples.field_forms:
                same_rank = group.ndim == field_forms.ndim
                field_forms[targets] += group if same_rank else as_matrices(group)
            if free_fraction == 1:
                return field_forms, torch.zeros(())
            deviations = channels.y - squeeze_field(layer.preact.mean, 1)
            return field_forms, quadratic_forms(deviations, field_forms)
        backward = list(torch.zeros(3 * self.n, channels.y.shape[-1]).to(forms))
        for targets, group in samples.field_forms:
            for target, form in zip(targets, group, strict=True):
                backward[target] = form
        normal_forms = whitened.normals_adjoint(forms, backward)
        fixed_influence = (
            quadratic_forms(channels.normals, normal_forms)
            if free_fraction < 1
            else torch.zeros(())
        )
        # Nothing before the first layer needs a derivative.
        return whitened.to_points(normal_forms) if index else normal_forms, fixed_influence

    def _add_own_target(self, index: int, forms: Forms) -> Forms:
        """Add the form of the layer's target log `preact_m2`, and the own term of its variance."""
        preact, weights = self.layers[index].preact, self.layers[index].weights
        mean = squeeze_field(preact.mean, 1).expand(preact.var.shape[-1])
        var = squeeze_field(preact.var, 1)
        total = (mean.square() + var).sum()
        if not total > 0:
            return forms
        cov = torch.diag(var) if preact.cov is None else squeeze_field(preact.cov, 2)
        free_fraction, channels = self.free_fractions[index].forward, weights.out_channels
        cumulant = fourth_cumulant(self.layers[index])
        own_variance = log_m2_variance(cov, mean, channels, free_fraction, cumulant)
        self.variance[index] += own_variance
        self.centring_correction[index] = (
            log_var_variance(cov, self.images_per_field, channels, free_fraction, cumulant)
            - own_variance
        )
        form = torch.full_like(var, 1 / float(total))
        if forms.shape[-1] == len(var):
            forms[index] += form if forms.ndim == 2 else torch.diag(form)
        return forms


def _length_part(output_forms: Forms, output_cotangent: Cotangent) -> Forms:
    """Return the part of forms that depends on a vector's length only."""
    size = squeeze_field(output_cotangent.m2, 1)
    own = output_forms if output_forms.ndim == 2 else diagonal(output_forms)
    fraction = (own @ size) / size.sum().clamp(min=1e-300)
    return fraction[:, None].expand(len(fraction), len(size))
