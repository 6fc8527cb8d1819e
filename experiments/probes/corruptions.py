"""The probe ``corruptions``: a network's accuracy on corrupted test images, and curves for all networks."""

from __future__ import annotations

import pandas as pd
import torch

from experiments.probes.attacks import pixel_logits
from lpc.data import Splits
from lpc.evaluation.corruptions import STRENGTHS, corrupted_accuracy
from lpc.heads import Classifier
from lpc.store.probes import Probe


def probe(model: Classifier, splits: Splits) -> Probe:
    """Measure accuracy on all test images under every corruption.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images.
    splits
        Data whose test images are used.

    Returns
    -------
    Probe
        Values: ``clean``, the accuracy on unchanged images; for each kind of corruption, the mean accuracy
        over its strengths; ``mean``, over all kinds and strengths; ``kept``, which is ``mean`` divided by
        ``clean``. Table: one row per kind and strength.
    """
    images = splits.test
    pixels, logits = images.pixels(), pixel_logits(model, images)
    with torch.no_grad():
        decided = torch.cat([logits(some).argmax(dim=1) for some in pixels.split(1000)])
    clean = float((decided == images.label).double().mean())
    table = pd.DataFrame(corrupted_accuracy(logits, pixels, images.label))
    means = {str(kind): float(rows["accuracy"].mean()) for kind, rows in table.groupby("kind", sort=False)}
    mean_all = float(table["accuracy"].mean())
    kept = mean_all / clean if clean > 0 else None
    return Probe({"clean": clean, **means, "mean": mean_all, "kept": kept}, table)


def curves(table: pd.DataFrame, selected: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by strength, with the unchanged images as level 0.

    Parameters
    ----------
    table
        Table from :func:`experiments.studies.probing.table`: one row per run, kind and strength.
    selected
        Runs, with ``corruptions_clean``.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``kind``, ``level``, and ``mean``, ``min`` and ``max`` of the accuracy over
        seeds.
    """
    clean = selected[["key", "architecture", "seed", "corruptions_clean"]].dropna()
    clean = clean.rename(columns={"corruptions_clean": "accuracy"}).assign(level=0)
    rows = pd.concat([table, *(clean.assign(kind=kind) for kind in STRENGTHS)])
    grouped = rows.groupby(["architecture", "kind", "level"])["accuracy"]
    return grouped.agg(["mean", "min", "max"]).reset_index()
