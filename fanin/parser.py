"""Parser of a command's arguments, with examples in its help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fanin.commands import command_line, examples
from fanin.completion import COMPLETE
from fanin.errors import suggest


class CommandParser(argparse.ArgumentParser):
    """Parser of a command of `fanin`.

    Parameters
    ----------
    name
        Name of the command in `fanin.commands.COMMANDS`; its examples end the help.
    description, epilog
        Texts before and after the options.
    """

    def __init__(self, name: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=command_line(name),
            description=description,
            epilog=f"{epilog}\n\nExamples:\n{examples(name)}".lstrip(),
            formatter_class=_HelpFormatter,
        )

    def parse_args(  # type: ignore[override]  # without argparse's overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse the arguments; if the shell asks for completions, print them and exit."""
        if COMPLETE in os.environ:
            print(*self._completions(), sep="\n")
            raise SystemExit(0)
        parsed, unknown = self.parse_known_args(args, namespace)
        for text in unknown:
            if text.startswith("-"):
                option = text.partition("=")[0]
                options = [n for a in self._actions for n in a.option_strings if n.startswith("--")]
                self.error(f"{option}: no such option; {suggest(option, options)}")
        if unknown:
            self.error(f"unexpected arguments: {' '.join(unknown)}")
        return parsed

    def _completions(self) -> Iterator[str]:
        """Yield all options, the choices of arguments, and the names of sweeps."""
        for action in self._actions:
            yield from action.option_strings
            yield from action.choices or ()
            if action.dest == "name":
                yield from (path.parent.name for path in Path("results").glob("*/cells.jsonl"))


class _HelpFormatter(argparse.HelpFormatter):
    """Formatter that wraps each line of a text by itself and keeps indented lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        wrap = super()._fill_text
        return "\n".join(
            line if line.startswith(" ") else wrap(line, width, indent)
            for line in text.splitlines()
        )
