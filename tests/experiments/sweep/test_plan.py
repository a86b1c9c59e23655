"""Plan of a sweep: cells to run, packs, expected time."""

from dataclasses import replace
from functools import partial

import pytest

from experiments.sweep.cell_times import CostEstimator
from experiments.sweep.engines import choose_by_rule
from experiments.sweep.plan import PackLimits, Plan
from experiments.sweep.plan import make_plan as plan_for
from experiments.sweep.store.tables import CellState
from experiments.sweep.types import VARIES_IN_PACK


def state(outcome: str, attempt: int = 1, seconds: float = 1.0) -> CellState:
    return CellState(outcome, attempt, seconds)


def make_plan(cells, states, retry, pack_cells=None, requested="serial", workers=2) -> Plan:
    def engines(groups):
        return choose_by_rule(groups, requested, {})

    return plan_for(cells, states, retry, engines, PackLimits(workers, pack_cells))


def planned_cells(plan):
    return [cell for pack in plan.packs for cell in pack.cells]


OUTCOMES = {
    "ok": "done",
    "diverged": "done",
    "error": "failed",
    "oom": "failed",
    "timeout": "failed",
    "killed": "interrupted",
    "node_fail": "interrupted",
    "cancelled": "interrupted",
}


@pytest.mark.parametrize(("outcome", "kind"), OUTCOMES.items())
def test_interrupted_cells_run_again_and_failed_do_not(cells_of, outcome, kind):
    cells = cells_of("seed=range(2)")
    plan = make_plan(cells, {cells[0].id: state(outcome, attempt=3)}, (), 16)
    assert plan.counts == {"done": 0, "missing": 1, "failed": 0, "interrupted": 0} | {kind: 1}
    again = {cell.cell_id: cell.attempt for cell in planned_cells(plan)}
    assert again == {cells[1].id: 1} | ({cells[0].id: 4} if kind == "interrupted" else {})
    assert plan.pending == len(again)


@pytest.mark.parametrize("outcome", ["error", "oom", "timeout"])
def test_retry_runs_only_the_named_outcomes(cells_of, outcome):
    cells = cells_of("seed=range(4)")
    ended = ["error", "oom", "timeout", "ok"]
    states = {cell.id: state(end) for cell, end in zip(cells, ended, strict=True)}
    plan = make_plan(cells, states, (outcome,), 16)
    assert [(t.cell_id, t.attempt) for t in planned_cells(plan)] == [
        (cells[ended.index(outcome)].id, 2)
    ]


def test_cells_of_a_pack_share_data_and_network(cells_of):
    cells = cells_of(
        "model=two_layer,plain", "init=zeros,he_normal", "optim.lr=0.1,0.2", "seed=0,1",
        "scaling=unit,raw", "activation=relu,tanh", "optim=sgd,adam",
    )  # fmt: skip
    plan = make_plan(cells, {}, (), 1000)
    assert len(plan.packs) == 2 * 2 * 2  # model, activation, optimizer
    for pack in plan.packs:
        kept = [{k: v for k, v in t.config.items() if k not in VARIES_IN_PACK} for t in pack.cells]
        assert len({str({k: v for k, v in k_.items() if k != "optim"}) for k_ in kept}) == 1
        assert len({k_["optim"]["_target_"] for k_ in kept}) == 1


@pytest.mark.parametrize(("most", "sizes"), [(3, [3, 3, 1]), (7, [7]), (1, [1] * 7)])
def test_pack_size_is_limited(cells_of, most, sizes):
    cells = cells_of("seed=range(7)")
    plan = make_plan(cells, {}, (), most)
    assert [len(pack.cells) for pack in plan.packs] == sizes
    assert [cell.cell_id for cell in planned_cells(plan)] == [cell.id for cell in cells]


def test_expected_time_is_the_median_of_similar_cells(cells_of):
    cells = cells_of("seed=range(5)")
    times = [1.0, 3.0, 100.0]
    states = {c.id: state("ok", seconds=s) for c, s in zip(cells, times, strict=False)}
    assert make_plan(cells, states, (), 16).expected_seconds == 2 * 3.0  # their median


def test_time_of_an_untimed_kind_is_its_estimate_scaled_by_timed_kinds(cells_of):
    cells = cells_of("model=two_layer,plain,mlp")
    estimates = [CostEstimator().seconds(cell.config) for cell in cells]
    # The measured times are 3 and 5 times as long as estimated; the median of two is their mean.
    states = {
        cell.id: state("ok", seconds=factor * estimate)
        for cell, factor, estimate in zip(cells, (3, 5), estimates, strict=False)
    }
    plan = make_plan(cells, states, (), 16)
    assert plan.times.scale == pytest.approx(4, rel=1e-12)
    assert plan.expected_seconds == pytest.approx(4 * estimates[2], rel=1e-12)
    assert not plan.times.all_measured


def test_without_timings_times_are_estimates(cells_of):
    cells = cells_of("model=two_layer,plain")
    plan = make_plan(cells, {}, (), 16)
    assert plan.expected_seconds == sum(CostEstimator().seconds(cell.config) for cell in cells)
    assert (plan.times.scale, plan.times.measured) == (None, frozenset())


def test_a_diverged_cell_measures_no_time(cells_of):
    cells = cells_of("seed=range(3)")
    states = {
        cells[0].id: state("diverged", seconds=1e-3),
        cells[1].id: state("ok", seconds=7.0),
    }
    assert make_plan(cells, states, (), 16).expected_seconds == 7.0


def test_pilot_is_one_cell_of_each_kind_that_has_not_run(cells_of):
    cells = cells_of("model=two_layer,plain,mlp", "seed=range(3)")
    plan = make_plan(cells, {cells[0].id: state("ok")}, (), 16)
    pilots = planned_cells(plan.pilot())
    assert {cell.config["model"]["_target_"] for cell in pilots} == {
        cells[3].config["model"]["_target_"],
        cells[6].config["model"]["_target_"],
    }
    assert len(pilots) == len(plan.pilot().packs) == 2


@pytest.mark.parametrize("outcome", ["diverged", "error", "timeout"])
def test_a_kind_with_an_ended_cell_gets_no_second_pilot(cells_of, outcome):
    cells = cells_of("seed=range(3)")
    assert make_plan(cells, {cells[0].id: state(outcome)}, (), 16).pilot().packs == ()


def test_a_kind_is_awaited_while_its_pilot_is_in_a_slurm_job(cells_of):
    cells = cells_of("seed=range(3)")

    def plan(states):
        rule = partial(choose_by_rule, requested="serial", recorded={})
        return plan_for(cells, states, (), rule, PackLimits(1), queued=[cells[0].id])

    assert (len(plan({}).awaited), plan({}).untried) == (1, ())
    assert plan({cells[1].id: state("ok")}).awaited == ()


def test_a_result_that_only_a_journal_has_is_awaited_while_its_job_runs(cells_of):
    cells = cells_of("seed=range(2)")
    done = {cell.id: replace(state("ok"), stored=False) for cell in cells}

    def counts(queued):
        rule = partial(choose_by_rule, requested="serial", recorded={})
        return plan_for(cells, done, (), rule, PackLimits(1), queued=queued).counts

    assert counts([cells[0].id])["queued"] == 1
    assert counts([])["done"] == 2


def test_plan_is_empty_when_all_cells_are_done(cells_of):
    cells = cells_of("seed=range(3)")
    plan = make_plan(cells, {cell.id: state("ok") for cell in cells}, ("error",), 16)
    assert (plan.packs, plan.pending, plan.expected_seconds) == ((), 0, 0.0)


def test_plan_mode_prints_axes_and_writes_nothing(plan_of, tmp_path, capsys):
    assert plan_of(["sweep=he_vs_glorot", "runner.pack_cells=16"]) == 0
    output = capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    for axis in ("activation", "init", "model", "optim.lr", "seed"):
        assert axis in output
    assert "he_vs_glorot: 120 cells: 0 done, 120 missing" in output
    # Packs share model and activation: 120 cells of 4 groups, 16 per pack.
    assert "Would run 120 cells in 8 packs" in output


def test_same_command_gives_the_same_folder(plan_of, capsys):
    names = []
    for arguments in (["seed=0,1", "optim.lr=1,2"], ["optim.lr=1,2", "seed=0,1"], ["seed=0,2"]):
        plan_of(arguments)
        names.append(capsys.readouterr().out.split(":")[0].splitlines()[-1].rpartition("-")[2])
    assert names[0] == names[1] != names[2]
