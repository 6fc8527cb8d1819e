"""Measures an epoch's time on random images, and estimates the hours that unfinished runs still need."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from experiments.paths import EPOCH_TIMES
from experiments.studies.image_shapes import random_images, shape_of_data
from lpc.computing.devices import default_device
from lpc.computing.provenance import provenance
from lpc.runs.packing import COHORT_SIZE, COHORTED
from lpc.specs import RunSpec, run_key
from lpc.store import RunStore
from lpc.store.atomic import write_file
from lpc.store.reading import read_table
from lpc.training import trainer
from lpc.training.cohorts import shape_of

STEPS = {"cpu": 5, "cuda": 100}
"""Number of steps in a timed epoch: on a GPU, the first few are taken differently from the rest."""


class Model(NamedTuple):
    """Settings on which the time of an epoch depends, besides the device and the number of images."""

    dataset: str
    pixels: int
    limit: int
    backbone: str
    width: int
    precision: str
    batch: int

    def __str__(self) -> str:
        limited = f"{self.limit:,} images of " if self.limit else ""
        return (
            f"{self.backbone} (width {self.width}, {self.precision}, batches of {self.batch}) "
            f"on {limited}{self.dataset}"
        )


KEY = ["device", "threads", *Model._fields]
COLUMNS = [*KEY, "images", "together", "seconds", "commit", "date"]


def model_of(spec: RunSpec) -> Model:
    """Return the settings on which the time of a run's epochs depends; ``limit`` is 0 if there is none."""
    shape = shape_of_data(spec.data)
    return Model(
        spec.data.name,
        shape.size,
        spec.data.train_limit or 0,
        spec.model.backbone,
        spec.model.backbone_width,
        spec.train.precision,
        spec.train.batch_size,
    )


def measure(
    specs: Sequence[RunSpec],
    *,
    device: torch.device | None = None,
    steps: int | None = None,
    epochs: int = 3,
    path: Path = EPOCH_TIMES,
) -> pd.DataFrame:
    """Time epochs of every model among some runs, and write the times to the table.

    Parameters
    ----------
    specs
        Specs of the runs. Those that the library trains together are timed together.
    device
        Device to train on; None: the GPU if there is one.
    steps
        Number of steps in a timed epoch; None: :data:`STEPS`.
    epochs
        Number of timed epochs, after a first one that is not timed; the median counts.
    path
        Path of the table; rows of the same device and model are replaced.

    Returns
    -------
    pandas.DataFrame
        New rows of the table. ``seconds`` is for one epoch of one run on all its ``images``, without
        measurements.
    """
    device = default_device(device)
    steps = STEPS[device.type] if steps is None else steps
    if steps < 1 or epochs < 1:
        raise ValueError(f"steps is {steps} and epochs is {epochs}; expected 1 or more of each")
    alike: dict[Model, list[RunSpec]] = defaultdict(list)
    for spec in specs:
        alike[model_of(spec)].append(spec)
    known = provenance(device, folders=("lpc", "experiments"))
    rows = []
    for model, runs in alike.items():
        together = _together(runs)
        images = random_images(runs[0].data, steps * model.batch, device=device)
        training = trainer(together, images)
        training.train_epoch()
        seconds = []
        for _ in range(epochs):
            began = time.perf_counter()
            training.train_epoch()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        total = shape_of_data(runs[0].data).train
        each = statistics.median(seconds) / len(images) * total / len(together)
        rows.append(
            {
                "device": known["device"],
                "threads": known["threads"],
                **model._asdict(),
                "images": total,
                "together": len(together),
                "seconds": each,
                "commit": known["commit"],
                "date": datetime.now(timezone.utc).date().isoformat(),
            }
        )
    fresh = pd.DataFrame(rows, columns=COLUMNS)
    kept = pd.concat([recorded(path), fresh]) if path.exists() else fresh
    path.parent.mkdir(parents=True, exist_ok=True)
    table = kept.drop_duplicates(KEY, keep="last").sort_values(KEY)
    write_file(path, lambda temporary: table.to_csv(temporary, index=False))
    return fresh


def _together(runs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return the runs that the library would train together with the first."""
    if runs[0].model.backbone not in COHORTED:
        return [runs[0]]
    return [spec for spec in runs if shape_of(spec) == shape_of(runs[0])][:COHORT_SIZE]


def recorded(path: Path = EPOCH_TIMES) -> pd.DataFrame:
    """Return the table of measured times; it has no rows if nothing was measured.

    Raises
    ------
    ValueError
        If the file has other columns.
    """
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    table = read_table(path, mend="remove it to measure the times again, or restore it")
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path} has the columns {list(table.columns)}; expected {COLUMNS}")
    return table


class _Pace(NamedTuple):
    """Seconds per image in an epoch of one run, and where this number comes from."""

    seconds: float
    source: str


def _place(device: str, threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'} of a CPU" if device == "cpu" else device


def _paces_of_runs(
    models: set[Model], store: RunStore, given: Mapping[str, RunSpec]
) -> dict[tuple[Model, str], _Pace]:
    """Return how long finished runs of these models took, by model and place, all workers together.

    ``given`` has specs by key, which then need not be read.
    """
    rows = store.frame()
    if rows.empty:
        return {}
    ended = rows["status"].isin(["finished", "failed"])
    alike = rows["data.name"].isin({model.dataset for model in models})
    found: dict[tuple[Model, str], list[float]] = defaultdict(list)
    for key in rows.loc[ended & alike, "key"]:
        spec = given[key] if key in given else store.spec(str(key))
        known = store.provenance(spec)
        if model_of(spec) in models and "run_epoch_seconds" in known:
            workers = known["workers"]
            place = _place(known["device"], known["threads"] * workers)
            each = known["run_epoch_seconds"] / workers / shape_of_data(spec.data).train
            found[model_of(spec), place].append(each)
    return {where: _Pace(statistics.median(values), "finished runs") for where, values in found.items()}


def _paces_of_table(models: set[Model], path: Path) -> dict[tuple[Model, str], _Pace]:
    """Return the measured times of these models, by model and place."""
    found = {}
    for row in recorded(path).to_dict("records"):
        model = Model(*(row[name] for name in Model._fields))
        if model in models:
            place = _place(str(row["device"]), int(row["threads"]))
            each = float(row["seconds"]) / float(row["images"])
            found[model, place] = _Pace(each, f"epoch times of {row['date']}, training alone")
    return found


def hours_left(
    specs: Sequence[RunSpec],
    store: RunStore,
    *,
    profile: str | None = None,
    untimed: list[Model] | None = None,
    path: Path = EPOCH_TIMES,
) -> str:
    """Return a sentence on the hours that the unfinished runs among these would take, by device.

    Parameters
    ----------
    specs
        Specs of the runs. Finished ones take no time; interrupted ones need the epochs after their
        checkpoint.
    store
        Store that keeps the runs. The times of its own finished runs are preferred to the table's.
    profile
        Profile named in the command that measures missing times.
    untimed
        List to which models without a measured time are appended, for :func:`missing_times`; None: the last
        line names them.
    path
        Path of the table that :func:`measure` writes.
    """
    given = {run_key(spec): spec for spec in specs}
    unfinished = {key: spec for key, spec in given.items() if not store.finished(spec)}
    if not unfinished:
        return "nothing is left to train"
    done = store.epochs_done()
    left: Counter[Model] = Counter()  # number of images still to train on: epochs times images
    for key, spec in unfinished.items():
        epochs = spec.train.epochs - done.get(key, 0)
        left[model_of(spec)] += epochs * shape_of_data(spec.data).train
    models = set(left)
    paces = {**_paces_of_table(models, path), **_paces_of_runs(models, store, given)}
    lines = []
    for place in sorted({place for _, place in paces}):
        timed = {model: paces[model, place] for model in left if (model, place) in paces}
        hours = sum(left[model] * pace.seconds for model, pace in timed.items()) / 3600
        sources = " and ".join(dict.fromkeys(pace.source for pace in timed.values()))
        without = [str(model) for model in left if model not in timed]
        but = f", without {' and '.join(without)}" if without else ""
        amount = "less than 0.1" if hours < 0.1 else f"about {hours:,.{1 if hours < 10 else 0}f}"
        lines.append(f"{amount} h left on {place} ({sources}){but}")
    unknown = [model for model in left if not any(model == timed for timed, _ in paces)]
    if untimed is not None:
        untimed += unknown
    elif unknown:
        lines.append(missing_times(unknown, profile or "NAME"))
    return "\n".join(lines)


def missing_times(models: Sequence[Model], profile: str) -> str:
    """Return a line that names models without an epoch time, and the command that measures these times."""
    named = " or ".join(dict.fromkeys(map(str, models)))
    return f"no epoch time was measured for {named}: run python -m experiments time --profile {profile}"
