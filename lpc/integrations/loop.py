"""The penalty in a plain training loop, with a gamma that grows and stops before the readout is lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from lpc.computing.options import choice
from lpc.errors import unknown_name
from lpc.evaluation.class_moments import ClassMoments
from lpc.inputs.batches import checked_label
from lpc.inputs.networks import check_network
from lpc.losses import squared_norm
from lpc.schedules.gamma_control import GapSchedule

Schedule = Callable[[int], float] | GapSchedule
"""Function from epoch to gamma, or a schedule that follows the logit gap."""
Lost = Literal["hold", "stop", "ignore"]
LOST = 0.1
"""Excess of nearest-mean accuracy over the classifier's from which the readout counts as being lost."""


class State(NamedTuple):
    """Measurements of one epoch of training, from its own batches.

    Attributes
    ----------
    gamma
        Gamma that was in force.
    accuracy, nearest_mean_accuracy
        Accuracy of the classifier, and of the class means of the previous epoch; None: in the first epoch, or
        without labels.
    trace_ratio
        Ratio tr Sw / tr Sb of the epoch's latents; None: unknown.
    gap
        Median of the true logit minus the largest other logit; None: unknown.
    lost
        Whether the readout is being lost: the classifier's accuracy is 10 percentage points below that of the
        class means, and 5 below that of its best epoch.
    """

    gamma: float
    accuracy: float | None
    nearest_mean_accuracy: float | None
    trace_ratio: float | None
    gap: float | None
    lost: bool


class CollapsePenalty:
    """The penalty of one layer of a network, with a gamma that stops growing before the readout is lost.

    Parameters
    ----------
    model
        Network whose latents are penalised.
    classifier
        Name of its last linear layer, as in ``model.named_modules()``; the latents are its input.
    schedule
        Function from epoch to gamma, such as ``lambda epoch: lpc.geometric_gamma(epoch, ...)``, or a
        :class:`~lpc.schedules.gamma_control.GapSchedule`, the default.
    when_lost
        Reaction when the readout is being lost (:class:`State`): ``"hold"`` keeps gamma at its value of the
        previous epoch, ``"stop"`` also sets ``stopped``, ``"ignore"`` continues.

    Attributes
    ----------
    gamma
        Gamma in force.
    history
        One :class:`State` per finished epoch.
    stopped
        Whether training should end.

    Raises
    ------
    ValueError
        If the layer is unknown (the message names similar ones) or not linear.
    """

    def __init__(
        self,
        model: nn.Module,
        classifier: str,
        *,
        schedule: Schedule | None = None,
        when_lost: Lost = "hold",
    ) -> None:
        choice("when_lost", when_lost, Lost)
        check_network(model)
        if schedule is not None and not callable(schedule) and not isinstance(schedule, GapSchedule):
            raise ValueError(
                f"schedule is {schedule!r}; expected epoch -> gamma, as in lambda epoch: {schedule!r}"
            )
        modules = dict(model.named_modules())
        if classifier not in modules or not classifier:
            raise unknown_name("layer", classifier, [name for name in modules if name])
        layer = modules[classifier]
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"layer {classifier!r} is a {type(layer).__name__}; expected a linear layer")
        self.layer, self.name, self.when_lost = layer, classifier, when_lost
        self.schedule: Schedule = GapSchedule() if schedule is None else schedule
        self.history: list[State] = []
        self.stopped = self._held = False
        self.gamma = self._first()
        self._latent: Tensor | None = None
        self._logits: Tensor | None = None
        self._before: ClassMoments | None = None
        self._begin()

    def _first(self) -> float:
        return self.schedule.gamma if isinstance(self.schedule, GapSchedule) else float(self.schedule(0))

    def _begin(self) -> None:
        self._moments = ClassMoments(classes=self.layer.out_features)
        self._right = self._near = self._seen = 0
        self._gaps: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[CollapsePenalty]:
        """Watch the layer; afterwards the network has no hook of ours."""

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if torch.is_grad_enabled():
                self._latent, self._logits = inputs[0], output

        hook = self.layer.register_forward_hook(keep)
        try:
            yield self
        finally:
            hook.remove()
            self._latent = self._logits = None

    def __call__(self, label: Integer[Tensor, " batch"] | None = None) -> Float[Tensor, ""]:
        """Return gamma times the mean squared norm of the latents of the last forward pass, for the loss.

        Parameters
        ----------
        label
            Labels of the batch, for accuracies and the logit gap; without them the loss of a readout is not
            noticed.

        Raises
        ------
        ValueError
            If the layer has not run since the last call, or its input was not (batch, width).
        """
        if self._latent is None or self._logits is None:
            raise ValueError(
                f"layer {self.name!r} has not run since the last penalty: call the network first, with "
                "gradients and within `watching()`"
            )
        latent, logits, self._latent, self._logits = self._latent, self._logits, None, None
        penalty = self.gamma * squared_norm(latent.float(), reduction="sum")
        if label is not None:
            self._see(latent.detach().float(), logits.detach().float(), label)
        return penalty

    def _see(self, latent: Tensor, logits: Tensor, label: Tensor) -> None:
        of = checked_label(label.to(latent.device), latent, classes=self.layer.out_features)
        right = logits.argmax(dim=1) == of
        own = logits.gather(1, of[:, None])[:, 0]
        other = logits.scatter(1, of[:, None], -torch.inf).amax(dim=1)
        self._gaps.append((own - other).cpu())
        self._right, self._seen = self._right + int(right.sum()), self._seen + len(of)
        if self._before is not None:
            self._near += int((self._before.nearest_mean(latent) == of).sum())
        self._moments.update(latent, of)

    def end_epoch(self) -> State:
        """End an epoch: return its state, and set the gamma of the next one."""
        known = self._seen > 0
        gap = float(torch.cat(self._gaps).median()) if known else None
        accuracy = self._right / self._seen if known else None
        nearest = self._near / self._seen if known and self._before is not None else None
        best = max((state.accuracy or 0.0 for state in self.history), default=0.0)
        lost = (
            accuracy is not None
            and nearest is not None
            and nearest - accuracy > LOST
            and accuracy < best - LOST / 2  # at the start it is not lost, but still to be found
        )
        ratio = self._ratio()
        self.history.append(State(self.gamma, accuracy, nearest, ratio, gap, lost))
        self._before = self._moments if known else None
        self._begin()
        if lost and self.when_lost != "ignore":
            self._lose(nearest or 0.0, accuracy or 0.0)
        elif not self._held:
            self.gamma = self._next(gap)
        return self.history[-1]

    def _ratio(self) -> float | None:
        try:
            return self._moments.within_between_traces().ratio
        except ValueError:
            return None

    def _next(self, gap: float | None) -> float:
        if isinstance(self.schedule, GapSchedule):
            measured = float("nan") if gap is None else gap
            return self.schedule.update(self.layer.weight.detach().float(), measured=measured)
        return float(self.schedule(len(self.history)))

    def _lose(self, nearest: float, accuracy: float) -> None:
        earlier = self.history[-2].gamma if len(self.history) > 1 else self.gamma
        self.gamma, self.stopped = min(self.gamma, earlier), self.when_lost == "stop"
        self._held = True
        what = "training should stop" if self.stopped else f"gamma is held at {self.gamma:.3g}"
        warnings.warn(
            f"the readout is being lost: the nearest class mean is right for {nearest:.1%} of the points and "
            f"the classifier for {accuracy:.1%}; {what}",
            stacklevel=3,
        )
