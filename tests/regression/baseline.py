"""Record the results of the code, and compare two recordings cell by cell.

    python tests/regression/baseline.py record FOLDER --repo DIR    about two minutes on one core
    python tests/regression/baseline.py compare OLD NEW             exit status 1 if they differ

`record` runs the public commands of the checkout DIR. It trains about 140 tiny cells with every
option of conf/ (`conf/sweep/regression_*.yaml` beside this file) and both engines, checks one sweep
against theory, and computes a dozen predictions and two certificates. It writes all tables to
FOLDER as Parquet files, under SWEEP/TABLE/. Verdicts, predictions and certificates are in the table
`documents`, one row per number. If FANIN_DATA is set, it also trains on MNIST and CIFAR-10.

`compare` matches cells by their config instead of their id, and ignores the module of a `_target_`.
Intended renames are listed in RENAMES (`compare_recordings.py`) or given as `--rename OLD=NEW`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from compare_recordings import IGNORED, RENAMES, compare, report

HERE = Path(__file__).resolve().parent
SWEEPS = {
    "regression_serial": ("engine=serial", "runner=inline"),
    "regression_stacked": ("engine=stacked", "runner=local", "runner.workers=1"),
    "regression_checked": ("engine=serial", "runner=inline"),
}
IMAGES = "regression_images"  # needs FANIN_DATA
PREDICTIONS = (
    "model=mlp model.width=16",
    "model=mlp model.width=16 activation=tanh init=xavier_normal init.bias=0.1",
    "model=mlp model.width=16 init=uniform loss=mse head=tanh",
    "model=mlp model.width=16 activation=maxout init=orthogonal",
    "model=mlp model.width=12 model.norm=layer activation=gelu",
    "model=plain model.depth=3 model.width=6 init=pytorch_default",
    "model=plain model.depth=3 model.width=6 model.norm=batch model.padding_mode=circular",
    "model=two_layer model.channels=6 activation=erf measure=4",
    "model=two_layer model.channels=6 init=uniform init.b=0.2 scaling=raw data=shapes",
    "model=alexnet model.width=6 model.dense=8 model.dropout=0.3 data.side=16 init=lecun_normal",
    "model=fitnet4 model.width=2 activation=selu init=truncated_normal init.std=0.3",
    "model=linear loss=bce scaling=unit",
)
TINY = ("data.side=8", "data.n_train=64", "data.n_test=32", "images=2", "format=json")
CERTIFY = """
import inspect, json, os, sys
from importlib import import_module
from importlib.util import find_spec
# Remove other checkouts from the path; an editable install may have added one.
own = ("", os.getcwd())
sys.path = [p for p in sys.path if p in own or not os.path.isdir(os.path.join(p, "experiments"))]
import torch
from torch import nn

def first(name, *modules):
    for module in modules:
        if find_spec(module.partition(".")[0]) and find_spec(module):
            if hasattr(import_module(module), name):
                return getattr(import_module(module), name)
    raise ImportError(f"{name}: in none of {modules}")

certify = first("certify", "fanin", "fanin.theory", "analysis.theory")
HeNormal, Uniform = (first(name, "fanin.inits", "experiments.inits")
                     for name in ("HeNormal", "Uniform"))
assert inspect.getfile(certify).startswith(os.getcwd()), "another checkout's certify"
images = torch.linspace(-1, 2, 128, dtype=torch.float64).reshape(2, 1, 8, 8)
dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 5))
conv = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                     nn.Linear(96, 5))
labels = torch.tensor([0, 1])
print(json.dumps({
    "dense": certify(dense, images, init=HeNormal(), measure=4).as_dict(),
    "conv": certify(conv, images, init=Uniform(-0.1, 0.2), labels=labels, loss="mse",
                    sharpness=True).as_dict(),
}))
"""


class Checkout:
    """A checkout of the repository; its commands run on one thread."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo.resolve()
        path = os.pathsep.join(map(str, (self.repo, HERE)))  # HERE: custom_init
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.env = {**os.environ, "PYTHONPATH": path, **one_thread}

    def python(self, *arguments: str, may_fail: bool = False) -> str:
        """Run `python ARGUMENTS` and return its output; `may_fail` allows exit status 1."""
        command = [sys.executable, *arguments]
        process = subprocess.run(
            command, cwd=self.repo, env=self.env, capture_output=True, text=True
        )
        crashed = "Traceback (most recent call last)" in process.stderr
        if crashed or process.returncode not in ((0, 1) if may_fail else (0,)):
            status = f"exit status {process.returncode}"
            raise SystemExit(f"{' '.join(command)}: {status}\n{process.stderr}")
        return process.stdout


def record(folder: Path, repo: Path) -> None:
    """Run all commands and write their tables to a new folder."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder}: not empty; give a new folder")
    checkout, results = Checkout(repo), folder.resolve()
    sweeps = dict(SWEEPS)
    data_root = os.environ.get("FANIN_DATA")
    if data_root:
        sweeps[IMAGES] = ("runner=inline", f"data.root={data_root}")
    start = ("-m", "experiments.run", "--config-dir", str(HERE / "conf"), "-m")
    for name, overrides in sweeps.items():
        # The exit status may be 1, because one cell fails on purpose.
        destination = (f"sweep={name}", f"sweep.results={results}")
        checkout.python(*start, *destination, *overrides, may_fail=True)
    table = results / "verdicts.csv"
    flags = ("--results", str(results), "--csv", str(table))
    # The exit status is 1 if theory disagrees in any layer.
    checkout.python("-m", "analysis.check", "regression_checked", *flags, may_fail=True)
    verdicts = pd.read_csv(table).to_dict("records")
    write_documents(results / "check", {"verdicts": verdicts})
    predict = ("-m", "analysis.predict")
    write_documents(
        results / "predict",
        {
            command: json.loads(checkout.python(*predict, *with_tiny(command)))
            for command in PREDICTIONS
        },
    )
    record_certificates(checkout, results)


def record_certificates(checkout: Checkout, results: Path) -> None:
    """Certify two hand-built networks."""
    write_documents(results / "certify", json.loads(checkout.python("-c", CERTIFY)))


def with_tiny(command: str) -> list[str]:
    """Return the overrides of TINY and of a command; those of the command take precedence."""
    return list({text.partition("=")[0]: text for text in (*TINY, *command.split())}.values())


def write_documents(folder: Path, documents: Mapping[str, Any]) -> None:
    """Write JSON documents as a table with one row per leaf."""
    rows = [(name, *leaf) for name, document in documents.items() for leaf in leaves(document)]
    frame = pd.DataFrame(rows, columns=["document", "path", "value"])
    (folder / "documents").mkdir(parents=True)
    frame.to_parquet(folder / "documents" / "documents.parquet")


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and text of every leaf, except cell ids."""
    if isinstance(document, Mapping | list):
        entries = document.items() if isinstance(document, Mapping) else enumerate(document)
        for key, entry in entries:
            if key not in IGNORED:
                yield from leaves(entry, f"{path}/{key}" if path else str(key))
    else:
        yield path, document if isinstance(document, str) else json.dumps(document)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand `record` or `compare`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run all commands and record the results")
    recording.add_argument("folder", type=Path, help="a new folder")
    recording.add_argument("--repo", type=Path, default=HERE.parents[1], help="checkout to run")
    comparing = commands.add_parser("compare", help="compare two recordings")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="in addition to RENAMES"
    )
    arguments = parser.parse_args(argv)
    if arguments.command == "record":
        started = time.monotonic()
        record(arguments.folder, arguments.repo)
        cpu = os.times()
        print(
            f"{arguments.folder}: recorded in {time.monotonic() - started:.0f} s "
            f"({cpu.children_user + cpu.children_system:.0f} s of one core)"
        )
        return
    for rename in arguments.rename:
        if "=" not in rename:
            parser.error(f"--rename {rename}: expected OLD=NEW")
    extra = dict(rename.split("=", 1) for rename in arguments.rename)
    comparisons = compare(arguments.old, arguments.new, {**RENAMES, **extra})
    print(report(comparisons))
    if any(comparison.mismatches for comparison in comparisons.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
