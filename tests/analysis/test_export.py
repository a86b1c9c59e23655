"""`fanin export` writes the tables of the last request, complete and readable by other tools."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from small_sweep import run_sweep

from analysis import Results, load
from analysis.export.__main__ import main
from analysis.export.tables import export_tables, with_labels
from analysis.export.tensorboard import run_names, trained_network
from experiments.sweep.store.paths import TABLES
from fanin.probes.measure import WHOLE_NETWORK

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run 2 inits x 2 seeds on digits with histograms, and before it one other cell."""
    root = tmp_path_factory.mktemp("export")
    small = ("model=mlp", "model.width=8", "model.depth=2", "probe.histograms=true")
    run_sweep(root, "s", *small, "init=zeros")
    run_sweep(root, "s", *small, "init=he_normal,xavier_normal", "seed=0,1")
    with pytest.warns(match="left out 1 cell"):
        return load("s", root)


def export(sweep: Results, *arguments: str) -> None:
    main(["s", "--results", str(sweep.folder.root.parent), *arguments])


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_the_files_have_the_content_of_the_tables(
    sweep: Results, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    export(sweep, "--to", name)
    captured = capsys.readouterr()
    assert "left out 1 cell" in captured.err
    folder = sweep.folder.root / "export" / name
    written = [t for t in TABLES if not getattr(sweep, t).empty]
    assert set(written) == {"cells", "layers", "histograms", "curves"}
    assert captured.out.splitlines() == [str(folder / f"{table}.{name}") for table in written]
    for table in written:
        path = folder / f"{table}.{name}"
        read = pd.read_csv(path) if name == "csv" else pd.read_parquet(path)
        expected = with_labels(sweep) if table == "cells" else getattr(sweep, table)
        assert list(read.columns) == list(expected.columns)
        assert len(read) == len(expected)
        for column in ("cell_id", "value", "quantity", "step", "test_accuracy", "label", "seed"):
            if column in expected:
                assert read[column].tolist() == expected[column].tolist(), column


def test_labels_name_the_varied_values(sweep: Results) -> None:
    assert with_labels(sweep).set_index("cell_id").label.to_dict() == {
        cell: f"{init} seed={seed}"
        for cell, init, seed in sweep.cells[["cell_id", "init", "seed"]].itertuples(index=False)
    }


def test_all_exports_every_request(sweep: Results, tmp_path: Path) -> None:
    export(sweep, "--to", "csv", "--all", "--output", str(tmp_path / "out"))
    cells = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert sorted(cells.init.unique()) == ["he_normal", "xavier_normal", "zeros"]


def test_a_later_export_leaves_no_old_table(sweep: Results, tmp_path: Path) -> None:
    (tmp_path / "tensors.csv").write_text("from an earlier export")
    paths = export_tables(sweep, "csv", tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_tensorboard_that_is_not_installed_is_an_error_that_says_what_to_install(
    sweep: Results, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SystemExit) as ended:
        export(sweep, "--to", "tensorboard", "--output", "/nowhere")
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "pip install 'tensorboard>=2.16'" in err
    assert "tensorboard>=2.16" in (ROOT / "pyproject.toml").read_text()


def test_tensorboard_runs_have_curves_layers_and_final_metrics(
    sweep: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second export replaces the first
        export(sweep, "--to", "tensorboard", "--output", str(tmp_path))
    assert f"tensorboard --logdir {tmp_path}" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == set(with_labels(sweep).label)
    chosen = with_labels(sweep).set_index("label").loc["he_normal seed=1"]
    events = EventAccumulator(str(tmp_path / "he_normal seed=1"), size_guidance={"scalars": 0})
    events.Reload()

    def series(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(tag)]

    def stored(table: pd.DataFrame) -> list[tuple[int, float]]:
        rows = table[table.cell_id == chosen.cell_id].sort_values("step")
        return [as_float32(step, value) for step, value in zip(rows.step, rows.value, strict=True)]

    def as_float32(step: int, value: float) -> tuple[int, object]:
        return int(step), pytest.approx(value, rel=2**-23)  # TensorBoard stores float32

    curves, layers = sweep.curves, sweep.layers
    assert series("curves/train_loss") == stored(curves[curves.metric == "train_loss"])
    first = layers[(layers.draw == 0) & (layers.layer == 1) & (layers.quantity == "preact_m2")]
    name = first.layer_name.iloc[0]
    assert series(f"preact_m2/01_{name}") == stored(first[first.image == -1])
    (final,) = series("final/test_accuracy")
    assert final == as_float32(curves.step.max(), chosen.test_accuracy)


def test_trained_network_has_one_value_per_layer_quantity_and_step(sweep: Results) -> None:
    rows = trained_network(sweep.layers)
    assert not rows.duplicated(["cell_id", "quantity", "layer", "step"]).any()
    assert set(rows.draw) == {0}
    every = sweep.layers[["cell_id", "quantity", "layer", "step"]].drop_duplicates()
    in_draw_0 = sweep.layers[sweep.layers.draw == 0][every.columns].drop_duplicates()
    assert len(rows) == len(in_draw_0)
    assert (rows.layer == WHOLE_NETWORK).any() or WHOLE_NETWORK not in set(sweep.layers.layer)


def test_cells_with_the_same_label_get_runs_of_their_own() -> None:
    cells = pd.DataFrame({"cell_id": ["a", "b", "c"], "label": ["x", "x", "f=a/b"]})
    assert run_names(cells) == ["x a", "x b", "f=a_b"]


def recipe(language: str) -> str:
    """Return the block of docs/sweeps.md that queries exported Parquet files."""
    text = (ROOT / "docs" / "sweeps.md").read_text()
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.S)
    (block,) = (block for block in blocks if "export/parquet" in block)
    return block


def test_the_recipes_of_the_docs_agree(
    sweep: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_tables(sweep, "parquet", tmp_path / "results" / "lr" / "export" / "parquet")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(recipe("python"), scope)
    means = scope["means"]
    assert isinstance(means, pd.Series)
    losses = sweep.curves[sweep.curves.metric == "train_loss"]
    (rate,) = set(sweep.cells["optim.lr"])
    assert means.to_dict() == pytest.approx(
        {(rate, step): losses.value[losses.step == step].mean() for step in range(3)}
    )
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(recipe("sql")).fetchall()
    assert [(lr, step) for lr, step, _ in rows] == list(means.index)
    assert [value for *_, value in rows] == pytest.approx(means.tolist(), rel=1e-12)
