"""Whether embeddings are as robust as DeepFool makes them look: attacks that find smaller perturbations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.probes.attacks import pixel_logits
from experiments.studies.study import Study
from lpc.evaluation.attacks import attack, smallest
from lpc.runs import load_model
from lpc.runs.measurements import attacked_images

ATTACKS = ("deepfool", "superdeepfool")
"""Attacks of ``lpc.evaluation.attacks``, with their authors' budgets. The second is quick: it continues from
DeepFool's result to the nearest point of the boundary."""


def medians(study: Study, names: Sequence[str]) -> pd.DataFrame:
    """Return the median length of perturbations that change decisions, one row per network.

    Parameters
    ----------
    study
        Study with the runs of a profile.
    names
        Architectures; those without a selected run are left out.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``seed``, one per attack, and ``smallest``, for the smallest perturbation of
        each image. Values are Euclidean norms for pixels kept in [0, 1], medians over
        ``lpc.runs.measurements.attacked_images``, and infinite if half of the images are not fooled.
        ``unfooled`` is the number of images that no attack fools.
    """
    images = study.images.test
    pixels = images.pixels(attacked_images(images))
    rows = []
    for name in study.among(names):
        for seed in study.selected.loc[study.selected["architecture"] == name, "seed"]:
            logits = pixel_logits(load_model(study.spec(name, int(seed)), study.store, images), images)
            found = {kind: attack(kind, logits, pixels) for kind in ATTACKS}
            found["smallest"] = smallest(found)
            row = {kind: float(np.median(one.norm.numpy())) for kind, one in found.items()}
            unfooled = int((~found["smallest"].fooled).sum())
            rows.append({"architecture": name, "seed": int(seed), **row, "unfooled": unfooled})
    return pd.DataFrame(rows)
