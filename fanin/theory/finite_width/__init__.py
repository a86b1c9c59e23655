"""Theory `finite_width`: the distribution of one draw's moments.

`predict_finite_width` returns a `Prediction` with the spread of one draw's log-moments.
"""

from fanin.theory.finite_width.predict import predict_finite_width

__all__ = ["predict_finite_width"]
