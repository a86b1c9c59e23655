"""Command `fanin figures NAME`: draw a sweep's figures as PDF, SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.cli import add_sweep_arguments
from analysis.folder import sweep_folder
from analysis.load import load
from experiments.console import BrokenPipeConsole, exit_on_error
from fanin.parser import CommandParser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw a sweep's figures into its folder and print which published claims hold."""
    parser = CommandParser(
        "figures",
        description="Draw a sweep's figures as PDF, SVG and PNG. For a sweep with a source: write "
        "the caption and print which claims hold.",
    )
    add_sweep_arguments(parser)
    args = parser.parse_args(argv)
    console = BrokenPipeConsole(soft_wrap=True, markup=False, highlight=False)
    with exit_on_error(OSError):
        sweep_folder(args.name, args.results)
        # Imported here because it loads torch and seaborn, which takes seconds.
        from analysis.figures.output import draw_figures

        draw_figures(load(args.name, args.results, all=args.all), console)


if __name__ == "__main__":
    main()
