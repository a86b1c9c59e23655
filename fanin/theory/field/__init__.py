"""Theory `field`: moments of the Gaussian field over positions, forward and backward.

`predict_field` returns a `Prediction`; `propagate_field` returns the maps and covariances of every
layer.
"""

from fanin.theory.field.plan import FieldTooLarge
from fanin.theory.field.predict import (
    FieldResult,
    couples_images,
    predict_field,
    propagate_field,
)
from fanin.theory.field.sampling import Sampling
from fanin.theory.field.state import FieldLayer

__all__ = [
    "FieldLayer",
    "FieldResult",
    "FieldTooLarge",
    "Sampling",
    "couples_images",
    "predict_field",
    "propagate_field",
]
