"""Tests of the comparisons of theories and of inits, on small networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analysis.studies import compare_inits, compare_theories
from analysis.studies.baselines import NOT_INSTALLED
from analysis.studies.compare_theories import CaseResult, compare, markdown
from analysis.studies.networks import CASES, NetworkCase
from experiments.data.digits import Digits
from fanin.inits import HeNormal, Init

SMALL = NetworkCase(
    "small: two linear layers; a digit",
    lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    HeNormal(),
    Digits(),
    side=8,
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> CaseResult:
    empty = str(tmp_path_factory.mktemp("empty"))
    return compare(SMALL, 50, empty, empty)


def test_he_agrees_with_a_network_for_which_it_is_exact(compared: CaseResult) -> None:
    means = compared.means("preact_m2")
    he = compared.value("he", "preact_m2")
    assert he is not None
    assert (np.abs(means["mean"] - he) < 4 * means.se).all()


def test_the_table_says_that_a_tool_is_not_installed(compared: CaseResult) -> None:
    assert compared.tools == {"anyinit": NOT_INSTALLED, "neural_tangents": NOT_INSTALLED}
    text = markdown([compared])
    assert "not installed | not installed" in text
    assert "### small: two linear layers; a digit" in text
    assert "50 draws." in text


def test_coverage_has_one_share_per_layer(compared: CaseResult) -> None:
    for quantity in ("preact_m2", "weight_vjp_m2"):
        coverage = compared.coverage(quantity)
        assert coverage.shape == (2,)
        assert (coverage > 0.8).all()  # 50 draws of nominal 95 %: below 0.8 in 5e-5 of cases


def test_a_tools_prediction_is_divided_by_the_measured_mean() -> None:
    draws = pd.DataFrame(
        {"draw": [0, 1], "layer": 1, "layer_name": "fc", "quantity": "preact_m2", "value": [1.0, 3]}
    )
    predicted = pd.DataFrame(
        {
            "layer": [1],
            "quantity": "preact_m2",
            "theory": "finite_width",
            "value": 2.0,
            "log_sd": 0.5,
            "zero_probability": 0.0,
            "log_skew": 0.0,
        }
    )
    case_result = CaseResult(
        SMALL, draws, predicted, {"anyinit": [8.0], "neural_tangents": "no max-pool"}
    )
    assert compare_theories._furthest(case_result, "anyinit", "preact_m2").startswith("4.000")
    assert compare_theories._furthest(case_result, "neural_tangents", "preact_m2") == "no max-pool"
    assert compare_theories._furthest(case_result, "anyinit", "vjp_m2") == "-"
    assert case_result.coverage("preact_m2").tolist() == [1.0]


def test_names_of_the_cases() -> None:
    names = [case.title.partition(":")[0] for case in CASES]
    assert names == ["mlp", "plain", "alexnet", "tanh", "non-zero mean"]


def test_prescribe_equalizes_layers_with_padding_and_pooling(tmp_path: Path) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10)),
    ).double()
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    inits = compare_inits.inits(network, images, str(tmp_path))
    assert set(inits) == {"He", "LSUV", "prescribe", "prescribe, both directions"}
    assert inits["He"] == Init(HeNormal())
    measured = compare_inits.measure_inits(network, inits, images, images, 30)
    rows = measured["prescribe"].query("quantity == 'preact_m2'").groupby("layer").value
    assert (np.abs(rows.mean() - 1) < 4 * rows.sem() + 0.02).all()
    text = compare_inits.markdown(measured)
    assert "30 draws of each init" in text
    assert "| layer | He | LSUV | prescribe | prescribe, both directions |" in text
