"""Metrics of a run: of its training latents during training, and of the test set once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from lpc.arrays import tensor_of
from lpc.data import ImageSet, Splits
from lpc.evaluation import (
    binarity,
    calibration,
    collapse,
    information,
    lipschitz,
    misclassification,
    neural_collapse,
    reliability,
    robustness,
)
from lpc.evaluation.attacks import in_float64
from lpc.heads import Classifier, readout_weight
from lpc.latents import Latents, collect

ATTACKED_IMAGES = 100
"""Number of test images that DeepFool attacks, as in LPC Table 2."""
RELEASED_STEP_FLOOR = 1e-4
"""Constant that the 2024 release adds to the length of each of DeepFool's steps."""
SHRINKAGE = 0.1
"""Shrinkage of the second Mahalanobis column, for classes with fewer points than the latent has nodes."""


@dataclass
class Measured:
    """Metrics by name; one that could not be computed is None, with its reason under ``missing``.

    Attributes
    ----------
    values
        Metrics by name; None: the metric could not be computed.
    missing
        Reason for each missing metric, by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, names: Iterable[str], compute: Callable[[], Any]) -> None:
        """Compute one value or a tuple: a ValueError makes all of it missing, else only non-finite values."""
        names = list(names)
        try:
            result = compute()
        except ValueError as error:
            self.missing.update(dict.fromkeys(names, str(error)))
            result = [None] * len(names)
        values = result if isinstance(result, (list, tuple)) else [result]
        for name, value in zip(names, values, strict=True):
            if isinstance(value, float) and not math.isfinite(value):
                self.missing[name], value = f"the value is {value}", None
            self.values[name] = value

    def as_dict(self) -> dict[str, Any]:
        """Return values and reasons as one mapping."""
        return {**self.values, "missing": self.missing}


def neighbours(images: int, classes: int) -> int:
    """Return k for the entropy: 2 % of the mean class size (100 for CIFAR10's 5,000), at least 1.

    Parameters
    ----------
    images
        Number of images.
    classes
        Number of classes.
    """
    return max(1, round(0.02 * images / classes))


def latent_metrics(
    latents: Latents,
    *,
    weight: Tensor,
    bias: Tensor,
    classes: int,
    mixtures: bool,
    entropies: bool = True,
) -> Measured:
    """Measure the columns of LPC Table 1 and Figures 2 and 3 on latents, raw and scale-free.

    Parameters
    ----------
    latents
        Latents of the train set, without augmentation.
    weight, bias
        Weight and bias of the last classifier (:func:`~lpc.heads.readout_weight`), for NC3, NC4 and the
        accuracy without bias.
    classes
        Number of classes.
    mixtures
        Whether to fit the mixtures of Figure 2, by far the slowest part.
    entropies
        Whether to estimate entropies, the slowest of the other parts for wide latents.
    """
    z, label = latents.latent.double(), latents.label
    k = neighbours(len(label), classes)
    measured = Measured()
    add = measured.add

    def unit() -> Tensor:
        return collapse.rescale_to_unit_rms(z)

    add(["accuracy"], lambda: accuracy(latents.logits, label))
    add(["bias_free_accuracy"], lambda: accuracy(z @ weight.double().T, label))
    add(["nearest_mean_accuracy"], lambda: collapse.nearest_mean_accuracy(z, label, z, label))
    add(["cross_entropy"], lambda: float(cross_entropy(latents.logits.double(), label)))
    add(["trace_within", "trace_between", "trace_ratio"], lambda: collapse.within_between_traces(z, label))
    add(
        ["sigma_w_mean_entry"],
        lambda: collapse.mean_entry(collapse.within_class_covariance(z, label, convention="released")),
    )
    add(["coefficient_of_variation"], lambda: collapse.norm_coefficient_of_variation(z))
    add(["rms"], lambda: float(z.square().mean().sqrt()))
    if entropies:
        add(["knn_entropy"], lambda: information.knn_entropy(z, k=k))
        add(["knn_entropy_unit_rms"], lambda: information.knn_entropy(unit(), k=k))
    if mixtures:
        add([f"binarity_{name}" for name in binarity.Binarity._fields], lambda: binarity.binarity(z))
    nc = (
        "nc1",
        "nc1_per_node",
        "nc1_per_rank",
        "nc_equinorm",
        "nc_equiangularity",
        "nc_max_angle",
        "nc3",
        "nc4",
    )
    add(nc, lambda: _neural_collapse(z, label, weight, bias))
    return measured


def _neural_collapse(z: Tensor, label: Tensor, weight: Tensor, bias: Tensor) -> list[Any]:
    found = neural_collapse.neural_collapse(z, label, classifier_weight=weight, classifier_bias=bias)
    return [value for name, value in found._asdict().items() if name != "trace_ratio"]


def cube_metrics(latents: Latents) -> tuple[float, int, int]:
    """Return measures of the class means against a hypercube: spread, sign patterns, dead nodes.

    Parameters
    ----------
    latents
        Latents and labels whose class means are taken.
    """
    cube = binarity.hypercube(latents.latent.double(), latents.label)
    return cube.mean_variation, cube.patterns, cube.dead


def accuracy(scores: Tensor, label: Tensor) -> float:
    """Return the share of points whose largest score belongs to their label.

    Parameters
    ----------
    scores
        Scores, shape (points, classes).
    label
        Class of each point, shape (points,).
    """
    return float((scores.argmax(dim=1) == label).double().mean())


def table2_metrics(model: Classifier, splits: Splits) -> Measured:
    """Measure the columns of LPC Table 2 on the test set.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images.
    splits
        Images to measure on: the train set for class Gaussians and means, the test set for everything else.

    Notes
    -----
    DeepFool attacks the same :data:`ATTACKED_IMAGES` test images for every run, drawn with seed 0 and
    correctly classified or not, in float64 and in normalised units; its mean ratio over all of them is
    the paper's column, with unfooled images counted beside it.
    """
    train, test = collect(model, splits.train), collect(model, splits.test)
    correct = test.predicted == test.label
    measured = Measured()
    add = measured.add
    add(["accuracy"], lambda: accuracy(test.logits, test.label))
    head: Any = model.head
    readout = readout_weight(head.classifier.weight.detach().double(), head.classifier_kind)
    bias_free = test.latent.double() @ readout.T
    add(["bias_free_accuracy"], lambda: accuracy(bias_free, test.label))
    add(
        ["nearest_mean_accuracy"],
        lambda: collapse.nearest_mean_accuracy(train.latent, train.label, test.latent, test.label),
    )
    add(["cross_entropy"], lambda: float(cross_entropy(test.logits.double(), test.label)))
    add(["trace_ratio"], lambda: collapse.within_between_traces(test.latent, test.label)[2])
    fitted = (train.latent, train.label, train.predicted, test.latent, test.predicted)
    ways = {
        "mahalanobis": lambda: reliability.mahalanobis_confidence(*fitted),
        "mahalanobis_shrunk": lambda: reliability.mahalanobis_confidence(*fitted, shrinkage=SHRINKAGE),
        "odin": lambda: reliability.odin_confidence(test.logits),
    }
    for name, confidence in ways.items():
        names = [f"{metric}_{name}" for metric in ("auroc", "aupr_error", "fpr95", "aurc")]
        add(names, lambda confidence=confidence: _detection(confidence(), correct))
    add(
        ["ece"],
        lambda: calibration.expected_calibration_error(test.logits.double().softmax(dim=1), test.label),
    )
    _attack(measured, model, splits.test, correct)
    return measured


def _detection(confidence: Tensor, correct: Tensor) -> tuple[float, float, float, float]:
    """Return AUROC, AUPR of errors, FPR at 95 % TPR and area under the risk-coverage curve."""
    return (
        misclassification.misclassification_auroc(confidence, correct),
        misclassification.misclassification_aupr(confidence, correct, positive="error"),
        misclassification.misclassification_fpr(confidence, correct),
        misclassification.risk_coverage_area(confidence, correct).aurc,
    )


def attacked_images(images: ImageSet, *, count: int | None = None) -> Int64[Tensor, " attacked"]:
    """Return the indices of the images that are attacked in every run, drawn with seed 0; all if fewer.

    Parameters
    ----------
    images
        Number of images in the test set.
    count
        Number of images to attack, always in the same order; None: :data:`ATTACKED_IMAGES`.
    """
    drawn = torch.randperm(len(images), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    return drawn[: ATTACKED_IMAGES if count is None else count].to(images.images.device)


def in_pixels(
    perturbation: Float[Tensor, "batch channel row column"],
    inputs: Float[Tensor, "batch channel row column"],
    images: ImageSet,
) -> Float64[Tensor, " batch"]:
    """Return relative perturbations of normalised inputs in units of pixels, where black is zero.

    Parameters
    ----------
    perturbation
        Perturbation of the normalised images.
    inputs
        Normalised images.
    images
        Image set with the mean and sd of that normalisation.
    """
    change, pixels = images.change_in_pixels(perturbation), images.in_pixels(inputs)
    return tensor_of(robustness.relative_perturbation(change, pixels))


def _attack(measured: Measured, model: Classifier, images: ImageSet, correct: Tensor) -> None:
    """Attack a fixed sample with DeepFool and add relative norms: all, correct alone, fooled alone, in pixel
    units, with the release's step floor; and how steep the logit margin is at the same images.
    """
    chosen = attacked_images(images)
    inputs = images.normalised(chosen).double()
    logits = in_float64(model)
    result = robustness.deepfool(logits, inputs)
    floored = robustness.deepfool(logits, inputs, step_floor=RELEASED_STEP_FLOOR).perturbation
    ratio = tensor_of(robustness.relative_perturbation(result.perturbation, inputs))
    pixel = in_pixels(result.perturbation, inputs, images)
    right = correct[chosen]
    measured.add(["deepfool_relative_norm"], lambda: float(ratio.mean()))
    measured.add(["deepfool_relative_norm_correct"], lambda: float(ratio[right].mean()))
    measured.add(["deepfool_relative_norm_fooled"], lambda: float(ratio[result.fooled].mean()))
    measured.add(
        ["deepfool_step_floor_relative_norm"],
        lambda: float(tensor_of(robustness.relative_perturbation(floored, inputs)).mean()),
    )
    measured.add(["deepfool_median"], lambda: float(ratio.quantile(0.5)))
    measured.add(["deepfool_relative_norm_pixel"], lambda: float(pixel.mean()))
    measured.add(["deepfool_unfooled"], lambda: int((~result.fooled).sum()))
    measured.add(["deepfool_images"], lambda: len(chosen))
    measured.add(
        ["margin_gradient_mean", "margin_gradient_max"],
        lambda: lipschitz.lipschitz_estimate(logits, inputs)[1:3],
    )
