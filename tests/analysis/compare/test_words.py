"""What tells cells apart."""

from __future__ import annotations

from typing import Any

from analysis.compare.trials import label, words_of

CHOICES = {"data": "digits", "model": "mlp", "init": "he_normal", "optim": "sgd"}


def line(number: int, asked: dict[str, Any], **options: str) -> dict[str, Any]:
    config: dict[str, Any] = {"optim": {"lr": 0.1, "momentum": 0.0}, "init": {"gain": 1.0}}
    for key, value in asked.items():
        group, _, name = key.partition(".")
        if name:
            config.setdefault(group, {})[name] = value
    return {"cell_id": f"c{number}", "asked": asked, "choices": CHOICES | options, "config": config}


def test_only_what_varies_is_a_column() -> None:
    words = words_of([line(1, {"optim.lr": 0.1}), line(2, {"optim.lr": 0.2})])
    assert words.to_dict("list") == {"optim.lr": [0.1, 0.2]}
    assert list(words.index) == ["c1", "c2"]


def test_a_key_that_some_left_at_its_default_has_the_default_there() -> None:
    words = words_of([line(1, {}), line(2, {"optim.lr": 0.2})])
    assert words["optim.lr"].tolist() == [0.1, 0.2]


def test_a_key_is_an_options_own() -> None:
    normal = line(1, {"init.std": 0.01}, init="normal")
    other = line(2, {}, init="truncated_normal")
    other["config"]["init"]["std"] = 0.02  # its default, which nobody asked for
    words = words_of([normal, other])
    assert [label(row) for row in words.to_dict("records")] == [
        "normal std=0.01",
        "truncated_normal",
    ]


def test_where_data_lay_tells_nothing_apart() -> None:
    assert words_of([line(1, {"data.root": "/a"}), line(2, {"data.root": "/b"})]).columns.empty


def test_lists_and_mappings_are_told_too() -> None:
    words = words_of([line(1, {"init.layers": {"fc1": 2}, "probe.images": [0, 1]}), line(2, {})])
    assert words["init.layers.fc1"].tolist() == [2, ""]
    assert words["probe.images"].tolist() == ["[0, 1]", ""]
