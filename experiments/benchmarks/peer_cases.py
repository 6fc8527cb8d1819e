"""Cases of the chapter on cost against pytorch-ood and torchmetrics, with equal results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.sizes import CLASSES, Size, points_of
from experiments.benchmarks.timing import Case
from lpc.computing.generators import seeded
from lpc.evaluation.calibration import expected_calibration_error
from lpc.evaluation.detection import energy_confidence, mahalanobis_detection, neighbour_confidence
from lpc.evaluation.misclassification import misclassification_auroc
from lpc.evaluation.odin import odin_input

NEIGHBOUR = 50


def peers(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield scores of out-of-distribution points, calibration and error detection, ours in float64."""
    del device  # the other libraries run on the CPU
    total = CLASSES * size.train
    latent = points_of(total + size.judged, size.width, 0.3)
    train, points = latent[:total], latent[total:]
    label = np.arange(total) % CLASSES
    known, judged = (torch.from_numpy(part) for part in (train, points))
    of = torch.from_numpy(label)
    logits = torch.randn(size.collapse_points, CLASSES, generator=torch.Generator().manual_seed(0)).double()
    share, right = logits.softmax(dim=1), torch.arange(len(logits)) % CLASSES
    shape = f"{total:,} and {len(points):,} points, width {size.width}"

    def gaussian(detector: Any) -> Any:  # theirs divides by twice the number of points
        found = detector(None).fit_features(known.float(), of).predict_features(judged.float())
        return -2 * total * found

    def nearest(detector: Any) -> Any:
        found = detector(None, k=NEIGHBOUR).fit_features(known, torch.zeros_like(of))
        return -found.predict_features(judged)

    yield Case(
        what=f"Mahalanobis detection, tied, {shape}",
        against="pytorch-ood, float32",
        ours=lambda: mahalanobis_detection(known, of, judged).confidence,
        theirs=_with("pytorch_ood.detector", "Mahalanobis", gaussian),
        tolerance=1e-2,
    )
    yield Case(
        what=f"{NEIGHBOUR}th neighbour, {shape}",
        against="pytorch-ood",
        ours=lambda: neighbour_confidence(known, judged, k=NEIGHBOUR),
        theirs=_with("pytorch_ood.detector", "KNN", nearest),
        tolerance=1e-4,
    )
    yield Case(
        what=f"energy of {len(logits):,} points",
        against="pytorch-ood",
        ours=lambda: energy_confidence(logits),
        theirs=_with("pytorch_ood.detector", "EnergyBased", lambda detector: -detector.score(logits)),
        tolerance=1e-9,
    )
    with seeded(0):
        layers = torch.nn.Flatten(), torch.nn.Linear(256, 128), torch.nn.SiLU(), torch.nn.Linear(128, CLASSES)
        network = torch.nn.Sequential(*layers).double().eval()
        image = torch.rand(size.images, 1, 16, 16, dtype=torch.float64)
    yield Case(
        what=f"ODIN's step for {len(image):,} images",
        against="pytorch-ood",
        ours=lambda: odin_input(network, image),
        theirs=_with("pytorch_ood.detector", "odin_preprocessing", lambda step: step(network, image)),
        tolerance=1e-9,
    )
    yield Case(
        what=f"calibration error of {len(logits):,} points",
        against="torchmetrics",
        ours=lambda: expected_calibration_error(share, right),
        theirs=_with(
            "torchmetrics.functional.classification",
            "multiclass_calibration_error",
            lambda error: error(share, right, num_classes=CLASSES, n_bins=15),
        ),
        tolerance=1e-4,  # theirs counts a confidence on an edge in the upper bin
    )
    score, correct = share.amax(dim=1), share.argmax(dim=1) == right
    yield Case(
        what=f"AUROC of {len(logits):,} confidences",
        against="torchmetrics",
        ours=lambda: misclassification_auroc(score, correct),
        theirs=_with(
            "torchmetrics.functional.classification",
            "binary_auroc",
            lambda area: area(score, correct.long()),
        ),
        tolerance=1e-5,
    )


def _with(module: str, name: str, call: Callable[[Any], Any]) -> Callable[[], Any] | None:
    """Return a call of a library's function; None if the library is not installed."""
    from importlib import import_module

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = getattr(import_module(module), name)
    except ModuleNotFoundError:
        return None
    return lambda: call(found)
