"""Packing: how many runs a device trains best at once, in processes of their own or as a cohort."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from experiments.benchmarks.plain_training import PlainTraining
from experiments.benchmarks.sizes import Size
from experiments.benchmarks.timing import Comparison, interleave, usable_cores, verdict
from experiments.benchmarks.training_programs import PATIENCE, PLAIN, in_precision, network
from experiments.reporting.tables import MISSING, number
from experiments.studies.image_shapes import random_images, shape_of_data
from lpc.specs import Precision, RunSpec
from lpc.training import trainer

CPU_TARGET = 1.5
"""The least ratio to the plain loop that is aimed at, for a small ResNet on the CPU."""
MOST = 4
"""Processes, at most."""


class Way(NamedTuple):
    """Runs at once: in how many processes, of how many threads, each with how many runs as a cohort."""

    processes: int
    threads: int
    cohort: int = 1
    precision: Precision = "float32"


def ways(cores: int, device: str, precision: Precision) -> list[Way]:
    """Return the compared ways: processes that share a device, and a cohort of two.

    Parameters
    ----------
    cores
        Cores that processes on a CPU share: 1, 2 or 4 processes, at most one per core.
    device
        Type of the device, ``"cpu"`` or ``"cuda"``; on a GPU there are 1 to 4 processes.
    precision
        Precision of the processes. Cohorts are in float32; for another precision a single run in float32 is
        added.
    """
    counts = [count for count in range(1, MOST + 1) if device == "cuda" or count in (1, 2, 4)]
    if device == "cpu":
        counts = [count for count in counts if count <= cores]
    alone = [] if precision == "float32" else [Way(1, cores)]
    return [*(Way(count, max(1, cores // count), 1, precision) for count in counts), *alone, Way(1, cores, 2)]


class Crew:
    """Processes that train one epoch whenever they are told to.

    Parameters
    ----------
    spec
        Spec of the runs, the same for all, which does not affect their speed.
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
        self._answers(self.lines)  # all of them have loaded what they need

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self.lines:
            line.close()  # ends a member's loop
        for process in self.processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()

    def epoch(self, way: Way) -> list[int | None]:
        """Train an epoch of every run and return each process's memory so far, in bytes; None: unknown.

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
                answers.append("it ended without a word")
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"a process that trains failed: {answer}")
        return answers


def _serve(line: Connection, spec: RunSpec, images: int, device: str) -> None:
    """Train an epoch whenever a way comes, until the other end closes; answer with the peak of memory."""
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
    """Return the most bytes this process has held: torch's on the GPU, else resident; None: not known."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None


def mps_is_on() -> bool:
    """Whether NVIDIA's Multi-Process Service, by which processes compute at once, is there to connect to."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def packing_table(spec: RunSpec, size: Size, *, workers: int, device: str = "cpu") -> pd.DataFrame:
    """Return a row of text per way to train several runs at once: runs per hour in all, memory.

    Parameters
    ----------
    spec
        Spec of the runs.
    size
        Sizes of the timed work.
    workers
        Number of workers of the plain loop's DataLoader; the loop has the device to itself and is the first
        row.
    device
        Type of the device, ``"cpu"`` or ``"cuda"``.

    Notes
    -----
    A turn is one epoch of every run, from the first process's start to the last one's end. Processes wait
    while it is others' turn. Memory is what a process had reached after the first turn; the first process,
    which trains the cohort too, holds all that it has trained. On a CPU the library has a process a core
    (``lpc.computing.devices.default_workers``): that row has the target.
    """
    images = size.training_images if device == "cpu" else size.gpu_training_images
    compared = ways(usable_cores(), device, spec.train.precision)
    plain = PlainTraining(
        spec, random_images(spec.data, images, device=device), device=device, workers=workers
    )
    with Crew(spec, images=images, members=max(way.processes for way in compared), device=device) as crew:
        for way in compared if device == "cuda" else ():
            crew.epoch(way)  # compiles, which no limit should count
        turns = interleave(
            [plain.train_epoch, *(lambda way=way: crew.epoch(way) for way in compared)],
            repeats=size.training_repeats,
            limit=PATIENCE[device] * size.training_limit,
            device=device,
        )
        taken, memory = _gathered(turns)
    kept = taken[1:] if len(taken) > 1 else taken
    at_once = np.array([1, *(way.processes * way.cohort for way in compared)])
    per_run = kept / at_once  # seconds of an epoch of one run
    whole = images / (spec.train.epochs * shape_of_data(spec.data).train)
    ratio = np.quantile(per_run[:, :1] / per_run, [0.25, 0.5, 0.75], axis=0)
    rows = {}
    for place, way in enumerate([None, *compared]):
        low, middle, high = ratio[:, place].tolist()
        known = [] if way is None else [value for value in memory[place] if value is not None]
        aimed = size.aims and way is not None and device == "cpu" and _as_the_library(way, spec)
        found = Comparison(
            float(np.median(kept[:, place])),
            float(np.median(kept[:, 0])),
            middle,
            low,
            high,
            len(kept),
            False,
            0,
        )
        name = PLAIN if way is None else _described(way, device)
        rows[name] = {
            "runs at once": str(at_once[place]),
            "runs/h": number(3600 * whole / float(np.median(per_run[:, place]))),
            "over the plain loop": number(middle),
            "quartiles": f"{number(low)} to {number(high)}" if len(kept) > 1 else MISSING,
            "target": f"≥ {CPU_TARGET:g}" if aimed else MISSING,
            "reached": verdict(found, CPU_TARGET if aimed else None),
            "memory of a process (MB)": number(max(known) / 1e6) if known else MISSING,
        }
        if device == "cuda":
            rows[name]["MPS"] = "on" if mps_is_on() else "off"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(network(spec))


def _as_the_library(way: Way, spec: RunSpec) -> bool:
    """Whether this is how the library trains runs on a CPU: each in a process of one thread, one a core."""
    return (
        way.cohort == 1
        and way.threads == 1
        and way.processes == usable_cores()
        and way.precision == spec.train.precision
    )


def _gathered(turns: Any) -> tuple[np.ndarray, Sequence[list[int | None]]]:
    """Return the seconds of all turns (turns, ways), and the first turn's memory."""
    everything = list(turns)
    return np.array([seconds for seconds, _ in everything]), everything[0][1]


def _described(way: Way, device: str) -> str:
    parts = ["one process" if way.processes == 1 else f"{way.processes} processes"]
    if device == "cpu":
        each = " each" if way.processes > 1 else ""
        parts.append(f"{way.threads} thread{'' if way.threads == 1 else 's'}{each}")
    parts += [f"a cohort of {way.cohort}"] if way.cohort > 1 else []
    return ", ".join([*parts, way.precision])
