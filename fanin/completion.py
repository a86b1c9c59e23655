"""Shell completion of `fanin`.

The shell calls `fanin --complete LINE`. The candidates of a command come from the command itself:
Hydra's completion for `run`, `plan` and `predict`; otherwise the command's parser prints them,
because the environment variable `COMPLETE` is set.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress

from fanin.commands import COMMANDS
from fanin.errors import FaninError, suggest

COMPLETE = "_FANIN_COMPLETE"  # environment variable: print completion candidates, then exit
HYDRA_FLAGS = ("--help", "--multirun", "--cfg", "--config-dir", "--config-name", "--info")
CONTINUED = ("=", ".", "/")  # ends of candidates that the user continues to type

BASH = """\
_fanin() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" prefix=""
    local word="${line##* }"
    # If COMP_WORDBREAKS contains "=" (bash's default), bash completes only the part after the "=".
    [[ $COMP_WORDBREAKS == *=* ]] && prefix="${word%"${word##*=}"}"
    COMPREPLY=($(fanin --complete "$line" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -o nospace -o default -F _fanin fanin"""
SHELLS = {"bash": BASH, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{BASH}"}

Start = Callable[[str, Sequence[str]], None]
"""Function that runs a command: its name and arguments."""


def completion_script(shell: str) -> str:
    """Return the script that enables completion in a shell.

    Raises
    ------
    FaninError
        The shell is not supported.
    """
    if shell not in SHELLS:
        raise FaninError(f"completion {shell}: no such shell; {suggest(shell, SHELLS)}")
    return SHELLS[shell]


def print_candidates(line: str, start: Start) -> None:
    """Print the candidates for the last word of a command line, one per line.

    Parameters
    ----------
    line
        Command line up to the cursor.
    start
        Function that runs a command.
    """
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    if len(words) <= 2:
        candidates = [*COMMANDS, "completion", "--help", "--version"]
    elif words[1] == "completion":
        candidates = list(SHELLS)
    elif words[1] in COMMANDS:
        candidates = _candidates(words, start)
    else:
        candidates = []
    for candidate in candidates:
        if candidate.startswith(words[-1]):
            print(candidate if candidate.endswith(CONTINUED) else f"{candidate} ")


def _candidates(words: Sequence[str], start: Start) -> list[str]:
    """Run a command so that it prints its candidates."""
    name, arguments = words[1], []
    if COMMANDS[name].is_hydra:
        if words[-1].startswith("-"):
            return list(HYDRA_FLAGS)
        os.environ["COMP_LINE"] = " ".join(words[1:])  # Hydra removes the first word
        arguments = ["--shell-completion", "query=bash"]
    os.environ[COMPLETE] = "1"
    output = io.StringIO()
    with suppress(SystemExit, Exception), redirect_stdout(output), redirect_stderr(io.StringIO()):
        start(name, arguments)
    return output.getvalue().split()
