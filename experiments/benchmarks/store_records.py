"""Measures and records the store's performance at the scale of a cluster; run with ``python -m``.

A store of 100,000 finished runs is written, listed, and asked which runs are missing; then programs claim
more runs in it (:mod:`experiments.benchmarks.store_claims`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from experiments.benchmarks import store_claims
from experiments.benchmarks.store_scale import LOOK, READ, declared, write_runs
from experiments.paths import MEASURED
from experiments.reporting.recorded_tables import code, record
from lpc.specs import PROTOCOL
from lpc.store import RunStore
from lpc.store.listing import FILES, TOGETHER, rows

ASKING = "store_asking"
"""Name under which the times of listing and asking are recorded."""
CLAIMS = "store_claims"
"""Name under which the programs that share a store are recorded."""


def asking(runs: int, root: Path, *, files: int) -> pd.DataFrame:
    """Return the times to list a store and to ask for its missing runs, the first and the second time.

    Parameters
    ----------
    runs
        Number of runs that :func:`~experiments.benchmarks.store_scale.write_runs` wrote there.
    root
        Folder of the store.
    files
        Number of their files that a first listing reads.

    Returns
    -------
    pandas.DataFrame
        Times by question. ``processor (s)`` is measured; ``requests per run`` are counted from the code; a
        ``network`` adds their latency, with as many requests at once as the library makes.
    """
    wanted, store = declared(runs), RunStore(root)
    looks, reads = runs * len(FILES), files
    asked: dict[str, tuple[Callable[[], int], float, float]] = {
        "list, first": (lambda: len(rows(root, protocol=PROTOCOL)), looks, reads),
        "list, again": (lambda: len(rows(root, protocol=PROTOCOL)), looks, 0),
        "which are missing, first": (lambda: runs - len(store.unfinished(wanted)), 6 * runs, 2 * runs),
        "which are missing, again": (lambda: runs - len(store.unfinished(wanted)), runs, 0),
    }
    table = {}
    for what, (ask, looked, read) in asked.items():
        start = time.process_time()
        assert ask() == runs
        taken = time.process_time() - start
        waiting = (looked * LOOK + read * READ) / min(TOGETHER, -(-runs // TOGETHER))
        table[f"{runs:,} runs: {what}"] = {
            "processor (s)": f"{taken:.2f}",
            "requests per run": f"{(looked + read) / runs:.1f}",
            "network, one by one (s)": f"{taken + looked * LOOK + read * READ:.1f}",
            "network (s)": f"{taken + waiting:.1f}",
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("asked")


def measure(
    sizes: Sequence[int] = (10_000, 100_000),
    programs: Sequence[tuple[int, float]] = ((1, 1.0), (20, 1.0), (200, 1.0), (200, 10.0)),
    *,
    folder: Path | None = None,
    results: Path = MEASURED,
) -> list[Path]:
    """Measure stores of several sizes, let programs claim more runs in the last, and record both tables.

    Parameters
    ----------
    sizes
        Numbers of finished runs.
    programs
        Pairs of a number of programs and the factor by which their server is slower than usual.
    folder
        Folder in which stores are made and removed; None: the folder of temporary files.
    results
        Folder of recorded tables.
    """
    by, tables = code(), []
    for runs in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            root = Path(name).resolve()
            tables.append(asking(runs, root, files=write_runs(root, runs)))
            claims = store_claims.table(programs, store=root, finished=runs) if runs == sizes[-1] else None
    assert claims is not None
    place = Path(tempfile.gettempdir()) if folder is None else folder
    return [
        record(name, table, folder=place, results=results, by=by)
        for name, table in ((ASKING, pd.concat(tables)), (CLAIMS, claims))
    ]


if __name__ == "__main__":
    for written in measure():
        print(written)
