"""Rung 4: the law of one draw's moments at finite width.

`predict_finite` gives a `Prediction` with the spread of one draw's log-moment.
"""

from fanin.theory.finite.predict import predict_finite

__all__ = ["predict_finite"]
