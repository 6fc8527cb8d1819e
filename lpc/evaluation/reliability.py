"""Confidence of a classifier in a prediction: Mahalanobis distance of the latent, and ODIN."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.arrays import (
    EPSILON,
    Array,
    ArrayT,
    Convention,
    as_float64,
    as_labels,
    as_points,
    check_convention,
    like,
    rows_at_once,
)
from lpc.computing.numerics import measurement
from lpc.computing.options import number
from lpc.computing.threads import threads_for
from lpc.evaluation.misclassification import misclassification_auroc as misclassification_auroc

RELEASED_RIDGE = 1e-6
"""Constant that scikit-learn's GaussianMixture adds to every variance by default (``reg_covar``)."""
RELEASED_SKIPS = 2
"""Largest number of correctly classified points with which the release skips a class."""


class Gaussian(NamedTuple):
    """Gaussian of one class, in standardised units.

    Attributes
    ----------
    mean
        Class mean, shape (width,).
    sd
        Square root of the covariance's diagonal, shape (width,).
    factor
        Lower Cholesky factor of the correlations, shape (width, width).
    """

    mean: Tensor
    sd: Tensor
    factor: Tensor

    @measurement
    def distance(self, points: Float64[Tensor, "points width"]) -> Float64[Tensor, " points"]:
        """Return the Mahalanobis distance of standardised points."""
        scaled = (points - self.mean).div_(self.sd)
        with threads_for(scaled.numel() * scaled.shape[1] / 2):
            whitened = torch.linalg.solve_triangular(self.factor, scaled.T, upper=False)
        return torch.linalg.vector_norm(whitened, dim=0)


class ClassGaussians:
    """One Gaussian per class, of correctly classified training points, to judge any number of batches.

    Parameters
    ----------
    train_latent, train_label, train_predicted, shrinkage, convention
        The arguments of :func:`mahalanobis_confidence`.

    Notes
    -----
    A class is fitted whenever one of its points is judged, unless :meth:`fit` has kept its Gaussian.
    """

    @measurement
    def __init__(
        self,
        train_latent: Float[Array, "train width"],
        train_label: Integer[Array, " train"],
        train_predicted: Integer[Array, " train"],
        *,
        shrinkage: float = 0.0,
        convention: Convention = "paper",
    ) -> None:
        check_convention(convention)
        shrinkage = number("shrinkage", shrinkage, least=0, most=1)
        if convention == "released" and shrinkage != 0:
            raise ValueError(f"shrinkage is {shrinkage}; convention='released' has none, only its 1e-6")
        self.shrinkage, self.released = shrinkage, convention == "released"
        self.train = as_points(train_latent, name="train_latent")
        self.label = as_labels(train_label, self.train, name="train_label")
        self.well = self.label == as_labels(train_predicted, self.train, name="train_predicted")
        self.kept: dict[int, Gaussian] = {}
        variance, self.location = torch.var_mean(self.train, dim=0, correction=0)
        self.scale = variance.sqrt()
        low, high = self.train.amin(dim=0), self.train.amax(dim=0)
        largest = torch.maximum(low.abs(), high.abs())
        constant = torch.maximum(high - self.location, self.location - low) <= 8 * EPSILON * largest
        if bool(constant.any()):
            nodes = torch.nonzero(constant).flatten().tolist()
            raise ValueError(
                f"nodes {nodes} of train_latent are constant and have no Gaussian; leave them out"
            )

    @measurement
    def fit(self, classes: Iterable[int]) -> ClassGaussians:
        """Fit and keep the Gaussians of some classes (width squared times 8 bytes each); return self.

        Raises
        ------
        ValueError
            If a class has no Gaussian, as in :func:`mahalanobis_confidence`.
        """
        self.kept.update({int(value): self.gaussian(int(value)) for value in classes})
        return self

    @measurement
    def confidence(
        self, latent: Float[ArrayT, "points width"], predicted: Integer[Array, " points"]
    ) -> Float64[ArrayT, " points"]:
        """Return minus the distance of each point to its predicted class: :func:`mahalanobis_confidence`."""
        points = as_points(latent)
        if self.train.shape[1] != points.shape[1]:
            raise ValueError(
                f"train_latent has width {self.train.shape[1]}; latent has width {points.shape[1]}"
            )
        decision = as_labels(predicted, points, name="predicted").to(self.train.device)
        judged = points.to(self.train.device)
        confidence = torch.empty(len(points), dtype=torch.float64, device=self.train.device)
        size = rows_at_once(points.shape[1], self.train.device)
        for value in decision.unique().tolist():
            gaussian = self.kept[value] if value in self.kept else self.gaussian(value)
            for chosen in torch.nonzero(decision == value).flatten().split(size):
                standardised = judged[chosen].sub_(self.location).div_(self.scale)
                confidence[chosen] = -gaussian.distance(standardised)
        return like(confidence.to(points.device), latent)

    @measurement
    def gaussian(self, value: int) -> Gaussian:
        """Return the Gaussian of a class; ValueError if it has none."""
        member = (self.train[self.well & (self.label == value)] - self.location) / self.scale
        count, width = member.shape
        if count == 0:
            raise ValueError(
                f"class {value} is predicted, but none of its training points is classified correctly"
            )
        if self.released and count <= RELEASED_SKIPS:
            raise ValueError(
                f"class {value} has {count} well-classified training points: convention='released' skips it. "
                "Leave out the points with this prediction"
            )
        mean = member.mean(dim=0)
        mean = mean + (member - mean).mean(dim=0)
        deviation = member - mean
        with threads_for(deviation.numel() * width):
            covariance = deviation.T @ deviation / count
        diagonal = covariance.diagonal()
        if self.released:
            diagonal += RELEASED_RIDGE
        elif self.shrinkage > 0:
            isotropic = diagonal.mean()
            covariance *= 1 - self.shrinkage
            diagonal += self.shrinkage * isotropic
        sd = diagonal.sqrt()
        singular = self.shrinkage == 0 and not self.released and count <= width
        if not singular and bool((sd > 0).all()):
            factor, info = torch.linalg.cholesky_ex(covariance / sd / sd[:, None])
            if int(info) == 0 and float(factor.diagonal().min()) > (10 * width * EPSILON) ** 0.5:
                return Gaussian(mean, sd, factor)
        raise ValueError(
            f"the covariance of class {value} is singular: {count} well-classified training points in "
            f"{width} dimensions; pass shrinkage above 0, or fewer dimensions"
        )


@measurement
def mahalanobis_confidence(
    train_latent: Float[Array, "train width"],
    train_label: Integer[Array, " train"],
    train_predicted: Integer[Array, " train"],
    latent: Float[ArrayT, "points width"],
    predicted: Integer[Array, " points"],
    *,
    shrinkage: float = 0.0,
    convention: Convention = "paper",
) -> Float64[ArrayT, " points"]:
    r"""Return minus the Mahalanobis distance of each point to the Gaussian of its predicted class.

    Parameters
    ----------
    train_latent, train_label, train_predicted
        Latents, labels and predictions of the training points; a class's Gaussian is fitted to the points
        with its label that are also predicted so.
    latent, predicted
        Latents of the points to judge, and the network's prediction for each.
    shrinkage
        Shrinkage from 0 to 1: the covariance S of a class becomes (1 - shrinkage) S + shrinkage (tr S /
        width) I, in standardised units. At 0 a class needs more than ``width`` points; for wide layers choose
        a value above 0 and report it.
    convention
        Regularisation. ``"paper"``: nothing is added to variances. ``"released"``: 1e-6 is added, in
        standardised units.

    Returns
    -------
    array
        Confidence, at most 0, higher is more confident; float64, same kind of array as ``latent``.

    Raises
    ------
    ValueError
        If the arrays are invalid; a node is constant over the training points; a predicted class has no
        correctly classified training point; the covariance of a class is singular (named); or, as released, a
        class has at most 2 correctly classified points (named: the release skips it, and its points have no
        confidence), or shrinkage is used.

    Notes
    -----
    :math:`-\sqrt{(z-\mu_c)^\top \Sigma_c^{-1} (z-\mu_c)}` with :math:`\Sigma_c` the maximum-likelihood
    covariance (divided by :math:`n_c`). Each dimension is first standardised by its mean and
    population sd over all training points. For the paper that changes the result only through the
    shrinkage. A covariance is singular where a pivot of the Cholesky factor of its correlations is at or
    below :math:`(10 P \epsilon)^{1/2}`.

    ``released``: :math:`\Sigma_c + 10^{-6} I`, scikit-learn's ``GaussianMixture`` of one component after
    its ``StandardScaler``. Where a class is narrower than 1e-3 of a node's sd, the ridge takes the place of
    its covariance. That the test points are standardised by the training points is our reading.

    To judge many batches with one fit: :class:`ClassGaussians`.

    References
    ----------
    LPC 2024, Section 3.2 and Table 2; Lee et al. 2018.
    """
    gaussians = ClassGaussians(
        train_latent, train_label, train_predicted, shrinkage=shrinkage, convention=convention
    )
    return gaussians.confidence(latent, predicted)


@measurement
def odin_confidence(
    logits: Float[ArrayT, "points classes"], *, temperature: float = 100.0, convention: Convention = "paper"
) -> Float64[ArrayT, " points"]:
    r"""Return the largest probability of the softmax at a temperature, without input perturbation.

    Parameters
    ----------
    logits
        Logits, shape (points, classes), float32 or float64.
    temperature
        Temperature T, above 0.
    convention
        Definition of the score. ``"paper"``: softmax(logits / T). ``"released"``: exp(softmax(logits) / T),
        normalised.

    Returns
    -------
    array
        Confidence between 1 / classes and 1, higher is more confident; float64, same kind of array as
        ``logits``.

    Raises
    ------
    ValueError
        If the array is invalid, there are fewer than two classes, or the temperature is not above 0.

    References
    ----------
    LPC 2024, Section 3.2 and Table 2; Liang et al. 2018 (ODIN).
    """
    check_convention(convention)
    temperature = number("temperature", temperature, above=0)
    value = as_float64(logits, name="logits", dims=2)
    if value.shape[1] < 2:
        raise ValueError(f"logits has shape {tuple(value.shape)}; expected 2 or more classes")
    if convention == "released":
        value = value.softmax(dim=1)
    return like((value / temperature).softmax(dim=1).amax(dim=1), logits)
