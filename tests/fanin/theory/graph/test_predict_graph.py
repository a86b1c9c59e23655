"""Predictions on graphs against networks drawn at random, and against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fanin.statistics.holm import holm
from scipy.stats import t as student_t
from torch import Tensor, nn

from fanin.inits import initialize, to_init
from fanin.theory.field import Sampling, predict_field
from fanin.theory.graph import predict_graph
from fanin.theory.graph.predict import plan_graph
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments
from tests.fanin.theory.graph.measure import measure_graph
from tests.fanin.theory.graph.residual_modules import (
    ConvNeXt,
    DenseNet,
    ResidualMlp,
    ResNet,
    SqueezeExcite,
    Swish,
)
