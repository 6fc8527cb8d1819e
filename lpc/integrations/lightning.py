"""A callback that adds the penalty of latent point collapse to any LightningModule."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from lpc.errors import missing_extra
from lpc.inputs.loaders import unpacked
from lpc.integrations.loop import CollapsePenalty, Lost, Schedule

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise missing_extra("lpc.integrations.lightning", ["lightning"], "lightning") from error


class LatentPointCollapse(Callback):
    """Adds gamma times the squared norm of the latents to the loss, and protects the readout.

    Parameters
    ----------
    classifier
        Name of the module's last linear layer, as in ``module.named_modules()``, such as ``"model.fc"``; the
        latents are its input.
    schedule, when_lost
        The arguments of :class:`~lpc.integrations.loop.CollapsePenalty`; with ``"stop"`` the trainer stops
        after the epoch.
    unpack
        Function from a batch to (input, labels); None: batches are such pairs.

    Attributes
    ----------
    penalty
        The :class:`~lpc.integrations.loop.CollapsePenalty`, available once training has begun; its
        ``history`` has one entry per epoch.

    Notes
    -----
    ``training_step`` returns a loss, or a dict with ``loss``; the penalty is added to it before the backward
    pass, so that precision plugins and gradient accumulation treat it as part of the loss. Only automatic
    optimisation has a loss to add it to. At the end of each training epoch ``lpc/gamma``,
    ``lpc/trace_ratio``, ``lpc/accuracy``, ``lpc/nearest_mean_accuracy`` and ``lpc/gap`` are logged if
    they are known, for the process's own batches.
    """

    def __init__(
        self,
        classifier: str,
        *,
        schedule: Schedule | None = None,
        when_lost: Lost = "hold",
        unpack: Callable[[Any], tuple[Any, Any]] | None = None,
    ) -> None:
        self.classifier, self.schedule, self.unpack = classifier, schedule, unpack
        self.when_lost: Lost = when_lost
        self.penalty: CollapsePenalty | None = None
        self._watch = ExitStack()
        self._step: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the classifier, and wrap ``training_step``."""
        if not pl_module.automatic_optimization:
            raise ValueError(
                "LatentPointCollapse adds to the loss that training_step returns; with manual optimisation "
                "use lpc.integrations.loop.CollapsePenalty in training_step"
            )
        module: nn.Module = pl_module
        self.penalty = penalty = CollapsePenalty(
            module, self.classifier, schedule=self.schedule, when_lost=self.when_lost
        )
        self._watch.enter_context(penalty.watching())
        self._step = step = pl_module.training_step

        def training_step(batch: Any, *arguments: Any, **named: Any) -> Any:
            output = step(batch, *arguments, **named)
            _, label = unpacked(batch, self.unpack)
            return _with_penalty(output, penalty, label)

        pl_module.training_step = training_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch, set the gamma of the next one, and stop on a lost readout if asked to."""
        assert self.penalty is not None
        state = self.penalty.end_epoch()
        names = ("gamma", "trace_ratio", "accuracy", "nearest_mean_accuracy", "gap")
        known = {f"lpc/{name}": getattr(state, name) for name in names if getattr(state, name) is not None}
        pl_module.log_dict(known, sync_dist=True)
        trainer.should_stop = trainer.should_stop or self.penalty.stopped

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._watch.close()
        if self._step is not None:
            vars(pl_module).pop("training_step", None)
            self._step = None


def _with_penalty(output: Any, penalty: CollapsePenalty, label: Tensor) -> Any:
    if output is None:  # the step is skipped
        return None
    loss = output["loss"] if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise ValueError(
            f"training_step returned a {type(output).__name__}; expected a loss, or a dict with 'loss'"
        )
    added = loss + penalty(label).to(loss.dtype)
    return {**output, "loss": added} if isinstance(output, dict) else added
