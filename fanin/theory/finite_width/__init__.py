"""Theory 4: the law of one draw's moments at finite width.

`predict_finite_width` gives a `Prediction` with the spread of one draw's log-moment.
"""

from fanin.theory.finite_width.predict import predict_finite_width

__all__ = ["predict_finite_width"]
