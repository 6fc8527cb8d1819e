"""Processes that train at once, whenever they are told to; they load no more than that takes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from experiments.studies.image_shapes import random_images
from lpc.specs import Precision, RunSpec
from lpc.training import trainer


class Way(NamedTuple):
    """A way to train runs at once: numbers of processes, of threads in each, and of runs in its cohort."""

    processes: int
    threads: int
    cohort: int = 1
    precision: Precision = "float32"


def in_precision(spec: RunSpec, precision: Precision) -> RunSpec:
    """Return a run in another precision of the backbone."""
    return replace(spec, train=replace(spec.train, precision=precision))


class Crew:
    """Processes that train one epoch whenever they are told to.

    Parameters
    ----------
    spec
        Spec of all runs; that they are the same does not affect their speed.
    images
        Random images of an epoch.
    members
        Number of processes.
    device
        Type of the device, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, spec: RunSpec, *, images: int, members: int, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.lines: list[Connection] = []
        self.processes = []
        for _ in range(members):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, spec, images, device), daemon=True)
            process.start()
            theirs.close()
            self.lines.append(ours)
            self.processes.append(process)
        self._answers(self.lines)  # wait until all have loaded what they need

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self.lines:
            line.close()  # this ends the member's loop
        for process in self.processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()

    def epoch(self, way: Way) -> list[int | None]:
        """Train an epoch of every run and return each process's peak memory, in bytes; None: unknown.

        Raises
        ------
        RuntimeError
            If a process failed; the message has its output.
        """
        chosen = self.lines[: way.processes]
        for line in chosen:
            line.send(way)
        return self._answers(chosen)

    @staticmethod
    def _answers(lines: Sequence[Connection]) -> list[int | None]:
        answers = []
        for line in lines:
            try:
                answers.append(line.recv())
            except EOFError:
                answers.append("it ended without a message")
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"a training process failed: {answer}")
        return answers


def _serve(line: Connection, spec: RunSpec, images: int, device: str) -> None:
    """Train an epoch whenever a way arrives, until the other end closes; answer with the peak memory."""
    torch.set_num_threads(1)
    try:
        held = random_images(spec.data, images, device=device)
        made: dict[tuple[int, Precision], Any] = {}
        line.send(peak_memory(device))
        while True:
            way: Way = line.recv()
            torch.set_num_threads(way.threads)
            which = way.cohort, way.precision
            if which not in made:
                made[which] = trainer([in_precision(spec, way.precision)] * way.cohort, held)
            made[which].train_epoch()
            if device == "cuda":
                torch.cuda.synchronize()
            line.send(peak_memory(device))
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return
    except Exception as error:
        line.send(f"{type(error).__name__}: {error}")


def peak_memory(device: str) -> int | None:
    """Return this process's peak memory in bytes: torch's on the GPU, else resident; None if unknown."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None
