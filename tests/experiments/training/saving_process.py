"""Process that runs one cell, writes each step's number, and saves a checkpoint after each step.

Arguments: a folder, the name of the file of step numbers, and the cell's config as JSON.
"""

import json
import os
import sys
from pathlib import Path

import torch
from parts import bits
from torch import Tensor

from experiments.cell import run_cell
from experiments.sweep.worker.limits import prepare_torch
from experiments.training.checkpoint import Checkpointer
from experiments.training.engines import SerialEngine


def main(folder: Path, name: str, config: dict) -> None:
    prepare_torch()
    step = SerialEngine.step
    steps = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def recording_step(engine: SerialEngine, number: int) -> Tensor:
        os.write(steps, f"{number}\n".encode())
        return step(engine, number)

    SerialEngine.step = recording_step
    checkpointer = Checkpointer(folder / "checkpoint", every=0)
    result = run_cell(config, torch.device("cpu"), checkpointer=checkpointer)
    (folder / f"{name}-bits").write_text(bits(result))
    errors = {"load_error": checkpointer.load_error, "save_error": checkpointer.save_error}
    print(json.dumps(errors))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
