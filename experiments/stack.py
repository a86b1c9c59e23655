"""Run several cells as one program: draws and evaluation one by one, training together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from experiments.begun import Begun
from experiments.cell import begin, finish
from experiments.result import CellResult
from experiments.training.checkpoint import Keeper, Stopped
from experiments.training.loop import OnLook, train_stacked
from experiments.training.trained import Trained

# An init scheme or a network of the user's may do anything, `sys.exit` too. A real Ctrl-C is the
# launcher's, for which it is something else (`Interrupted`).
FAILURES = (Exception, SystemExit, KeyboardInterrupt)
Ended = tuple[int, CellResult | BaseException]


def run_stack(
    configs: Sequence[Mapping[str, Any]],
    device: torch.device,
    on_look: OnLook = lambda done, total: None,
    keepers: Sequence[Keeper] | None = None,
) -> Iterator[Ended]:
    """Measure and train what coerced configs describe, as one program.

    A cell's result does not depend on the cells beside it. Where training fails as a whole (the
    device's memory is full, say) the stack is halved, until what fails is one cell. Each goes on
    from what it has kept, if anything; cells that are at different steps (their process died while
    they were being kept) train as a stack for each.

    Parameters
    ----------
    configs
        Configs that `experiments.training.stackable.why_serial` has nothing against, alike in all
        but init, scaling, seeds and the optimizer's numbers.
    device, on_look
        As for `run_cell`.
    keepers
        One a cell, as for `run_cell`; alike in `every` and `stop`.

    Yields
    ------
    tuple
        Index in `configs`, and the cell's result or what it raised, as each one ends.

    Raises
    ------
    Stopped
        The keepers' `stop` said so; cells that were yet to be yielded have kept how far they were.
    """
    begun: dict[int, Begun] = {}
    for index, config in enumerate(configs):
        keeper = None if keepers is None else keepers[index]
        try:
            begun[index] = begin(config, device, on_look, keeper, engine="stacked")
        except FAILURES as error:
            yield index, error
        except Stopped:
            for other in begun.values():
                other.keep(other.progress)
            raise
    for step in sorted({one.step for one in begun.values()}, reverse=True):
        group = {index: one for index, one in begun.items() if one.step == step}
        yield from _train(group, device, on_look)


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
        if half:  # from what was kept: what was measured since is measured again
            configs = [begun[index].config for index in half]
            keepers = [keeper for index in half if (keeper := begun[index].keeper) is not None]
            for place, result in run_stack(configs, device, on_look, keepers or None):
                yield half[place], result


def _finished(begun: Begun, trained: Trained) -> CellResult | BaseException:
    try:
        return finish(begun, trained)
    except FAILURES as error:
        return error
