"""Neural collapse as a torchmetrics metric: batches, processes and checkpoints of a training loop."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import Module

from lpc.arrays import Convention, measuring_device
from lpc.computing.numerics import measurement
from lpc.computing.options import choice
from lpc.errors import Undefined, missing_extra
from lpc.evaluation._classes.class_sums import ClassSums, merged
from lpc.evaluation.class_moments import ClassMoments
from lpc.evaluation.neural_collapse import NeuralCollapse

try:
    from torchmetrics import Metric, MetricCollection
    from torchmetrics.utilities import dim_zero_cat as dim_zero_cat
except ModuleNotFoundError as error:
    what = "lpc.evaluation.neural_collapse_metric (unlike lpc.evaluation.class_moments)"
    raise missing_extra(what, ["torchmetrics"], "metrics") from error


class NeuralCollapseMetric(Metric):
    """NC1 to NC3 of the latents seen since the last reset, over all processes.

    Parameters
    ----------
    classes, width, convention, max_bytes
        The arguments of :class:`~.class_moments.ClassMoments`; the width is required, so that all processes
        hold states of one shape.
    classifier_weight
        Function that returns the weights of the last layer, shape (outputs, width), whenever a value is
        computed, such as ``lambda: model.head.weight``; a module-level function if the metric is pickled.
        None: no ``nc3``.
    measure
        Measure that ``compute()`` and ``forward()`` return as a scalar, for Lightning's ``self.log``,
        ``MetricTracker``, ``BootStrapper``, ``Running`` and ``plot``; None: all of them, in a dict.
    **kwargs
        Options of :class:`torchmetrics.Metric`, except ``dist_sync_on_step``.

    Notes
    -----
    ``compute()`` and ``forward()`` return a dict of float64 tensors without dimensions, named as in
    :class:`~.neural_collapse.NeuralCollapse`, or one of them. They are NaN, and a warning says why, if
    they do not exist for the points seen, such as those of one class in Lightning's sanity check: training
    continues. :meth:`collection` gives metrics of one measure each, with common states, for
    ``self.log_dict``. NC4 is not among them, because it takes a second pass: see
    :class:`~.class_moments.ClassMoments`, which :meth:`moments` returns.

    States are float64 and stay so under ``half()``, ``to(dtype)`` and ``set_dtype``. Batches must be on the
    metric's device, float32 or float64 (under autocast: ``latent.float()``). A batch refused with a
    ValueError changes nothing. ``forward`` also measures its batch alone; ``update`` does not, at half the
    cost.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False  # for Running; forward is our own
    known: tuple[str, ...] = tuple(name for name in NeuralCollapse._fields if name != "nc4")

    count: Tensor
    origin: Tensor
    offset: Tensor
    scatter: Tensor

    def __init__(
        self,
        *,
        classes: int,
        width: int,
        convention: Convention = "paper",
        classifier_weight: Callable[[], Tensor] | None = None,
        measure: str | None = None,
        max_bytes: int = 2**30,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.dist_sync_on_step:
            raise ValueError(
                "dist_sync_on_step is True: forward measures its own process's batch; leave it out"
            )
        function = callable(classifier_weight) and not isinstance(classifier_weight, Module)
        if classifier_weight is not None and not function:
            raise ValueError(
                "classifier_weight is no function; expected one that returns weights: lambda: layer.weight"
            )
        measures = list(self.known)
        if measure is not None:
            choice("measure", measure, measures)
        if measure == "nc3" and classifier_weight is None:
            raise ValueError("measure is 'nc3', which needs classifier_weight; it is None")
        self.measures = [name for name in measures if name != "nc3" or classifier_weight is not None]
        self.classes, self.max_bytes, self.measure = classes, max_bytes, measure
        self.convention: Convention = convention
        self.classifier_weight = classifier_weight
        empty = ClassMoments(classes=classes, convention=convention, width=width, max_bytes=max_bytes)
        for name, value in empty.sums._asdict().items():
            self.add_state(name, default=value, dist_reduce_fx=None)

    @classmethod
    def collection(cls, *measures: str, **options: Any) -> MetricCollection:
        """Return one metric for each measure, which share their states: for Lightning's ``self.log_dict``.

        Parameters
        ----------
        *measures
            Names of the measures; none given: all of them, ``nc3`` only with a ``classifier_weight``.
        **options
            Arguments of the class, except ``measure``.
        """
        names = list(measures) or cls(**options).measures
        return MetricCollection({name: cls(measure=name, **options) for name in names})

    @measurement
    def update(self, latent: Float[Tensor, "points width"], label: Integer[Tensor, " points"]) -> None:
        """Add a batch."""
        if self.count.ndim > 1:
            raise ValueError("the metric holds the states of all processes: unsync() it before an update")
        moments = self.moments()
        moments.update(latent, label)
        self._keep(moments)

    @measurement
    def compute(self) -> Any:
        """Return the measures of all points of all processes; NaN if they do not exist."""
        return self._measures(self.moments())

    @measurement
    def forward(self, latent: Float[Tensor, "points width"], label: Integer[Tensor, " points"]) -> Any:
        """Add a batch, and return the measures of this batch; NaN if they do not exist."""
        batch = self._moments_of(None)
        batch.update(latent, label)
        value = self._measures(batch)
        self.update(latent, label)
        self._forward_cache = value
        return value

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the points of another metric, or of its ``metric_state``."""
        if isinstance(incoming_state, NeuralCollapseMetric):
            other = incoming_state.moments()
        elif isinstance(incoming_state, Mapping) and set(ClassSums._fields) <= set(incoming_state):
            other = self._moments_of(incoming_state)
        else:
            raise ValueError(
                f"incoming_state is a {type(incoming_state).__name__}; expected a NeuralCollapseMetric, or a "
                f"dict of {', '.join(ClassSums._fields)}"
            )
        moments = self.moments()
        moments.merge(other)
        self._keep(moments)
        self._computed = None
        self._update_count += 1

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value or several, as torchmetrics does, of ``measure`` or of all measures."""
        return self._plot(val, ax)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Add the points of a state: what torchmetrics' wrappers call."""
        moments = self.moments()
        moments.merge(self._moments_of(incoming_state))
        self._keep(moments)

    def moments(self) -> ClassMoments:
        """Return the moments of the points of this process; of all processes while the metric is synced."""
        return self._moments_of({name: getattr(self, name) for name in ClassSums._fields})

    def _moments_of(self, state: Mapping[str, Tensor] | None) -> ClassMoments:
        moments = ClassMoments(classes=self.classes, convention=self.convention, max_bytes=self.max_bytes)
        if state is None:
            return moments
        sums = ClassSums(*(state[name] for name in ClassSums._fields))
        if sums.count.ndim == 1:
            moments.sums = sums
        else:  # stacked: one of each process
            first, *rest = (ClassSums(*part) for part in zip(*sums, strict=True))
            moments.sums = functools.reduce(merged, rest, first)
        return moments

    def _keep(self, moments: ClassMoments) -> None:
        for name, value in moments.sums._asdict().items():
            setattr(self, name, value)

    def _measures(self, moments: ClassMoments) -> Any:
        try:
            result = self._values(moments)
        except Undefined as reason:
            warnings.warn(f"the measures of neural collapse are NaN: {reason}", stacklevel=2)
            result = dict.fromkeys(self.measures, math.nan)
        values = {
            name: torch.tensor(result[name], dtype=torch.float64, device=self.count.device)
            for name in self.measures
        }
        return values if self.measure is None else values[self.measure]

    def _values(self, moments: ClassMoments) -> dict[str, Any]:
        weight = None if self.classifier_weight is None else self.classifier_weight()
        return moments.neural_collapse(classifier_weight=weight)._asdict()

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        """Move to another device, but never to another dtype."""

        def moved(value: Tensor) -> Tensor:
            return value.to(measuring_device(fn(value.new_empty(0, dtype=torch.float32)).device))

        return super()._apply(moved, exclude_state)
