"""The command `fanin`: list of commands, help, errors, completion, and imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fanin
from fanin.cli import ROOT, main
from fanin.commands import COMMANDS, COMMANDS_BY_TASK, examples

SCRIPT = ROOT / "tests" / "bin" / "fanin"
FANIN = [sys.executable, str(SCRIPT)]
TINY = (
    *("init=zeros,he_normal", "model=linear", "data.n_train=64", "train.steps=1"),
    *("probe=none", "runner=inline", "sweep.name=tiny"),
)
SLOW = ("torch", "seaborn", "pandas", "scipy")  # libraries that load slowly
# Print on stderr which of them a command has loaded when it ends.
LIST_SLOW = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *({set(SLOW)} & sys.modules.keys()), file=sys.stderr))
from fanin.cli import main
main()
"""


def run(
    *arguments: str, cwd: Path, command: list[str] = FANIN, **variables: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "100"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the finished sweep `tiny`; running it loads torch."""
    folder = tmp_path_factory.mktemp("finished")
    process = run("run", "-m", *TINY, cwd=folder, command=[sys.executable, "-c", LIST_SLOW])
    assert process.returncode == 0, process.stderr
    assert "torch" in process.stderr.rpartition("loaded:")[2]
    return folder


def test_fanin_without_arguments_lists_the_commands_by_task(tmp_path: Path) -> None:
    process = run(cwd=tmp_path)
    assert process.returncode == 0
    assert process.stdout == run("--help", cwd=tmp_path).stdout
    for task, commands in COMMANDS_BY_TASK.items():
        section = process.stdout.partition(f"\n{task}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == list(commands)


def test_the_version_is_that_of_fanin(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"fanin {fanin.__version__}\n"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fanin.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_two_examples(name: str, tmp_path: Path) -> None:
    assert len(COMMANDS[name].examples) == 2
    process = run(name, "--help", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    for line in examples(name).splitlines():
        assert line.split("   ")[0].strip() in process.stdout


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.is_hydra])
def test_flags_of_hydra_are_in_a_help_of_their_own(name: str, tmp_path: Path) -> None:
    flag, only_hydra = "--hydra-help", "--experimental-rerun"
    own, hydra = (run(name, option, cwd=tmp_path).stdout for option in ("--help", flag))
    assert flag in own
    assert only_hydra not in own
    assert only_hydra in hydra


@pytest.mark.parametrize(("typed", "nearest"), [("stauts", "status"), ("figure", "figures")])
def test_a_mistyped_command_names_the_nearest_one(
    typed: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"fanin {typed}: no such command; did you mean {nearest}?" in error_of([typed], capsys)


@pytest.mark.parametrize(
    ("command", "option", "nearest"),
    [
        ("status tiny", "--wach", "--watch"),
        ("compare tiny", "--withn=data", "--within"),
        ("diagnose module:model --batch batch.pt", "--optimiser=SGD", "--optimizer"),
    ],
)
def test_an_unknown_option_names_the_nearest_one(
    command: str, option: str, nearest: str, tmp_path: Path
) -> None:
    process = run(*command.split(), option, cwd=tmp_path)
    assert process.returncode == 2
    assert f"{option.partition('=')[0]}: no such option; did you mean {nearest}" in process.stderr


def test_an_unknown_key_names_the_nearest_dotted_key(tmp_path: Path) -> None:
    process = run("run", "lr=0.1", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("lr: no such key; did you mean optim.lr?")


def test_plan_is_run_with_mode_plan(tmp_path: Path) -> None:
    process = run("plan", "-m", *TINY, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "Would run 2 cells" in process.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["run", "plan"])
def test_a_grid_without_multirun_prints_the_command_to_type(name: str, tmp_path: Path) -> None:
    process = run(name, "init=zeros,he_normal", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.endswith(f" fanin {name} -m init=zeros,he_normal\n")


@pytest.mark.parametrize("arguments", ["--help", "run --help", "check --help"])
def test_head_causes_no_traceback(arguments: str, tmp_path: Path) -> None:
    """The reader closes the pipe before the command writes to it."""
    command = f"{sys.executable} {SCRIPT} {arguments} | true"
    assert run(command, cwd=tmp_path, command=["bash", "-c"]).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["run", "-m", *TINY], 0),
        (["status", "tiny"], 0),
        (["status"], 0),
        (["cancel", "tiny"], 0),
        *[([name, "nosuch"], 2) for name in ("check", "compare", "figures", "report", "status")],
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_quick_commands_load_no_slow_library(
    arguments: list[str], status: int, folder: Path
) -> None:
    process = run(*arguments, cwd=folder, command=[sys.executable, "-c", LIST_SLOW])
    assert process.returncode == status, process.stderr
    assert process.stderr.rpartition("loaded:")[2].strip() == ""


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("fanin st", ["status "]),
        ("fanin status ti", ["tiny "]),
        ("fanin check --ta", ["--tables "]),
        ("fanin drop ti", ["tiny "]),
        ("fanin export tiny --to par", ["parquet "]),
        ("fanin data fetch cifar", ["cifar10 ", "cifar100 "]),
        ("fanin run -m model=al", ["model=alexnet "]),
        ("fanin plan optim.l", ["optim.lr="]),
        ("fanin predict forma", ["format="]),
        ("fanin nosuch ", []),
    ],
)
def test_completion(line: str, candidates: list[str], folder: Path) -> None:
    process = run("--complete", line, cwd=folder)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == candidates


def test_bash_completes_the_part_after_the_equals_sign(tmp_path: Path) -> None:
    script = f"""
        fanin() {{ {sys.executable} {SCRIPT} "$@"; }}
        eval "$(fanin completion bash)"
        COMP_LINE='fanin run init=he_n'; COMP_POINT=${{#COMP_LINE}}
        _fanin
        printf '%s\\n' "${{COMPREPLY[@]}}"
        complete -p fanin
    """
    process = run(script, cwd=tmp_path, command=["bash", "-euc"])
    assert process.stdout.splitlines() == [
        "he_normal ",
        "complete -o default -o nospace -F _fanin fanin",
    ]


def test_another_package_of_the_same_name_is_reported(tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").touch()
    process = run("check", "x", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert process.returncode == 2
    assert process.stderr.startswith(f"{tmp_path}/analysis hides the package analysis of fanin")


def test_modules_in_the_current_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from fanin.inits import HeNormal\n")
    process = run("plan", "init=custom", "init._target_=own.HeNormal", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "1 missing" in process.stdout


def test_python_m_fanin_is_the_command(tmp_path: Path) -> None:
    process = run("--version", cwd=tmp_path, command=[sys.executable, "-m", "fanin"])
    assert process.stdout == f"fanin {fanin.__version__}\n"


def test_messages_and_pages_name_the_command_instead_of_its_module() -> None:
    modules = {f"python -m {command.module}" for command in COMMANDS.values()}
    sources = [
        path
        for folder in ("fanin", "experiments", "analysis", "conf", "docs", "results", "slurm")
        for pattern in ("*.py", "*.yaml", "*.html", "*.md")
        for path in (ROOT / folder).rglob(pattern)
    ]
    sources.append(ROOT / "README.md")
    assert len(sources) > 300
    wrong = [
        f"{path}: {line}"
        for path in sources
        for line in path.read_text().splitlines()
        for module in modules
        if f"{module} " in f"{line} " or f"{module}`" in line
    ]
    assert wrong == []
