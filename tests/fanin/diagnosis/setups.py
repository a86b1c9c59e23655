"""Setups by which `diagnose` is judged: 30 with one fault and 10 without."""

from __future__ import annotations

from collections.abc import Callable

from tests.fanin.diagnosis import faulty_training as training
from tests.fanin.diagnosis import faulty_values as values
from tests.fanin.diagnosis import healthy
from tests.fanin.diagnosis.definition import Cause, Faulty, Setup, predict

__all__ = ["FAULTY", "HEALTHY", "Cause", "Setup", "predict"]

# Each function takes `fixed`: with True it returns the setup without the fault.
FAULTY: tuple[Faulty, ...] = (
    values.blank_scan,
    values.log_of_a_feature,
    values.missing_value_code,
    values.one_image_of_16_bits,
    values.pixels_to_255,
    values.wine_in_its_units,
    values.unit_word_vectors,
    values.pruned_then_standardized,
    values.loss_scale_by_hand,
    values.attention_pooling_with_exp,
    values.sparse_hidden_units,
    values.rate_lowered_too_late,
    training.softmax_layer,
    training.softmax_in_the_loss,
    training.sharp_temperature,
    training.masked_classes,
    training.nll_of_logits,
    training.sigmoid_for_a_large_target,
    training.rate_of_a_shallow_net,
    training.adam_at_a_tenth,
    training.state_plus_update,
    training.residual_blocks_without_norm,
    training.thirty_sigmoid_layers,
    training.sequences_padded_to_150,
    training.normal_of_deviation_001,
    training.uniform_from_0_to_1,
    training.all_zero,
    training.constant_weights,
    training.last_batch_of_the_loader,
    training.one_image_per_step,
)

HEALTHY: tuple[Callable[[], Setup], ...] = (
    healthy.pixels_to_1,
    healthy.alexnet_with_dropout,
    healthy.deep_relu_net,
    healthy.trained_tanh_net,
    healthy.regression_on_a_scaled_target,
    healthy.residual_branches_start_at_zero,
    healthy.small_batch_and_zero_head,
    healthy.padded_tokens,
    healthy.lstm_with_nll,
    healthy.sigmoid_with_bce,
)
