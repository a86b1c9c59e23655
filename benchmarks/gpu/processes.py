"""Processes that train on one device at the same time."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch

from benchmarks.gpu.flags import Flags
from benchmarks.gpu.methods import Overrides, plain_loop

READY, WARM = "ready", "warm"  # messages of a process
DELAY = 0.02  # seconds until the common start, in which all processes receive its time
TIMEOUT = 60.0  # seconds without a message, in addition to those of the measurement


class Processes:
    """Processes that run `plain_loop` on one device in the same interval of time.

    Parameters
    ----------
    n_processes
        Number of processes. They start once, because `import torch` takes seconds, and are idle
        between the measurements.
    device
        Their device.
    """

    def __init__(self, n_processes: int, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        self._error: str | None = None
        for _ in range(n_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, str(device)), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process ends the pipe
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        """Wait until all processes are idle; a failure is raised by the measurements."""
        try:
            self._receive_all()
        except RuntimeError as error:
            self._error = str(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def __call__(self, overrides: Overrides, seconds: float, flags: Flags) -> tuple[float, Flags]:
        """Return the sum of the processes' rates, and the flags that they have used.

        All measure in the same interval, which starts when the last one has warmed up.

        Raises
        ------
        RuntimeError
            A process failed, ended, or does not answer.
        """
        if self._error is not None:
            raise RuntimeError(self._error)
        try:
            answers = self._measure((overrides, seconds, flags))
        except (RuntimeError, OSError) as error:
            self._error = str(error)  # a late answer would be taken for the next one
            raise RuntimeError(self._error) from error
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(answer)
        (used,) = {answer[1] for answer in answers}
        return sum(answer[0] for answer in answers), used

    def _measure(self, request: tuple[Overrides, float, Flags]) -> list[Any]:
        """Return a rate and flags from each process, or messages of errors."""
        for pipe in self._pipes:
            pipe.send(request)
        states = self._receive_all()
        errors = [state for state in states if state != WARM]
        start = None if errors else time.monotonic() + DELAY
        warm = [pipe for pipe, state in zip(self._pipes, states, strict=True) if state == WARM]
        for pipe in warm:
            pipe.send(start)
        answers = [_receive(pipe, request[1] + TIMEOUT) for pipe in warm]
        return errors or answers

    def _receive_all(self) -> list[Any]:
        return [_receive(pipe, TIMEOUT) for pipe in self._pipes]


def _receive(pipe: Connection, timeout: float) -> Any:
    try:
        if pipe.poll(timeout):
            return pipe.recv()
    except EOFError:
        raise RuntimeError("a process has ended") from None
    raise RuntimeError(f"a process has not answered for {timeout:.0f} s")


def _serve(pipe: Connection, device_name: str) -> None:
    """Answer requests with a rate and the flags, or with the message of an error."""
    device = torch.device(device_name)
    torch.set_num_threads(1)
    torch.zeros(1, device=device)  # starts the driver
    pipe.send(READY)

    def start() -> float:
        pipe.send(WARM)
        at: float | None = pipe.recv()
        if at is None:
            raise RuntimeError("another process failed")
        time.sleep(max(0.0, at - time.monotonic()))
        return at

    while True:
        overrides, seconds, flags = pipe.recv()
        answer: Any
        try:
            flags.set()
            answer = plain_loop(overrides, device, seconds, start), Flags.current()
        except Exception as error:  # an out-of-memory error, for example
            answer = f"{type(error).__name__}: {error}"
        pipe.send(answer)
