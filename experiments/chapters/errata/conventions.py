"""A run's published numbers by the conventions of the paper and of the released code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pandas as pd
import torch
from torch import Tensor

from experiments.chapters.errata.paired_values import ALL, Comparison, Number, Run, evaluate, load
from experiments.studies.study import Study
from lpc.arrays import Convention
from lpc.evaluation.binarity import binarity
from lpc.evaluation.collapse import mean_entry, norm_coefficient_of_variation, within_class_covariance
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.evaluation.reliability import (
    RELEASED_RIDGE,
    mahalanobis_confidence,
    misclassification_auroc,
    odin_confidence,
)
from lpc.evaluation.robustness import deepfool, relative_perturbation
from lpc.latents import Latents
from lpc.runs.measurements import RELEASED_STEP_FLOOR, attacked_images, in_pixels, neighbours
from lpc.runs.training_loop import TERMINAL_ACCURACY

ARCHITECTURES = ("IB", "LinPen", "NoPen", "NonLinPen")
RELEASE_2025 = 2025
"""Stands in place of a line's number where the 2025 release differs from both."""


def spread(run: Run) -> Iterator[Comparison]:
    """Lines 8, 9, 10, 20 and 21: within-class covariance, NC1, norms."""
    train, shown, test, classes = run.train, run.augmented, run.test, run.splits.train.classes

    def sw(points: Latents, label: Tensor, convention: Convention = "paper") -> Tensor:
        return torch.as_tensor(within_class_covariance(points.latent, label, convention=convention))

    def nc1(points: Latents, label: Tensor, convention: Convention = "paper") -> float:
        with warnings.catch_warnings():  # a class predicted only once has no spread, as in the release
            warnings.filterwarnings("ignore", "classes .* have (one|no) point")
            return neural_collapse(points.latent, label, convention=convention).nc1_per_node

    def raises() -> float:
        raise ValueError("the released function reads a name that is not defined, and raises")

    here = cache(lambda: float(sw(train, train.label).trace()))
    ratio = cache(lambda: nc1(train, train.label))
    equal, predicted, noisy = "unbiased, classes equal", "predicted labels", "augmented images"
    yield Comparison(8, "Σ_W", "mean entry, not trace", here, lambda: mean_entry(sw(train, train.label)))
    yield Comparison(8, "Σ_W", equal, here, lambda: float(sw(train, train.label, "released").trace()))
    yield Comparison(9, "Σ_W", predicted, here, lambda: float(sw(train, train.predicted).trace()))
    yield Comparison(10, "Σ_W", noisy, here, lambda: float(sw(shown, shown.label).trace()))
    yield Comparison(21, "Σ_W", "divided by K as well", here, lambda: here() / classes)
    yield Comparison(8, "Σ_W", ALL, here, lambda: mean_entry(sw(shown, shown.predicted, "released")))
    yield Comparison(
        9,
        "Σ_W, test images",
        predicted,
        lambda: float(sw(test, test.label).trace()),
        lambda: float(sw(test, test.predicted).trace()),
    )
    yield Comparison(8, "NC1 / P", equal, ratio, lambda: nc1(train, train.label, "released"))
    yield Comparison(9, "NC1 / P", predicted, ratio, lambda: nc1(train, train.predicted))
    yield Comparison(10, "NC1 / P", noisy, ratio, lambda: nc1(shown, shown.label))
    yield Comparison(8, "NC1 / P", ALL, ratio, lambda: nc1(shown, shown.predicted, "released"))
    variation = cache(lambda: norm_coefficient_of_variation(train.latent))
    yield Comparison(20, "coefficient of variation", "the released function", variation, raises)


def entropy(run: Run) -> Iterator[Comparison]:
    """Lines 10 and 11 and the 2025 release: k-NN entropy in nats."""
    z, noisy, points = run.train.latent.double(), run.augmented.latent.double(), len(run.train.latent)
    k = neighbours(points, run.splits.train.classes)

    def some() -> float:
        chosen = torch.randperm(points, generator=torch.Generator().manual_seed(0))[: points // 5]
        psi = torch.special.digamma(torch.tensor([points, len(chosen)], dtype=torch.float64))
        return knn_entropy(z[chosen.to(z.device)], k=k) + float(psi[0] - psi[1])

    here = cache(lambda: knn_entropy(z, k=k))
    name, floor = "entropy (nats)", "1e-10 added to distances"
    yield Comparison(11, name, "Chebyshev distance", here, lambda: knn_entropy(z, k=k, norm="linf"))
    yield Comparison(11, name, floor, here, lambda: knn_entropy(z, k=k, floor=1e-10))
    yield Comparison(10, name, "augmented images", here, lambda: knn_entropy(noisy, k=k))
    yield Comparison(11, name, ALL, here, lambda: knn_entropy(noisy, k=k, norm="linf", floor=1e-10))
    yield Comparison(
        11,
        f"{name}, latents × 1e-6",
        floor,
        lambda: knn_entropy(z * 1e-6, k=k),
        lambda: knn_entropy(z * 1e-6, k=k, floor=1e-10),
    )
    fifth = max(1, round(k / 5))
    yield Comparison(RELEASE_2025, name, "k a fifth: 20, not 100", here, lambda: knn_entropy(z, k=fifth))
    yield Comparison(RELEASE_2025, name, "a fifth of the points, ψ of all", here, some)


def mixtures(run: Run) -> Iterator[Comparison]:
    """Lines 16 and 22: the mixtures of Figure 2, for networks with an added layer."""
    if run.model.head.penultimate is None:
        return
    z = run.train.latent
    raw, weighted = cache(lambda: binarity(z)), cache(lambda: binarity(z, convention="released"))
    standard = cache(lambda: binarity(z, standardise=True))
    floored = cache(lambda: binarity(z, standardise=True, reg_covar=RELEASED_RIDGE))
    released = cache(lambda: binarity(z, standardise=True, convention="released", reg_covar=RELEASED_RIDGE))
    yield Comparison(22, "ℓ̄", "mixture weights", lambda: raw()[0], lambda: weighted()[0])
    for place, name in enumerate(("ℓ̄", "σ̄", "μ̄")):

        def of(fit: Callable[[], tuple], place: int = place) -> Number:
            return lambda: float(fit()[place])

        yield Comparison(16, name, "standardised nodes", of(raw), of(standard))
        yield Comparison(16, f"{name}, standardised", "1e-6 added to variances", of(standard), of(floored))
        yield Comparison(16, name, ALL, of(raw), of(released))


def attack(run: Run) -> Iterator[Comparison]:
    """Line 12: the relative norm of DeepFool's perturbation, in float64."""
    images, model = run.splits.test, run.model.double()
    pixels, chosen = images.normalised().double(), attacked_images(images)
    plain = deepfool(lambda batch: model(batch).logits, pixels)
    floored = deepfool(lambda batch: model(batch).logits, pixels, step_floor=RELEASED_STEP_FLOOR)
    model.float()
    norms, steps = (
        torch.as_tensor(relative_perturbation(found.perturbation, pixels)) for found in (plain, floored)
    )
    shown = in_pixels(plain.perturbation, pixels, images)[chosen]

    def here() -> float:
        return float(norms[chosen].mean())

    def fooled() -> float:
        if not bool(plain.fooled[chosen].any()):
            raise ValueError("DeepFool fooled no image")
        return float(norms[chosen][plain.fooled[chosen]].mean())

    name = "DeepFool norm"
    yield Comparison(12, name, "1e-4 added to steps", here, lambda: float(steps[chosen].mean()))
    yield Comparison(12, name, f"{len(images)} images, not {len(chosen)}", here, lambda: float(norms.mean()))
    yield Comparison(12, name, "unfooled left out", here, fooled)
    yield Comparison(12, name, "pixel units", here, lambda: float(shown.mean()))
    yield Comparison(12, name, ALL, here, lambda: float(steps.mean()))


def reliability(run: Run) -> Iterator[Comparison]:
    """Lines 13, 14 and 15: AUROC of telling correct from wrong test predictions."""
    train, test = run.train, run.test
    right = test.predicted == test.label
    fitted = (train.latent, train.label, train.predicted, test.latent, test.predicted)

    def odin(confidence: Convention, area: Convention) -> Number:
        return lambda: misclassification_auroc(
            odin_confidence(test.logits, convention=confidence), right, convention=area
        )

    def mahalanobis(confidence: Convention, area: Convention) -> Number:
        return lambda: misclassification_auroc(
            mahalanobis_confidence(*fitted, convention=confidence), right, convention=area
        )

    for name, auroc, line, switch in (
        ("AUROC, ODIN", odin, 13, "softmax twice"),
        ("AUROC, Mahalanobis", mahalanobis, 15, "the release's Gaussians"),
    ):
        here = auroc("paper", "paper")
        yield Comparison(line, name, switch, here, auroc("released", "paper"))
        yield Comparison(14, name, "101-point sum", here, auroc("paper", "released"))
        yield Comparison(line, name, ALL, here, auroc("released", "released"))


def convergence(run: Run) -> Iterator[Comparison]:
    """Line 23: the epoch after which train accuracy is 99.9 %."""

    def first(epochs: pd.DataFrame) -> float:
        passed = epochs.loc[epochs["accuracy"] >= TERMINAL_ACCURACY, "epoch"]
        if passed.empty:
            raise ValueError(f"train accuracy never reached {TERMINAL_ACCURACY}")
        return float(passed.min())

    epoch = run.history["epoch"]
    recorded = run.history[(epoch % run.record_every == 0) | (epoch == epoch.max())]
    yield Comparison(
        23,
        "terminal epoch",
        f"looked at every {run.record_every} epochs",
        lambda: first(run.history),
        lambda: first(recorded),
    )


TOPICS = (spread, entropy, mixtures, attack, reliability, convergence)


def comparisons(study: Study, architectures: Sequence[str] = ARCHITECTURES) -> pd.DataFrame:
    """Return every comparison of the selected runs, one row per comparison, architecture and seed.

    Parameters
    ----------
    study
        Study with the runs of a profile.
    architectures
        Architectures to read.

    Returns
    -------
    DataFrame
        Columns ``line``, ``quantity``, ``switch``, ``architecture``, ``seed``, ``here``, ``switched`` and
        ``effect`` (switched - here for :data:`DIFFERENCES`, else switched / here). A number that does not
        exist is NaN, and ``missing`` says why.
    """
    rows = []
    pairs = study.selected[["architecture", "seed"]].itertuples(index=False)
    for name, seed in pairs:
        if name in architectures:
            run = load(study, str(name), int(seed))
            for topic in TOPICS:
                rows += [{**row, "architecture": name, "seed": seed} for row in map(evaluate, topic(run))]
    return pd.DataFrame(rows)
