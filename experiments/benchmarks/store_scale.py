"""The store at scale: how long it takes to list many runs, here and on a file system across a network."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.benchmarks.training_flops import parameters
from experiments.reporting.tables import number
from experiments.studies.profiles import profile, specs
from lpc.specs import PROTOCOL, RunSpec, run_key
from lpc.store.checksums import part, sealed_object
from lpc.store.holders import HEARTBEAT
from lpc.store.listing import FILES, TOGETHER, rows
from lpc.store.listing import READ as READ_FILES
from lpc.store.wholeness import PARTS

LOOK = 0.5e-3
"""Assumed seconds that a file server takes to look up or open a file."""
READ = 1e-3
"""Assumed seconds that it takes to read a small file."""
MEASURED_OF = 6
"""Number of runs for each one with test metrics: five learning rates, and the run that retrains the best."""
METRICS = 40
"""Number of metrics in a result."""
KEPT_FILES = 5
"""Number of files that a finished run keeps: spec, provenance, history, result, weights. One in six runs also
keeps its test metrics."""
SAVED_EVERY = 500.0
"""Assumed seconds between two checkpoints of a run: fifty epochs of ten seconds."""


class Listing(NamedTuple):
    """How long it took to list a store, and how many requests the file system got.

    Attributes
    ----------
    runs
        Number of listed runs.
    first, again
        Seconds to make the table: without cached rows, and with them.
    looks, reads
        Numbers of files looked up or opened, and read, for all runs the first time; the second time, each run
        takes one look-up per file of :data:`lpc.store.listing.FILES`.
    """

    runs: int
    first: float
    again: float
    looks: int
    reads: int

    @property
    def together(self) -> int:
        """Number of requests under way at once."""
        return min(TOGETHER, -(-self.runs // TOGETHER))

    @property
    def waiting(self) -> float:
        """Seconds that the first listing's requests take, one after another, across a network."""
        return self.looks * LOOK + self.reads * READ

    @property
    def waiting_again(self) -> float:
        """Seconds that the next listing's requests take, one after another, across a network."""
        return self.runs * len(FILES) * LOOK


def declared(runs: int) -> list[RunSpec]:
    """Return the given number of runs of ``paper-cifar10``, with more seeds if needed."""
    own = specs(profile("paper-cifar10"))
    return [replace(own[place % len(own)], seed=place) for place in range(runs)]


def write_runs(root: Path, runs: int) -> int:
    """Write a store of finished runs, with files dated an hour ago; return how many files a listing reads.

    The runs are those of :func:`declared`. Their metrics are random numbers. Weights, histories and
    provenances are empty, because a listing only checks that they exist.
    """
    source = random.Random(0)
    hour_ago = time.time() - 3600
    files, empty = 0, {name: part(b"")._asdict() for name in PARTS}
    for place, spec in enumerate(declared(runs)):
        metrics = {f"metric_{one}": source.random() for one in range(METRICS)}
        contents = [
            (json.dumps(asdict(spec), indent=1) + "\n").encode(),
            sealed_object({"status": "finished", **metrics, "missing": {}, "files": empty}),
        ]
        if place % MEASURED_OF == 0:
            contents.append(sealed_object({**metrics, "missing": {}}))
        directory = root / "runs" / run_key(spec)
        directory.mkdir(parents=True)
        for name, content in (*zip(READ_FILES, contents, strict=False), *((name, b"") for name in PARTS)):
            path = directory / name
            path.write_bytes(content)
            os.utime(path, (hour_ago, hour_ago))
        files += len(contents)
    return files


def time_listing(runs: int, folder: Path | None = None) -> Listing:
    """Write a store of the given number of runs, list it twice, and remove it.

    Parameters
    ----------
    runs
        Number of runs, at least 1.
    folder
        Folder on the file system to time; None: the folder of temporary files.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; expected 1 or more")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        files = write_runs(root, runs)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            table = pd.DataFrame(rows(root, protocol=PROTOCOL))
            seconds.append(time.perf_counter() - start)
            assert len(table) == runs
    return Listing(runs, *seconds, looks=runs * len(FILES), reads=files)


def listing_table(sizes: Sequence[int] = (720, 10_000), folder: Path | None = None) -> pd.DataFrame:
    """Return the seconds that listing takes, measured and across a network, one row per number of runs.

    Columns ``here`` are measured. Columns ``network`` add the time of a file server that answers each request
    after :data:`LOOK` or :data:`READ`, with as many requests at once as the library makes; ``one by one`` is
    the time with one request at once and without cached rows.
    """
    table = {}
    for found in (time_listing(runs, folder) for runs in sizes):
        table[f"{found.runs:,}"] = {
            "here, first (s)": f"{found.first:.2f}",
            "here, again (s)": f"{found.again:.2f}",
            "requests per run, first": f"{(found.looks + found.reads) / found.runs:.1f}",
            "requests per run, again": f"{len(FILES)}",
            "network, one by one (s)": f"{found.first + found.waiting:.1f}",
            "network, first (s)": f"{found.first + found.waiting / found.together:.2f}",
            "network, again (s)": f"{found.again + found.waiting_again / found.together:.2f}",
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("runs")


def checkpoint_bytes(name: str = "paper-cifar10") -> int:
    """Return the size of a profile's checkpoint: float32 weights, and AdamW's two moments for each."""
    return 3 * 4 * parameters(specs(profile(name))[0])


def growth(sizes: Sequence[int] = (720, 10_000, 100_000), *, name: str = "paper-cifar10") -> pd.DataFrame:
    """Return, as text, what a profile's finished runs need, one column per number of runs; computed."""
    weights = 4 * parameters(specs(profile(name))[0])
    columns = {
        f"{runs:,} runs": {
            "files and folders": f"{runs * (KEPT_FILES + 1) - -runs // MEASURED_OF:,}",
            "weights (GB)": number(runs * weights / 1e9),
            "asked which are missing, on a network (s)": number(runs * (6 * LOOK + 2 * READ) / TOGETHER),
        }
        for runs in sizes
    }
    return pd.DataFrame(columns)


def traffic(processes: Sequence[int] = (64, 300, 3_000), *, name: str = "paper-cifar10") -> pd.DataFrame:
    """Return, as text, what concurrent training processes need of a disk, one column per number; computed."""
    size = checkpoint_bytes(name)
    columns = {
        f"{count:,} processes": {
            "checkpoints on disk (GB)": number(count * size / 1e9),
            f"written, one every {SAVED_EVERY:g} s (MB/s)": number(count * size / SAVED_EVERY / 1e6),
            f"signs of life, one every {HEARTBEAT:g} s (1/s)": number(count / HEARTBEAT),
        }
        for count in processes
    }
    return pd.DataFrame(columns)
