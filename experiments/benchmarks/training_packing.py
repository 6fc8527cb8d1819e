"""Packing: how many runs a device trains best at once, in separate processes or as a cohort."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmarks.plain_training import PlainTraining
from experiments.benchmarks.sizes import Size
from experiments.benchmarks.timing import Comparison, interleave, steady, usable_cores, verdict
from experiments.benchmarks.training_crew import Crew, Way
from experiments.benchmarks.training_programs import PATIENCE, PLAIN, network
from experiments.reporting.tables import MISSING, number
from experiments.studies.image_shapes import random_images, shape_of_data
from lpc.specs import Precision, RunSpec

CPU_TARGET = 1.5
"""Target: the smallest ratio to the plain loop for a small ResNet on the CPU."""
MOST = 4
"""Largest number of processes."""


def ways(cores: int, device: str, precision: Precision) -> list[Way]:
    """Return the ways to compare: processes that share a device, and a cohort of two.

    Parameters
    ----------
    cores
        Number of cores that processes on a CPU share: there are 1, 2 or 4 processes, at most one per core.
    device
        Type of the device, ``"cpu"`` or ``"cuda"``; on a GPU there are 1 to 4 processes.
    precision
        Precision of the processes. Cohorts train in float32; if the precision is another, a single run in
        float32 is added for comparison.
    """
    counts = [count for count in range(1, MOST + 1) if device == "cuda" or count in (1, 2, 4)]
    if device == "cpu":
        counts = [count for count in counts if count <= cores]
    alone = [] if precision == "float32" else [Way(1, cores)]
    return [*(Way(count, max(1, cores // count), 1, precision) for count in counts), *alone, Way(1, cores, 2)]


def mps_is_on() -> bool:
    """Return whether NVIDIA's Multi-Process Service, by which processes compute at once, is running."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def packing_table(spec: RunSpec, size: Size, *, workers: int, device: str = "cpu") -> pd.DataFrame:
    """Return one row of text per way to train several runs at once: total runs per hour, memory.

    Parameters
    ----------
    spec
        Spec of the runs.
    size
        Sizes of the timed work.
    workers
        Number of the plain loop's DataLoader workers; the loop has the device to itself and is in the first
        row.
    device
        Type of the device, ``"cpu"`` or ``"cuda"``.

    Notes
    -----
    A turn is one epoch of every run, from the first process's start to the last one's end. Processes wait
    while others take their turn. Memory is a process's peak after the first turn; the first process also
    trains the cohort and so holds more. On a CPU, the library uses one process per core
    (``lpc.computing.devices.default_workers``); the target applies to that row.
    """
    images = size.training_images if device == "cpu" else size.gpu_training_images
    compared = ways(usable_cores(), device, spec.train.precision)
    plain = PlainTraining(
        spec, random_images(spec.data, images, device=device), device=device, workers=workers
    )
    with Crew(spec, images=images, members=max(way.processes for way in compared), device=device) as crew:
        for way in compared if device == "cuda" else ():
            crew.epoch(way)  # compiling must not count towards the limit
        turns = interleave(
            [plain.train_epoch, *(lambda way=way: crew.epoch(way) for way in compared)],
            repeats=size.training_repeats,
            limit=PATIENCE[device] * size.training_limit,
            enough=steady,
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
    """Return whether the library trains runs on a CPU this way: one single-threaded process per core."""
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
