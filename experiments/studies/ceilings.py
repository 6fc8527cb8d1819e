"""Ceilings that hold for any network on how far a data set's test images are from its decision boundary."""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.paths import CEILINGS
from lpc.computing.devices import default_device
from lpc.computing.provenance import provenance
from lpc.data import Splits, load_images
from lpc.evaluation.ceilings import Ceiling, boundary_ceiling, mean_ceiling
from lpc.specs import DataSpec
from lpc.store.atomic import write_bytes
from lpc.store.reading import read_table

COLUMNS = (
    *("data", "images", "among", "single", "single_error", "both", "both_error", "distance"),
    *("mean_assigned", "single_pixels", "both_pixels"),
    *("data_checksum", "commit", "dirty", "device", "seconds", "date"),
)
"""Columns of the table. ``single`` and ``both`` are means of the two ceilings
(:mod:`lpc.evaluation.ceilings`), with standard errors over images, for inputs normalised as
networks see them; ``*_pixels`` are for inputs in which black is zero. ``mean_assigned`` is the ceiling of the
mean over test images, from the first :data:`ASSIGNED` of them."""
ASSIGNED = 2_000
"""Largest number of test images that are assigned to one another."""


def of_images(splits: Splits) -> dict[str, Any]:
    """Return the ceilings of a data set's test images, given its training images.

    Parameters
    ----------
    splits
        Images of a data set, without a validation set.
    """
    train, test = splits.train, splits.test
    inputs, others = (part.normalised().double().flatten(1) for part in (test, train))
    normalised = boundary_ceiling(inputs, test.label, others, train.label)
    assigned = mean_ceiling(inputs[:ASSIGNED], test.label[:ASSIGNED])
    inputs, others = (part.pixels().double().flatten(1) for part in (test, train))
    pixels = boundary_ceiling(inputs, test.label, others, train.label)
    return {
        "images": len(test),
        "among": len(train),
        **_means(normalised),
        "distance": float(normalised.distance.mean()),
        "mean_assigned": assigned,
        "single_pixels": float(pixels.single.mean()),
        "both_pixels": float(pixels.both.mean()),
        "data_checksum": train.checksum(),
    }


def _means(found: Ceiling) -> dict[str, float]:
    values = {"single": found.single, "both": found.both}
    errors = {f"{name}_error": float(one.std()) / math.sqrt(len(one)) for name, one in values.items()}
    return {name: float(one.mean()) for name, one in values.items()} | errors


def measure(name: str, *, path: Path = CEILINGS) -> dict[str, Any]:
    """Measure the ceilings of a data set and write them to its row of the table.

    Parameters
    ----------
    name
        Name of a data set, a key of ``lpc.datasets.LOADERS``; missing files are fetched.
    path
        Path of the table.

    Raises
    ------
    ValueError
        If the name is unknown, or files cannot be fetched; the message names them and their folder.
    """
    device = default_device()
    splits = load_images(DataSpec(name=name), device=device)
    began = time.process_time()
    with torch.no_grad():
        found = of_images(splits)
    known = provenance(device, folders=("lpc", "experiments/studies"))
    row = {
        "data": name,
        **found,
        **{key: known[key] for key in ("commit", "dirty", "device")},
        "seconds": round(time.process_time() - began, 1),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    fresh = pd.DataFrame([row], columns=list(COLUMNS))
    kept = pd.concat([recorded(path), fresh]) if path.exists() else fresh
    table = kept.drop_duplicates("data", keep="last").sort_values("data")
    write_bytes(path, table.to_csv(index=False).encode())
    return row


def recorded(path: Path = CEILINGS) -> pd.DataFrame:
    """Return the table, one row per data set.

    Raises
    ------
    lpc.store.reading.Damaged
        If the file is not such a table.
    """
    return read_table(path, columns=COLUMNS, mend="measure the data sets again (the verb ceiling)")
