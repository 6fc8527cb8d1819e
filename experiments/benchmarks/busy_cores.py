"""How much measurements and training slow down on busy cores.

``python -m experiments.benchmarks.busy_cores`` prints one row per case, first with the cores as they are,
then with four programs that keep them busy. ``--record`` writes the rows for the page on cost; use it on an
otherwise idle machine.

Every case is timed in three ways in turn: on one thread, on the threads that it chooses itself, and on
torch's threads as they are without :mod:`lpc.computing.threads`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch

from experiments.reporting.recorded_tables import code, record
from lpc.computing import numerics
from lpc.training import trainers

NEIGHBOURS = 4
LEAST = 1.0
"""Seconds for which each way is repeated, since a short call may fall between two turns of a busy program."""
WAYS = ("one thread", "chosen", "torch's")
NAME = "busy_cores"
"""Name under which the rows are recorded."""


def cases() -> dict[str, Callable[[], object]]:
    """Return the timed tasks by name, with sizes of the book's laptop profile and larger ones."""
    from lpc.evaluation.attacks import attack
    from lpc.evaluation.binarity import binarity
    from lpc.evaluation.class_moments import ClassMoments
    from lpc.evaluation.collapse import nearest_mean_accuracy
    from lpc.evaluation.information import knn_entropy, mutual_information
    from lpc.evaluation.mixture import fit_bimodal
    from lpc.evaluation.neural_collapse import neural_collapse
    from lpc.evaluation.quantities import gaussian_quantities
    from lpc.evaluation.reliability import mahalanobis_confidence
    from lpc.evaluation.robustness import deepfool

    torch.manual_seed(0)
    wide, label = torch.randn(5000, 512), torch.arange(5000) % 10
    narrow = torch.randn(5000, 64) + label[:, None]
    image = torch.rand(200, 1, 8, 8)
    layers = torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 10)
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers).eval()

    def quantities() -> object:
        generator = torch.Generator().manual_seed(0)
        return gaussian_quantities(narrow[:1500, :8], label[:1500], generator=generator)

    def moments() -> object:
        found = ClassMoments(classes=10)
        for part, own in zip(narrow.split(128), label.split(128), strict=True):
            found.update(part, own)
        return found.neural_collapse()

    return {
        "knn_entropy": lambda: knn_entropy(wide),
        "binarity": lambda: binarity(narrow),
        "fit_bimodal": lambda: fit_bimodal(narrow[:, :8], reg_covar=1e-6),
        "neural_collapse": lambda: neural_collapse(wide, label),
        "mahalanobis_confidence": lambda: mahalanobis_confidence(narrow, label, label, narrow, label),
        "deepfool": lambda: deepfool(network, image),
        "attack": lambda: attack("random_directions", network, image, budget=10),
        "gaussian_quantities": quantities,
        "mutual_information": lambda: mutual_information(narrow[:2000, :2], narrow[:2000, 2:4], k=3),
        "ClassMoments": moments,
        "nearest_mean_accuracy": lambda: nearest_mean_accuracy(wide, label, wide, label),
        **trainings(),
    }


def trainings() -> dict[str, Callable[[], object]]:
    """Return an epoch of each trainer: a dense run alone, and four in a cohort."""
    from lpc.data import load_images
    from lpc.specs import DataSpec, TrainSpec, variant_spec
    from lpc.training import trainer

    data = DataSpec(name="digits")
    images = load_images(data).train

    def epoch(seeds: int, **model: Any) -> Callable[[], object]:
        train = TrainSpec(epochs=1000, batch_size=128, learning_rate=1e-3)
        specs = [variant_spec("IB", data=data, train=train, seed=seed, **model) for seed in range(seeds)]
        return trainer(specs, images).train_epoch

    dense = {"backbone": "mlp", "backbone_width": 64}
    return {"training, one": epoch(1, **dense), "training, cohort": epoch(4, **dense)}


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run a number of programs that keep cores busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def seconds(case: Callable[[], object], way: str, threads: int) -> float:
    """Return the wall-clock seconds of a call."""
    torch.set_num_threads(1 if way == "one thread" else threads)
    try:
        with contextlib.ExitStack() as stack:
            for module in (numerics, trainers) if way == "torch's" else ():
                stack.enter_context(mock.patch.object(module, "one_thread", contextlib.nullcontext))
            began = time.perf_counter()
            case()
            return time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)


def measured(names: list[str] | None = None, *, repeats: int = 5, busy: int = NEIGHBOURS) -> list[dict]:
    """Return one row per case and state of the cores: median seconds and ratio to one thread of each way."""
    threads, rows = torch.get_num_threads(), []
    chosen = {name: case for name, case in cases().items() if names is None or name in names}
    for case in chosen.values():
        case()  # imports and other first-time work are not timed
    for beside in (0, busy):
        with neighbours(beside):
            for name, case in chosen.items():
                taken = {way: [] for way in WAYS}
                turns = max(repeats, round(LEAST / min(seconds(case, "one thread", threads), LEAST)))
                for _ in range(turns):
                    for way in WAYS:
                        taken[way].append(seconds(case, way, threads))
                medians = {way: statistics.median(walls) for way, walls in taken.items()}
                row = {"case": name, "neighbours": beside, **medians}
                rows.append(row)
                print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    """Return a row as text: milliseconds on one thread, then the ratios of the other ways."""
    ratios = "  ".join(f"{way} {row[way] / row['one thread']:6.2f}" for way in WAYS[1:])
    return f"{row['neighbours']} beside  {row['case']:24} {1e3 * row['one thread']:8.1f} ms  {ratios}"


def table(rows: list[dict]) -> pd.DataFrame:
    """Return one row per case: milliseconds on one thread, other ways' ratios, on quiet and busy cores."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        state = "busy" if row["neighbours"] else "quiet"
        own = lines.setdefault(row["case"], {})
        own[f"{state}: one thread (ms)"] = f"{1e3 * row['one thread']:.1f}"
        own[f"{state}: chosen"] = f"{row['chosen'] / row['one thread']:.2f}"
        own[f"{state}: all threads"] = f"{row[WAYS[-1]] / row['one thread']:.2f}"
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("measured")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", help="names of cases (default: all)")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--record", action="store_true", help="write the rows to the recorded results")
    asked = options.parse_args()
    by = code()
    found = measured(asked.only, repeats=asked.repeats)
    if asked.record:
        print(record(NAME, table(found), folder=Path.cwd(), by=by, repeats=asked.repeats))
