"""What theory says each layer's moments are, one rung of lifted assumptions above another.

`he` is rung 1 and `mean_field` rung 2. Both read a network and its init scheme's declared moments,
never a weight, and give a `Prediction`.
"""

from analysis.theory.he import predict_he
from analysis.theory.layer_moments import LayerMoments
from analysis.theory.mean_field import predict_mean_field
from analysis.theory.prediction import Prediction
from analysis.theory.walk import UnpredictableLayer

__all__ = [
    "LayerMoments",
    "Prediction",
    "UnpredictableLayer",
    "predict_he",
    "predict_mean_field",
]
