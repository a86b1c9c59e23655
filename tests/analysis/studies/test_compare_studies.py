"""The tables of docs/appendix/theory-networks.md, on networks small enough to know what must be in them."""

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
    nowhere = str(tmp_path_factory.mktemp("nowhere"))
    return compare(SMALL, 50, nowhere, nowhere)


def test_he_is_right_where_it_is_exact(compared: CaseResult) -> None:
    means = compared.means("preact_m2")
    he = compared.value("he", "preact_m2")
    assert he is not None
    assert (np.abs(means["mean"] - he) < 4 * means.se).all()


def test_tools_that_are_not_there_are_said_not_to_be_in_the_table(compared: CaseResult) -> None:
    assert compared.others == {"anyinit": NOT_INSTALLED, "neural_tangents": NOT_INSTALLED}
    text = markdown([compared])
    assert "not installed | not installed" in text
    assert "### small: two linear layers; a digit" in text
    assert "50 draws." in text


def test_shares_inside_the_interval_are_shares(compared: CaseResult) -> None:
    for quantity in ("preact_m2", "weight_vjp_m2"):
        covered = compared.covered(quantity)
        assert covered.shape == (2,)
        assert (covered > 0.8).all()  # 50 draws of nominal 95 %: below 0.8 in 5e-5 of cases


def test_another_tools_numbers_are_set_against_the_measured_mean() -> None:
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
        }
    )
    found = CaseResult(
        SMALL, draws, predicted, {"anyinit": [8.0], "neural_tangents": "no max-pool"}
    )
    assert compare_theories._furthest(found, "anyinit", "preact_m2").startswith("4.000")
    assert compare_theories._furthest(found, "neural_tangents", "preact_m2") == "no max-pool"
    assert compare_theories._furthest(found, "anyinit", "vjp_m2") == "-"
    assert found.covered("preact_m2").tolist() == [1.0]


def test_the_five_networks_are_five() -> None:
    names = [subject.title.partition(":")[0] for subject in CASES]
    assert names == ["mlp", "plain", "alexnet", "tanh", "means"]


def test_prescribed_gains_level_what_he_does_not(tmp_path: Path) -> None:
    """Zero padding and a max-pool: He's layers differ, prescribed ones don't."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10)),
    ).double()
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    inits = compare_inits.inits(network, images, str(tmp_path))
    assert set(inits) == {"He", "LSUV", "prescribe", "prescribe, both ways"}
    assert inits["He"] == Init(HeNormal())
    found = compare_inits.measured(network, inits, images, images, 30)
    rows = found["prescribe"].query("quantity == 'preact_m2'").groupby("layer").value
    assert (np.abs(rows.mean() - 1) < 4 * rows.sem() + 0.02).all()
    text = compare_inits.markdown(found)
    assert "30 draws of each" in text
    assert "| layer | He | LSUV | prescribe | prescribe, both ways |" in text
