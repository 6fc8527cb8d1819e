"""Collapse, calibration and error detection as torchmetrics metrics: in batches, over processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lpc.arrays import Convention, as_flags, as_float64
from lpc.computing.numerics import measurement
from lpc.computing.options import choice, whole
from lpc.evaluation.calibration import _averaged, _bin_sums, _class_bin_gaps
from lpc.evaluation.class_moments import ClassMoments
from lpc.evaluation.misclassification import (
    misclassification_aupr,
    misclassification_auroc,
    misclassification_fpr,
    risk_coverage_area,
)
from lpc.evaluation.neural_collapse_metric import Metric, NeuralCollapseMetric, dim_zero_cat


class CollapseMetric(NeuralCollapseMetric):
    """Traces, Gram distance and CDNV of the latents seen since the last reset, over all processes.

    Parameters
    ----------
    classes, width, max_bytes, **kwargs
        The arguments of :class:`~.neural_collapse_metric.NeuralCollapseMetric`.
    measure
        Measure to return as a scalar: ``"trace_within"``, ``"trace_between"``, ``"trace_ratio"``,
        ``"gram_distance"`` or ``"cdnv"``; None: all of them, in a dict. CDNV needs a scatter matrix per
        class, the others one in all.

    Notes
    -----
    The measures are those of :class:`~.class_moments.ClassMoments`; a measure that does not exist for the
    points seen is NaN, and a warning says why.
    """

    known = ("trace_within", "trace_between", "trace_ratio", "gram_distance", "cdnv")

    def __init__(
        self, *, classes: int, width: int, measure: str | None = None, max_bytes: int = 2**30, **kwargs: Any
    ) -> None:
        each: Convention = "released" if measure in (None, "cdnv") else "paper"  # a scatter per class, or one
        super().__init__(
            classes=classes, width=width, convention=each, measure=measure, max_bytes=max_bytes, **kwargs
        )

    def _values(self, moments: ClassMoments) -> dict[str, Any]:
        found = dict.fromkeys(self.known, math.nan)
        wanted = self.known if self.measure is None else (self.measure,)
        if any(name.startswith("trace") for name in wanted):
            found |= {
                f"trace_{name}": value for name, value in moments.within_between_traces()._asdict().items()
            }
        if "gram_distance" in wanted:
            found["gram_distance"] = moments.gram_distance()
        if "cdnv" in wanted:
            found["cdnv"] = moments.class_distance_variance()
        return found


class _Scalar(Metric):
    """A metric of one value, NaN with a warning if it does not exist for the points seen."""

    is_differentiable = False
    full_state_update = False

    @measurement
    def compute(self) -> Tensor:
        """Return the value for all points of all processes; NaN if it does not exist."""
        try:
            value = self._value()
        except ValueError as reason:  # each batch was valid: together they have no such measure
            warnings.warn(f"{type(self).__name__} is NaN: {reason}", stacklevel=2)
            value = math.nan
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    def _value(self) -> float:
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Any:
        """Move to another device, but never to another dtype."""
        return super()._apply(lambda value: value.to(fn(value.new_empty(0)).device), exclude_state)


class CalibrationMetric(_Scalar):
    """A calibration error of the probabilities seen since the last reset, over all processes.

    Parameters
    ----------
    classes
        Number of classes.
    measure
        Measure to return: ``"l1"`` (the expected calibration error), ``"l2"`` or ``"max"`` for the largest
        probability; or ``"classwise"``.
    bins
        Number of bins of equal width, as in :func:`~.calibration.expected_calibration_error`.
    **kwargs
        Options of :class:`torchmetrics.Metric`.

    Notes
    -----
    The value is that of :func:`~.calibration.expected_calibration_error`, or of
    :func:`~.calibration.classwise_calibration_error`, on all points at once: bins are sums. The adaptive
    error, whose bins depend on all points, is not among them.
    """

    higher_is_better = False
    sums: Tensor
    count: Tensor

    def __init__(
        self,
        *,
        classes: int,
        measure: str = "l1",
        bins: int = 15,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        choice("measure", measure, Literal["l1", "l2", "max", "classwise"])
        self.classes, self.bins = whole("classes", classes, least=2), whole("bins", bins)
        self.measure: Any = measure
        rows = classes if measure == "classwise" else 1
        empty = torch.zeros(rows, bins, dtype=torch.float64)
        self.add_state("sums", default=empty, dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros(bins, dtype=torch.int64), dist_reduce_fx="sum")

    @measurement
    def update(self, probability: Float[Tensor, "points classes"], label: Integer[Tensor, " points"]) -> None:
        """Add a batch; if an entry is no probability, raise a ValueError and add nothing."""
        sums, count = _bin_sums(probability, label, self.bins)
        if probability.shape[1] != self.classes:
            raise ValueError(f"probability has {probability.shape[1]} classes; expected {self.classes}")
        if self.measure == "classwise":
            self.sums = self.sums + _class_bin_gaps(probability, label, self.bins)
            first = torch.arange(self.bins, device=self.count.device) == 0  # how many points, once
            self.count = self.count + len(label) * first
        else:
            self.sums, self.count = self.sums + sums[:, 1], self.count + count

    def _value(self) -> float:
        points = int(self.count.sum())
        if points == 0:
            raise ValueError("there are no points yet: update with a batch first")
        if self.measure == "classwise":
            return float(self.sums.abs().sum()) / (points * self.classes)
        there = self.count > 0
        return _averaged((self.sums[0] / self.count)[there].abs(), self.count[there], self.measure)


class ErrorDetectionMetric(_Scalar):
    """Detection of errors by confidence, over the predictions since the last reset and over all processes.

    Parameters
    ----------
    measure
        Measure to return: ``"auroc"``, ``"fpr95"``, ``"aupr_error"`` or ``"aurc"``, see
        :mod:`lpc.evaluation.misclassification`.
    **kwargs
        Options of :class:`torchmetrics.Metric`.

    Notes
    -----
    Ranks need all points, at nine bytes each. If all predictions are correct, or all wrong,
    there is no ranking: the value is NaN, and a warning says so.
    """

    confidence: list[Tensor]
    correct: list[Tensor]

    def __init__(self, *, measure: str = "auroc", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        choice("measure", measure, Literal["auroc", "fpr95", "aupr_error", "aurc"])
        self.measure = measure
        self.add_state("confidence", default=[], dist_reduce_fx="cat")
        self.add_state("correct", default=[], dist_reduce_fx="cat")

    @measurement
    def update(self, confidence: Float[Tensor, " points"], correct: Tensor) -> None:
        """Add a batch of confidences, and whether each prediction is correct."""
        score = as_float64(confidence, name="confidence", dims=1)
        self.correct.append(as_flags(correct, score, name="correct"))
        self.confidence.append(score)

    def _value(self) -> float:
        if len(self.confidence) == 0:
            raise ValueError("there are no points yet: update with a batch first")
        score, right = dim_zero_cat(self.confidence), dim_zero_cat(self.correct)  # lists, or joined by a sync
        if self.measure == "auroc":
            return misclassification_auroc(score, right)
        if self.measure == "fpr95":
            return misclassification_fpr(score, right)
        if self.measure == "aurc":
            return risk_coverage_area(score, right).aurc
        return misclassification_aupr(score, right, positive="error")
