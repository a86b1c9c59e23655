"""The command `fanin`: lists the commands, or starts the module of a command.

Modules are started by name, so this package does not import `experiments` or `analysis`.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fanin import __version__
from fanin.commands import COMMANDS, COMMANDS_BY_TASK, PROGRAM, Command
from fanin.completion import SHELLS, completion_script, print_candidates
from fanin.errors import FaninError, suggest

ROOT = Path(__file__).resolve().parents[1]
USAGE_ERROR = 2  # exit status
HELP_FLAGS = ("-h", "--help")
HYDRA_HELP = "--hydra-help"
CLONE = """\
`fanin {name}` needs the benchmark suite, which is not part of the installed package. Clone it:

  git clone {url} fanin
  cd fanin && make setup && source .venv/bin/activate"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command of `fanin`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or any(flag in arguments for flag in (*HELP_FLAGS, HYDRA_HELP, "--version")):
        # If the output is piped to a program that ends first (`| head`), end without a traceback.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    name, *rest = arguments or HELP_FLAGS[:1]
    try:
        if name in HELP_FLAGS:
            print(overview())
        elif name == "--version":
            print(f"{PROGRAM} {__version__}")
        elif name == "completion":
            print(completion_script(rest[0] if rest else ""))
        elif name == "--complete":
            print_candidates(rest[0], start)
        else:
            start(name, rest)
    except FaninError as error:
        print(error, file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None


def start(name: str, arguments: Sequence[str]) -> None:
    """Run the module of a command in this process.

    Raises
    ------
    FaninError
        There is no such command, or its module is not installed.
    """
    if name not in COMMANDS:
        raise FaninError(f"{PROGRAM} {name}: no such command; {suggest(name, COMMANDS, n=1)}")
    command = COMMANDS[name]
    _check_suite(name, command)
    sys.path.append(str(Path.cwd()))  # for the user's own modules, as with `python -m`
    # Hydra rejects overrides of the config beside the flag.
    is_hydra_help = command.is_hydra and HYDRA_HELP in arguments
    sys.argv[1:] = [HYDRA_HELP] if is_hydra_help else [*command.first, *arguments, *command.last]
    runpy.run_module(command.module, run_name="__main__", alter_sys=True)


def _check_suite(name: str, command: Command) -> None:
    if command.package == __package__:
        return  # part of the installed package
    if not (ROOT / "conf" / "config.yaml").is_file():
        raise FaninError(CLONE.format(name=name, url=_repository_url()))
    spec = find_spec(command.package)
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is None:
        raise FaninError(f"{ROOT} is not on Python's search path; run `make setup` in it")
    if origin.resolve().parents[1] != ROOT:
        raise FaninError(
            f"{origin.parent} hides the package {command.package} of fanin; remove "
            f"{origin.parents[1]} from PYTHONPATH, or run `{PROGRAM}` in another folder"
        )
    if find_spec("hydra") is None:
        raise FaninError(
            f"the benchmark suite's dependencies are not installed; run `make setup` in {ROOT}"
        )


def _repository_url() -> str:
    """Return the URL of the repository in the package's metadata, or a placeholder."""
    from importlib.metadata import PackageNotFoundError, metadata  # loads slowly

    try:
        urls = metadata("fanin").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    labelled = dict(url.split(", ", 1) for url in urls)
    return str(labelled.get("Repository", "REPOSITORY_URL"))


def overview() -> str:
    """Return the list of commands by task."""
    width = max(map(len, COMMANDS))
    lines = [
        f"usage: {PROGRAM} COMMAND ...",
        "",
        "Predict the effect of a weight initialization on each layer of a network, and test it in",
        "experiments.",
    ]
    for task, commands in COMMANDS_BY_TASK.items():
        lines += ["", f"{task}:"]
        lines += [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` lists the options of a command, with examples.",
            f"`{PROGRAM} --version` prints the version; `{PROGRAM} completion {'|'.join(SHELLS)}` "
            "prints a script for",
            f'shell completion (add `eval "$({PROGRAM} completion bash)"` to ~/.bashrc).',
        ]
    )
