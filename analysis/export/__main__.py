"""Export a sweep for other tools: `fanin export NAME --to csv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.cli import add_sweep_arguments
from analysis.folder import sweep_folder
from analysis.load import load
from experiments.console import exit_on_error
from experiments.sweep.status.format import plural
from fanin.errors import FaninError
from fanin.parser import CommandParser

TENSORBOARD = "tensorboard"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files and print where they are."""
    args = _parser().parse_args(argv)
    with exit_on_error(OSError):
        folder = sweep_folder(args.name, args.results)
        output = Path(args.output or folder.root / "export" / args.to)
        if args.to == TENSORBOARD:
            from analysis.export.tensorboard import require_tensorboard  # loads slowly

            require_tensorboard()
        results = load(args.name, args.results, all=args.all)
        if results.cells.empty:
            raise FaninError(f"{folder.root}: no cell has finished yet; there is nothing to export")
        if args.to == TENSORBOARD:
            from analysis.export.tensorboard import export_runs

            runs = export_runs(results, output)
            print(f"{plural(len(runs), 'run')} in {output}/; view: tensorboard --logdir {output}")
        else:
            from analysis.export.tables import export_tables

            print(*export_tables(results, args.to, output), sep="\n")


def _parser() -> CommandParser:
    parser = CommandParser(
        "export",
        description="Export a sweep for other tools. csv and parquet: one file per table (cells, "
        "layers, curves, ...) with the latest attempt of each cell. tensorboard: one run per cell "
        "with its training curves, the quantities of each layer of the trained network, and its "
        "final metrics.",
        epilog="An earlier export to the same folder is replaced.",
    )
    add_sweep_arguments(parser)
    parser.add_argument(
        "--to",
        required=True,
        choices=(TENSORBOARD, "csv", "parquet"),
        help="format; tensorboard needs the package tensorboard",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder of the files (default: results/NAME/export/FORMAT)",
    )
    return parser


if __name__ == "__main__":
    main()
