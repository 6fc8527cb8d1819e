"""The penalty in a plain training loop: a layer is watched, gamma grows by itself, a lost readout is seen."""

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
"""gamma of an epoch, or a schedule that follows the logit gap."""
Lost = Literal["hold", "stop", "ignore"]
LOST = 0.1
"""By how much nearest-mean accuracy exceeds the classifier's where its readout is being lost."""


class State(NamedTuple):
    """What an epoch of training looked like, by its own batches.

    Attributes
    ----------
    gamma
        That was in force.
    accuracy, nearest_mean_accuracy
        Of the classifier, and of the class means of the epoch before; None: in the first epoch, or where no
        labels were given.
    trace_ratio
        tr Sw / tr Sb of the epoch's latents; None: not known.
    gap
        Median of the true logit less the largest other; None likewise.
    lost
        Whether the readout is being lost: the classifier is right for 10 points in 100 fewer than the class
        means are, and for 5 fewer than in its best epoch.
    """

    gamma: float
    accuracy: float | None
    nearest_mean_accuracy: float | None
    trace_ratio: float | None
    gap: float | None
    lost: bool


class CollapsePenalty:
    """The penalty of one layer of a network, with a gamma that knows when to stop growing.

    Parameters
    ----------
    model
        The network.
    classifier
        Name of its last linear layer, as in ``model.named_modules()``; the latents are what it takes.
    schedule
        ``epoch -> gamma``, such as ``lambda epoch: lpc.geometric_gamma(epoch, ...)``, or a
        :class:`~lpc.schedules.gamma_control.GapSchedule`, the default.
    when_lost
        What happens where the readout is being lost (:class:`State`): ``"hold"`` keeps gamma where it was one
        epoch before, ``"stop"`` also sets ``stopped``, ``"ignore"`` goes on.

    Attributes
    ----------
    gamma
        In force.
    history
        One :class:`State` per epoch that has ended.
    stopped
        Whether training should end.

    Raises
    ------
    ValueError
        An unknown layer (the nearest are named), or one that is not linear.
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
            Of the batch: for accuracies and the logit gap, without which no readout is seen to be lost.

        Raises
        ------
        ValueError
            The layer has not run since the last call, or took something else than (batch, width).
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
        """End an epoch: say how it was, and set gamma of the next one."""
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
