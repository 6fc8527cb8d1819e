"""Every network's confidence in its test predictions, and how well it separates correct from wrong ones."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from experiments.reporting.significance import bootstrap_images, hanley_mcneil
from experiments.studies.study import Study
from lpc.evaluation.reliability import mahalanobis_confidence, misclassification_auroc, odin_confidence
from lpc.latents import collect
from lpc.runs import load_model
from lpc.runs.measurements import SHRINKAGE

MEASURES = ("mahalanobis", "odin", "softmax")


class Judged(NamedTuple):
    """Test predictions of a run.

    Attributes
    ----------
    correct
        Whether each prediction is correct.
    confidence
        Confidences by measure: ``mahalanobis`` (with the book's shrinkage), ``odin`` (temperature 100) and
        ``softmax`` (the largest probability). Measures that could not be computed are left out.
    """

    correct: Bool[Tensor, " images"]
    confidence: dict[str, Tensor]


def judged(study: Study, architecture: str, seed: int) -> Judged:
    """Return the test predictions of a selected run, with the confidence in each."""
    images = study.images_at_hand
    model = load_model(study.spec(architecture, seed), study.store, images.test)
    train, test = collect(model, images.train), collect(model, images.test)
    confidence = {
        "odin": torch.as_tensor(odin_confidence(test.logits)),
        "softmax": torch.as_tensor(odin_confidence(test.logits, temperature=1.0)),
    }
    fitted = (train.latent, train.label, train.predicted, test.latent, test.predicted)
    with contextlib.suppress(
        ValueError
    ):  # fails if a predicted class has no correctly classified training point
        confidence["mahalanobis"] = torch.as_tensor(mahalanobis_confidence(*fitted, shrinkage=SHRINKAGE))
    on_cpu = {name: values.cpu() for name, values in confidence.items()}
    return Judged((test.predicted == test.label).cpu(), on_cpu)


Judgements = dict[tuple[str, int], Judged]


def judgements(study: Study) -> Judgements:
    """Return :func:`judged` for every selected run, by architecture and seed."""
    pairs = study.selected[["architecture", "seed"]].itertuples(index=False)
    return {(str(name), int(seed)): judged(study, str(name), int(seed)) for name, seed in pairs}


def auroc(run: Judged, measure: str, index: np.ndarray | slice = slice(None)) -> float:
    """Return a measure's AUROC on some of the images, or raise a ValueError if there is none."""
    if measure not in run.confidence:
        raise ValueError(f"no confidence by {measure}")
    chosen = torch.as_tensor(index) if isinstance(index, np.ndarray) else index
    return misclassification_auroc(run.confidence[measure][chosen], run.correct[chosen])


def aurocs(judgements: Judgements) -> pd.DataFrame:
    """Return one row per run: its errors, and every measure's AUROC with Hanley and McNeil's standard error.

    Columns are ``architecture``, ``seed``, ``errors``, and for each measure its name and ``<name>_error``.
    """
    rows = []
    for (name, seed), run in judgements.items():
        wrong = int((~run.correct).sum())
        row: dict[str, object] = {"architecture": name, "seed": seed, "errors": wrong}
        for measure in MEASURES:
            try:
                area = auroc(run, measure)
            except ValueError:
                area = float("nan")
            there = area == area
            row[measure] = area
            row[f"{measure}_error"] = hanley_mcneil(area, len(run.correct) - wrong, wrong) if there else area
        rows.append(row)
    return pd.DataFrame(rows)


def accuracy_interval(judgements: Judgements, of: str, over: str) -> tuple[float, float, float]:
    """Return the difference of two architectures' mean accuracies over seeds, and its 95 % interval.

    The interval covers the choice of test images, which are resampled alike for both architectures.
    """
    of_right, over_right = (
        torch.stack([run.correct.double() for (key, _), run in judgements.items() if key == name]).mean(dim=0)
        for name in (of, over)
    )
    gain = (of_right - over_right).numpy()
    return (float(gain.mean()), *bootstrap_images(lambda index: float(gain[index].mean()), len(gain)))


def auroc_interval(
    judgements: Judgements, measure: str, of: str, over: str, *, resamples: int = 200
) -> tuple[float, float, float]:
    """Return the difference of two architectures' mean AUROCs over seeds, and its 95 % interval.

    The interval is like that of :func:`accuracy_interval`; all three values are NaN if a run has no AUROC by
    this measure.
    """
    sides = [[run for (key, _), run in judgements.items() if key == name] for name in (of, over)]

    def difference(index: np.ndarray | slice) -> float:
        of_mean, over_mean = (float(np.mean([auroc(run, measure, index) for run in side])) for side in sides)
        return of_mean - over_mean

    try:
        found = difference(slice(None))
        return (found, *bootstrap_images(difference, len(sides[0][0].correct), resamples=resamples))
    except ValueError:
        return float("nan"), float("nan"), float("nan")
