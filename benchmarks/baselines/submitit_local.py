"""The cells of `baselines/mnist.py` as submitit jobs on this machine, one job per core.

submitit's documentation recommends `AutoExecutor` for all clusters and `FunctionSequence` to run
several functions in one job. Its local executor starts every submitted job at once, so one job per
cell would start as many processes as there are cells.
"""

from __future__ import annotations

from pathlib import Path

from submitit import AutoExecutor
from submitit.helpers import FunctionSequence

from benchmarks.baselines import grid_arguments
from benchmarks.baselines.mnist import train


def main() -> None:
    """Train a grid of inits, learning rates and seeds; print the mean accuracy."""
    parser = grid_arguments.parser(main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of submitit's files")
    args = parser.parse_args()
    sequences = [FunctionSequence() for _ in range(args.workers)]
    for number, cell in enumerate(grid_arguments.cells(args)):
        sizes = (args.root, args.n_train, args.n_test, args.channels, args.batch_size)
        sequences[number % len(sequences)].add(train, *sizes, *cell)
    executor = AutoExecutor(args.folder, cluster="local")
    executor.update_parameters(timeout_min=60, local_setup=["export OMP_NUM_THREADS=1"])
    jobs = [executor.submit(sequence) for sequence in sequences]
    accuracies = [accuracy for job in jobs for accuracy in job.result()]
    print(f"accuracy {sum(accuracies) / len(accuracies):.4f} of {len(accuracies)}")


if __name__ == "__main__":
    main()
