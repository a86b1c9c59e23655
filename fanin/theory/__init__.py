"""Predictions of each layer's moments by four theories: he, mean_field, field, finite_width.

Each theory drops one more assumption than the one before. All of them read a network's structure
and the moments that its init scheme declares, never a weight, and return a `Prediction`.
"""

from fanin.theory.certificate import (
    Certificate,
    UnhealthyInit,
    assert_healthy,
    certify,
    print_certificate,
)
from fanin.theory.explain import explain
from fanin.theory.he import predict_he
from fanin.theory.layer_kind import LayerKind, UnpredictableLayer
from fanin.theory.mean_field import predict_mean_field
from fanin.theory.moments import LayerMoments
from fanin.theory.prediction import Prediction
from fanin.theory.prescribe import prescribe

__all__ = [
    "Certificate",
    "LayerKind",
    "LayerMoments",
    "Prediction",
    "UnhealthyInit",
    "UnpredictableLayer",
    "assert_healthy",
    "certify",
    "explain",
    "predict_he",
    "predict_mean_field",
    "prescribe",
    "print_certificate",
]
