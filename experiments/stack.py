"""Run several cells as one program: draws and evaluation one by one, training together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from experiments.cell import Begun, begin, finish
from experiments.result import CellResult
from experiments.training.loop import OnLook, Trained, train_stacked

# An init scheme or a network of the user's may do anything, `sys.exit` too. A real Ctrl-C is the
# launcher's, for which it is something else (`Interrupted`).
FAILURES = (Exception, SystemExit, KeyboardInterrupt)
Ended = tuple[int, CellResult | BaseException]


def run_stack(
    configs: Sequence[Mapping[str, Any]],
    device: torch.device,
    on_look: OnLook = lambda done, total: None,
) -> Iterator[Ended]:
    """Measure and train what coerced configs describe, as one program.

    A cell's result does not depend on the cells beside it. Where training fails as a whole (the
    device's memory is full, say) the stack is halved, until what fails is one cell.

    Parameters
    ----------
    configs
        Configs that `experiments.training.stackable.why_serial` has nothing against, alike in all
        but init, scaling, seeds and the optimizer's numbers.
    device, on_look
        As for `run_cell`.

    Yields
    ------
    tuple
        Index in `configs`, and the cell's result or what it raised, as each one ends.
    """
    begun: dict[int, Begun] = {}
    for index, config in enumerate(configs):
        try:
            begun[index] = begin(config, device, on_look)
        except FAILURES as error:
            yield index, error
    if begun:
        yield from _train(begun, device, on_look)


def _train(begun: Mapping[int, Begun], device: torch.device, on_look: OnLook) -> Iterator[Ended]:
    indices = list(begun)
    left = set(indices)
    training = train_stacked([begun[index].member() for index in indices], on_look)
    while left:
        try:
            place, trained = next(training)
        except FAILURES as error:
            if len(left) == 1:
                yield left.pop(), error
                return
            break
        index = indices[place]
        left.remove(index)
        yield index, _finished(begun[index], trained)
    rest = sorted(left)
    for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
        if half:  # from the start: what was measured on the way is measured again
            configs = [begun[index].config for index in half]
            for place, result in run_stack(configs, device, on_look):
                yield half[place], result


def _finished(begun: Begun, trained: Trained) -> CellResult | BaseException:
    try:
        return finish(begun, trained)
    except FAILURES as error:
        return error
