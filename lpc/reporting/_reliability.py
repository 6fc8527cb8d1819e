"""The report's lines on calibration, error detection, and points from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lpc.evaluation.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
)
from lpc.evaluation.detection import (
    Distances,
    detection,
    energy_confidence,
    mahalanobis_detection,
    maximum_logit,
    neighbour_confidence,
)
from lpc.evaluation.misclassification import (
    misclassification_aupr,
    misclassification_auroc,
    misclassification_fpr,
    risk_coverage_area,
)
from lpc.evaluation.reliability import mahalanobis_confidence
from lpc.reporting.entries import Entry, Once, Sheet
from lpc.reporting.points import Points
from lpc.reporting.references import of_book

Pair = tuple[Any, Any]
SHRINKAGE = 0.1
"""Shrinkage of covariances: a class with constant nodes, or fewer points than nodes, has a singular one."""


def calibration(points: Points) -> list[Entry]:
    """Return the lines on calibration, all of them missing without logits.

    Parameters
    ----------
    points
        Points to measure, preferably a test set, because train sets are fitted.
    """
    sheet = Sheet("Calibration", points.name)
    given = points.logits
    probability = Once(lambda: None if given is None else given.double().softmax(dim=1))
    fitted = "of the train set: measure calibration on held-out points" if points.name == "train" else ""
    errors: dict[str, tuple[str, Callable[[Tensor], float], str]] = {
        "calibration_error": (
            "expected calibration error",
            lambda share: expected_calibration_error(share, points.label),
            "15 bins of equal width",
        ),
        "calibration_error_l2": (
            "root mean square calibration error",
            lambda share: expected_calibration_error(share, points.label, norm="l2"),
            "15 bins of equal width",
        ),
        "adaptive_calibration_error": (
            "adaptive calibration error",
            lambda share: adaptive_calibration_error(share, points.label),
            "15 bins of equally many points",
        ),
        "classwise_calibration_error": (
            "classwise calibration error",
            lambda share: classwise_calibration_error(share, points.label),
            "15 bins of equal width per class",
        ),
    }
    for key, (name, function, how) in errors.items():
        share = probability()
        sheet.add(
            key,
            name,
            lambda function=function, share=share: None if share is None else function(share),
            how=how,
            guide="0: probabilities equal the shares of correct predictions; few points raise it by chance",
            missing="needs logits or the classifier",
            references=of_book(f"{points.name} {key}"),
            flag=fitted if key == "calibration_error" else "",
        )
    sheet.add(
        "temperature",
        "temperature that calibrates",
        lambda: None if given is None else fit_temperature(given, points.label),
        how="least cross-entropy of softmax(logits / T)",
        guide="above 1: the network is too confident",
        missing="needs logits or the classifier",
    )
    return sheet.entries


def errors(points: Points, train: Points) -> list[Entry]:
    """Return the lines on error detection by confidence.

    Parameters
    ----------
    points, train
        Points to judge, and the points to which Gaussians are fitted.
    """
    sheet = Sheet("Error detection", points.name)
    given, known = points.logits, train.logits
    missing = "needs logits or the classifier"
    right = None if given is None else given.argmax(dim=1) == points.label

    def gaussian() -> Tensor | None:
        if given is None or known is None:
            return None
        return mahalanobis_confidence(
            train.latent,
            train.label,
            known.argmax(dim=1),
            points.latent,
            given.argmax(dim=1),
            shrinkage=SHRINKAGE,
        )

    scores = {
        "probability": ("largest probability", Once(lambda: _probability(given))),
        "mahalanobis": (f"Mahalanobis, shrinkage {SHRINKAGE:g}", Once(gaussian)),
    }
    measures = {
        "auroc": ("AUROC", misclassification_auroc, "0.5: chance, 1: perfect", 0.5),
        "fpr95": ("FPR at 95 % TPR", misclassification_fpr, "share of errors accepted; 0 is best", 0.95),
        "aupr_error": (
            "AUPR of errors",
            lambda score, of: misclassification_aupr(score, of, positive="error"),
            "1: perfect; without any ranking the share of errors",
            None if right is None else 1 - float(right.double().mean()),
        ),
        "aurc": (
            "AURC",
            lambda score, of: risk_coverage_area(score, of).aurc,
            "mean error rate over all coverages; 0 is best",
            None if right is None else 1 - float(right.double().mean()),
        ),
    }
    for score, (called, values) in scores.items():
        for key, (name, measure, guide, chance) in measures.items():

            def value(values=values, measure=measure) -> float | None:
                found = values()
                return None if found is None or right is None else measure(found, right)

            sheet.add(
                f"{key}_{score}",
                f"{name}, {called}",
                value,
                guide=guide,
                missing=missing,
                references={"without ranking": chance},
            )
    return sheet.entries


def outside(points: Points, train: Points, away: Points, *, sample: int, seed: int) -> list[Entry]:
    """Return the lines on the detection of points from outside the data.

    Parameters
    ----------
    points
        Points of the data, preferably a test set.
    train
        Points to which the scores are fitted.
    away
        Points from outside the data.
    sample, seed
        Largest number of training points among which neighbours are searched, and the seed of their draw.
    """
    sheet = Sheet("Out-of-distribution detection", "outside")
    some = train.sample(sample, seed)
    k = min(50, some.total)

    def each(score: Callable[[Points], Tensor | None]) -> Callable[[], Pair | None]:
        def pair() -> Pair | None:
            near, far = score(points), score(away)
            return None if near is None or far is None else (near, far)

        return pair

    def gaussian(**options: Any) -> Distances:  # one fit for both sets
        given = train.latent, train.label, torch.cat([points.latent.double(), away.latent.double()])
        return mahalanobis_detection(*given, shrinkage=SHRINKAGE, drop_dead=True, **options)

    def parted(score: Callable[[], Any]) -> Callable[[], Pair]:
        return lambda: score().tensor_split([points.total])

    tied = Once(lambda: gaussian(relative=True))

    shrunk = f"shrinkage {SHRINKAGE:g}"
    fitted = "of the train set, to which the scores were fitted" if points.name == "train" else ""
    scores: dict[str, tuple[str, Callable[[], Pair | None]]] = {
        "probability": ("largest probability", each(lambda of: _probability(of.logits))),
        "maximum_logit": ("largest logit", each(_of_logits(maximum_logit))),
        "energy": ("energy", each(_of_logits(energy_confidence))),
        "mahalanobis": (f"Mahalanobis, tied, {shrunk}", parted(lambda: -tied().nearest)),
        "mahalanobis_class": (
            f"Mahalanobis, per class, {shrunk}",
            parted(lambda: gaussian(covariance="class").confidence),
        ),
        "mahalanobis_relative": (f"relative Mahalanobis, {shrunk}", parted(lambda: tied().confidence)),
        "neighbours": (
            f"{k}th neighbour of {some.total:,}",
            each(lambda of: neighbour_confidence(some.latent, of.latent, k=k)),
        ),
    }
    for key, (name, score) in scores.items():

        def both(score=score):
            pair = score()
            return None if pair is None else detection(*pair)

        found = Once(both)
        for measure, title, chance in (("auroc", "AUROC", 0.5), ("fpr95", "FPR at 95 % TPR", 0.95)):

            def value(found=found, measure=measure) -> float | None:
                pair = found()
                return None if pair is None else getattr(pair, measure)

            sheet.add(
                f"ood_{measure}_{key}",
                f"{title}, {name}",
                value,
                how=f"{points.total:,} points of {points.name} against {away.total:,} from outside",
                guide="1 is best" if measure == "auroc" else "share from outside that is accepted; 0 is best",
                missing="needs logits of both",
                references={"chance": chance},
                flag="; ".join(part for part in (fitted, away.doubt if sheet.entries == [] else "") if part),
            )
    return sheet.entries


def _of_logits(score: Callable[[Tensor], Tensor]) -> Callable[[Points], Tensor | None]:
    return lambda of: None if of.logits is None else score(of.logits)


def _probability(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else torch.softmax(logits.double(), dim=1).amax(dim=1)
