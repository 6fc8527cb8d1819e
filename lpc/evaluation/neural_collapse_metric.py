"""Neural collapse as a torchmetrics metric: batches, processes and checkpoints of a training loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor
from torch.nn import Module

from lpc.arrays import Convention, measuring_device
from lpc.evaluation._class_sums import ClassSums, merged
from lpc.evaluation.class_moments import ClassMoments
from lpc.numerics import measurement

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise ImportError(
        "lpc.evaluation.neural_collapse_metric needs torchmetrics: pip install 'torchmetrics>=1.6', or "
        "use lpc.evaluation.class_moments, which does not"
    ) from error


class NeuralCollapseMetric(Metric):
    """NC1 to NC3 of the latents seen since the last reset, over all processes.

    Parameters
    ----------
    classes, width, convention, max_bytes
        As of :class:`~.class_moments.ClassMoments`; the width has to be given, for every process to hold
        states of one shape.
    classifier_weight
        Returns the weights of the last layer, shape (outputs, width), when a value is computed, such as
        ``lambda: model.head.weight``; a function at module level where the metric is pickled. Without it
        there is no ``nc3``.
    **kwargs
        Of :class:`torchmetrics.Metric`, but ``dist_sync_on_step``.

    Notes
    -----
    ``compute()`` and ``forward()`` return a dict of float64 tensors without dimensions, named as in
    :class:`~.neural_collapse.NeuralCollapse`. NC4 is not among them: one pass cannot know it, see
    :class:`~.class_moments.ClassMoments`, which :meth:`moments` gives for the second pass.

    States are float64 and stay so under ``half()``, ``to(dtype)`` and ``set_dtype``. Batches must be on the
    metric's device, float32 or float64 (under autocast: ``latent.float()``). A batch that is refused with a
    ValueError changes nothing. ``forward`` also measures its batch alone, which has to hold two classes;
    ``update`` takes any batch, at half the cost.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = True

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
                "classifier_weight is no function that returns weights: lambda: layer.weight is one"
            )
        self.classes, self.max_bytes = classes, max_bytes
        self.convention: Convention = convention
        self.classifier_weight = classifier_weight
        empty = ClassMoments(classes=classes, convention=convention, width=width, max_bytes=max_bytes)
        for name, value in empty.sums._asdict().items():
            self.add_state(name, default=value, dist_reduce_fx=None)

    @measurement
    def update(self, latent: Float[Tensor, "points width"], label: Integer[Tensor, " points"]) -> None:
        """Add a batch."""
        if self.count.ndim > 1:
            raise ValueError("the metric holds the states of all processes: unsync() it before an update")
        moments = self.moments()
        moments.update(latent, label)
        self._keep(moments)

    @measurement
    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the measures of all points, of all processes."""
        return self._measures(self.moments())

    @measurement
    def forward(
        self, latent: Float[Tensor, "points width"], label: Integer[Tensor, " points"]
    ) -> dict[str, Float64[Tensor, ""]]:
        """Add a batch, and return the measures of it alone; where these do not exist nothing is added."""
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

    def _measures(self, moments: ClassMoments) -> dict[str, Float64[Tensor, ""]]:
        weight = None if self.classifier_weight is None else self.classifier_weight()
        result = moments.neural_collapse(classifier_weight=weight)._asdict()
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.count.device)
            for name, value in result.items()
            if value is not None
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        """Follow to another device, never to another dtype."""

        def moved(value: Tensor) -> Tensor:
            return value.to(measuring_device(fn(value.new_empty(0, dtype=torch.float32)).device))

        return super()._apply(moved, exclude_state)
