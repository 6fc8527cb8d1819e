"""Measures from sums of classes, taken batch by batch: covariance, traces, neural collapse."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import (
    EPSILON,
    Array,
    Convention,
    Groups,
    as_labels,
    as_points,
    binary_scale,
    check_convention,
    measuring_device,
    within_weights,
)
from lpc.computing.numerics import measurement
from lpc.computing.options import whole
from lpc.errors import Undefined
from lpc.evaluation._classes.class_means import (
    about_global_mean,
    as_classifier,
    check_several,
    check_spread,
    collapse_of_means,
    duality,
    whitening,
)
from lpc.evaluation._classes.class_sums import ClassSums, merged, no_points, with_points
from lpc.evaluation._classes.nearest import nearest_row
from lpc.evaluation.class_geometry import _class_distance_variance_of, _gram_distance_of
from lpc.evaluation.collapse import Traces
from lpc.evaluation.neural_collapse import NeuralCollapse

SMALLEST, LARGEST = 1e-130, 1e130  # beyond these, squares of deviations leave the range of doubles


class ClassMoments:
    r"""Running moments of labelled points: update with batches, merge over workers, then measure.

    Parameters
    ----------
    classes
        Number of classes; labels go from 0 to ``classes - 1``. Classes without points are left out of every
        measure.
    convention
        Average behind the within-class covariance, as in :func:`~.collapse.within_class_covariance`.
        ``"paper"`` keeps one scatter matrix. ``"released"`` weights a class by 1 / (its points - 1), known
        only at the end, and keeps one per class.
    width, device
        Width and device of the latents; None: those of the first batch.
    max_bytes
        Largest size of the scatter matrices in bytes; by default 1 GiB.

    Attributes
    ----------
    sums
        Current sums. They are replaced, never changed in place: an update that raises leaves them as they
        were.

    Raises
    ------
    ValueError
        If an argument is out of range, or the scatter matrices are larger than ``max_bytes``.

    Notes
    -----
    All is float64. The order of batches changes results by rounding alone. An update holds about three
    float64 copies of its batch and two of the scatter.

    An entry of a scatter is rounded to about 2e-16 of the largest, so NC1 is off by that times the ratio of
    the largest variance within classes to the one along the class means. :func:`.neural_collapse`, which
    has all points at once and no width by width matrix, has no such limit.

    One pass cannot give NC4, the share of points whose decision is not their nearest class mean: which mean
    is nearest is known only once the means stand still, and by then the points are gone. A second pass over
    the same points gives it::

        for latent, label in batches:
            moments.update(latent, label)
        result = moments.neural_collapse(classifier_weight=weight, classifier_bias=bias)
        wrong = 0
        for latent, label in batches:
            wrong += moments.disagreements(latent, classifier_weight=weight, classifier_bias=bias)
        result = result._replace(nc4=wrong / moments.points)
    """

    def __init__(
        self,
        *,
        classes: int,
        convention: Convention = "paper",
        width: int | None = None,
        device: torch.device | str | None = None,
        max_bytes: int = 2**30,
    ) -> None:
        check_convention(convention)
        width = None if width is None else whole("width", width)
        self.classes, self.max_bytes = whole("classes", classes, least=2), whole("max_bytes", max_bytes)
        self.convention: Convention = convention
        self.sums = self._no_points(width or 0, device)

    @property
    def width(self) -> int:
        """Return the width of the latents; 0 while it is unknown."""
        return self.sums.origin.shape[1]

    @property
    def points(self) -> int:
        """Return the number of points so far."""
        return int(self.sums.count.sum())

    @measurement
    def update(self, latent: Float[Array, "points width"], label: Integer[Array, " points"]) -> None:
        """Add a batch of latents, float32 or float64, and their classes.

        Raises
        ------
        ValueError
            If the batch is invalid: also for another width or device than before, a label out of range, or
            entries too large, or all too small, to square. Nothing is then added.
        """
        batch = as_points(latent)
        index = as_labels(label, batch)
        sums = self._fitting(batch)
        low, high = torch.aminmax(batch)
        largest = float(torch.maximum(-low, high))
        if largest > LARGEST or 0 < largest < SMALLEST:
            raise ValueError(
                f"the largest entry of latent is {largest}; expected {SMALLEST} to {LARGEST}: rescale"
            )
        lowest, highest = (int(value) for value in torch.aminmax(index))
        if lowest < 0 or highest >= self.classes:
            raise ValueError(f"labels go from {lowest} to {highest}; expected 0 to {self.classes - 1}")
        self.sums = with_points(sums, batch, index)

    @measurement
    def merge(self, other: ClassMoments) -> None:
        """Add all points of another, which stays as it is.

        Raises
        ------
        ValueError
            If the other moments have other classes, another convention or another width.
        """
        for name in ("classes", "convention"):
            if getattr(other, name) != getattr(self, name):
                raise ValueError(
                    f"{name}: cannot merge {getattr(other, name)!r} into {getattr(self, name)!r}"
                )
        if other.points:
            self.sums = merged(self._fitting(other.sums.origin.to(self.sums.origin.device)), other.sums)

    @measurement
    def within_class_covariance(self) -> Float64[Tensor, "width width"]:
        """Return :func:`~.collapse.within_class_covariance` of the points so far, with the same errors."""
        value, sums = self._seen(), self.sums
        if self.convention == "paper":
            covariance = sums.scatter[0] / self.points
        else:
            groups = Groups(value, torch.arange(len(value), device=value.device), sums.count[value])
            weight = torch.zeros(self.classes, dtype=torch.float64, device=value.device)
            weight[value] = within_weights(groups, self.convention)
            covariance = torch.tensordot(weight, sums.scatter, dims=1)
        return 0.5 * (covariance + covariance.T)

    @measurement
    def within_between_traces(self) -> Traces:
        """Return :func:`~.collapse.within_between_traces` of the points so far, with the same errors."""
        value = self._seen()
        check_several(value)
        check_spread(value, self.sums.count[value])
        within = float(self.sums.scatter.diagonal(dim1=1, dim2=2).sum()) / self.points
        between = float(self._means(value).square().sum(dim=1).mean())
        if between == 0.0:
            raise ValueError("latent: all class means coincide; the ratio of their traces is undefined")
        return Traces(within, between, within / between)

    @measurement
    def neural_collapse(
        self,
        *,
        classifier_weight: Float[Array, "outputs width"] | None = None,
        classifier_bias: Float[Array, " outputs"] | None = None,
    ) -> NeuralCollapse:
        """Return :func:`.neural_collapse` of the points so far, with the same errors, without NC4.

        The bias, which NC4 alone needs, is only checked.
        """
        value = self._seen()
        check_several(value)
        check_spread(value, self.sums.count[value])
        mean = self._means(value)
        classifier = as_classifier(classifier_weight, classifier_bias, value, mean)
        covariance, axes = self.within_class_covariance(), whitening(mean)
        within = float(covariance.trace())
        size = float((self.sums.origin + self.sums.offset)[value].abs().max()) + within**0.5
        of_means = collapse_of_means(
            mean,
            value,
            rounding=8 * EPSILON * size,
            whitened=float(((covariance @ axes) * axes).sum()),
            within=within,
        )
        result = NeuralCollapse(**of_means)
        return result if classifier is None else result._replace(nc3=duality(classifier.weight[value], mean))

    @measurement
    def gram_distance(self) -> float:
        """Return :func:`~.class_geometry.gram_distance` of the points so far, with the same errors."""
        value = self._seen()
        check_several(value)
        mean = self._means(value)
        return _gram_distance_of(mean / binary_scale(mean))

    @measurement
    def class_distance_variance(self) -> float:
        """Return :func:`~.class_geometry.class_distance_variance` of the points so far, with the same errors.

        Raises
        ------
        ValueError
            For the convention ``"paper"``, which keeps no scatter of single classes.
        """
        if self.convention == "paper":
            raise ValueError(
                "convention is 'paper', which keeps one scatter for all classes; pass 'released'"
            )
        value = self._seen()
        check_several(value)
        check_spread(value, self.sums.count[value])
        mean = self._means(value)
        scale = binary_scale(mean)
        within = self.sums.scatter[value].diagonal(dim1=1, dim2=2).sum(dim=1) / self.sums.count[value]
        return _class_distance_variance_of(mean / scale, within / scale / scale, value)

    @measurement
    def nearest_mean(self, latent: Float[Array, "points width"]) -> Int64[Tensor, " points"]:
        """Return the class whose mean is nearest to each point; ties go to the smaller label."""
        batch = as_points(latent)
        self._fitting(batch)
        value = self._seen()
        origin, offset = self.sums.origin[value], self.sums.offset[value]
        return value[nearest_row(batch - origin[0], origin - origin[0] + offset)]

    @measurement
    def disagreements(
        self,
        latent: Float[Array, "points width"],
        *,
        classifier_weight: Float[Array, "outputs width"],
        classifier_bias: Float[Array, " outputs"] | None = None,
    ) -> int:
        """Return the number of points that classifier and :meth:`nearest_mean` classify differently."""
        batch, nearest = as_points(latent), self.nearest_mean(latent)
        classifier = as_classifier(classifier_weight, classifier_bias, self._seen(), batch)
        if classifier is None:
            raise ValueError("classifier_weight is None: there are no decisions to compare")
        return int((classifier.decisions(batch) != nearest).sum())

    def _seen(self) -> Int64[Tensor, " seen"]:
        """Return the classes that have points; ValueError if none has."""
        if self.points == 0:
            raise Undefined("there are no points yet: update with a batch first")
        return self.sums.count.nonzero()[:, 0]

    def _means(self, value: Int64[Tensor, " seen"]) -> Float64[Tensor, "seen width"]:
        """Return the means of classes minus the mean of all points."""
        origin, offset = self.sums.origin[value], self.sums.offset[value]
        return about_global_mean(origin - origin[0] + offset, self.sums.count[value])

    def _fitting(self, points: Float64[Tensor, "points width"]) -> ClassSums:
        """Return sums to which points can be added, with the points' width and device if not yet known."""
        if self.width == 0:
            return self._no_points(points.shape[1], points.device)
        device = self.sums.origin.device
        if points.shape[1] != self.width:
            raise ValueError(f"the points so far have width {self.width}; these have width {points.shape[1]}")
        if points.device != device:
            raise ValueError(
                f"the sums are on {device} and latent on {points.device}: move latent, or give device"
            )
        return self.sums

    def _no_points(self, width: int, device: torch.device | str | None) -> ClassSums:
        pooled = self.convention == "paper"
        needed = 8 * width**2 * (1 if pooled else self.classes)
        if needed > self.max_bytes:
            raise ValueError(
                f"width {width} and convention={self.convention!r} need {needed} bytes of scatter matrices; "
                f"max_bytes is {self.max_bytes}. Raise it, use convention='paper' (one matrix) or "
                "neural_collapse on all points at once (none)"
            )
        place = None if device is None else measuring_device(torch.device(device))
        return no_points(self.classes, width, pooled=pooled, device=place)
