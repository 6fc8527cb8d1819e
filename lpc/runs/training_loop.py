"""One program's worth of runs: trained epoch by epoch, recorded, checkpointed, stored."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lpc.computing.provenance import provenance
from lpc.computing.stopping import Stopped
from lpc.data import ImageSet, Splits
from lpc.equilibrium import budget_warning
from lpc.heads import HeadOutput, readout_weight
from lpc.latents import Latents
from lpc.runs.information_measurements import information_metrics
from lpc.runs.measurements import Measured, accuracy, cube_metrics, latent_metrics
from lpc.specs import METRIC_LEARNING, RunSpec
from lpc.store import RunStore
from lpc.store.ownership import Held, Lease
from lpc.training import SideBySide, Solo, Trainer, bad_epoch, load_member, trainer
from lpc.training.optimizers import latent_turn
from lpc.training.trainers import EpochLoss

TERMINAL_ACCURACY = 0.999
"""Train accuracy at which the terminal phase begins (LPC Appendix C)."""
NEAR = 0.01
"""Distance from it within which a faster measurement of the accuracy is repeated in float32."""
CHANCE = 1.5
"""A train accuracy up to this many times the largest class's share is called chance."""


class Plan(NamedTuple):
    """Runs that train together, and the name under which the store keeps their state."""

    cohort: str
    specs: list[RunSpec]


def _passed(entry: dict[str, Any]) -> bool:
    return entry.get("accuracy", 0.0) >= TERMINAL_ACCURACY


def _converged(history: list[dict[str, Any]]) -> bool:
    """Whether train accuracy has passed the terminal phase's threshold: from then on it is only recorded."""
    return any(_passed(entry) for entry in history)


def train_plans(
    plans: Sequence[Plan],
    store: RunStore,
    splits: Splits,
    advance: Callable[[int], object],
    stop: Callable[[], bool],
    *,
    workers: int,
) -> None:
    """Train plans from where they stand, side by side where there are several, and store their runs.

    Parameters
    ----------
    plans
        A plan, or several plans of one run each, whose steps take turns
        (:class:`~lpc.training.together.SideBySide`).
    store
        Store that keeps their checkpoints and receives their results.
    splits
        Data of the runs, on the device to train on.
    advance
        Callback for progress; it is given the number of epochs just trained, summed over runs.
    stop
        Callback that says whether to stop after this epoch.
    workers
        Number of processes that share the machine, for the provenance.

    Raises
    ------
    Stopped
        If ``stop`` asked for it, after all checkpoints were written.
    lpc.store.Held
        If another program trains some of these runs, or has begun them in another cohort since they were
        planned. Other plans have been trained nevertheless.
    lpc.store.LostLease
        If another program took this one for dead and continues from its last checkpoint.
    """
    held: Held | None = None
    with ExitStack() as leases:
        trainings: list[_Training] = []
        for plan in plans:
            try:
                lease = leases.enter_context(store.lease(plan.specs))
                if lease.keys:
                    _check_up_to_date(plan, store, lease)
                    trainings.append(_Training(plan, store, lease, splits, workers, together=len(plans)))
            except Held as error:
                held = error
        for training in trainings:
            training.resume(advance)
        both: SideBySide | None = None
        while trainings := [training for training in trainings if not training.ended]:
            trainers = [training.trainer for training in trainings]
            for training in trainings:
                training.begin_epoch()
            if len(plans) == 1:
                losses = [trainers[0].train_epoch()]
            else:
                if both is None or both.members != trainers:
                    both = SideBySide([one for one in trainers if isinstance(one, Solo)])
                losses = both.train_epoch()
            stopping = stop()
            for training, loss in zip(tuple(trainings), losses, strict=True):
                advance(len(training.plan.specs))
                try:
                    training.end_epoch(loss, stopping)
                except Held as error:
                    held = error
                    trainings.remove(training)
            left = [training.trainer for training in trainings if not training.ended]
            if stopping and left:
                epochs = ", ".join(f"{trainer.epoch} of {trainer.specs[0].train.epochs}" for trainer in left)
                raise Stopped(
                    f"stopped after epoch {epochs}; checkpoints are written, call again to continue"
                )
    if held is not None:
        raise held


def _check_up_to_date(plan: Plan, store: RunStore, lease: Lease) -> None:
    """Check that no other program has begun or finished the leased runs in another packing than planned."""
    begun = store.cohorts(afresh=True)
    for key in lease.keys:
        cohort = next((cohort for cohort, keys in begun.items() if key in keys), plan.cohort)
        if cohort != plan.cohort:
            raise Held(f"run {key} was begun in cohort {cohort} after this was planned; plan again")
    if plan.cohort not in begun and len(lease.keys) < len(plan.specs):
        raise Held(f"some runs of cohort {plan.cohort} have finished since it was planned; plan again")


class _Training:
    """The training of a plan whose runs are leased: from its last checkpoint to the stored results."""

    def __init__(
        self, plan: Plan, store: RunStore, lease: Lease, splits: Splits, workers: int, *, together: int
    ) -> None:
        self.plan, self.store, self.lease, self.splits, self.workers = plan, store, lease, splits, workers
        self.together, self.ended = together, False
        store.begin(plan.specs)
        self.trainer = trainer(plan.specs, splits.train)
        _warn_of_budgets(self.trainer)
        self.histories: list[list[dict[str, Any]]] = [[] for _ in plan.specs]
        self.failed: list[int | None] = [None] * len(plan.specs)
        """The epoch in which a run failed; None: it has not."""
        seconds = 0.0
        state = store.load_state(plan.cohort, "cpu")  # the trainer moves it to its devices
        if state is not None:
            try:
                self.trainer.load_state_dict(state["training"])
            except ValueError as error:
                raise ValueError(f"{store.root / 'cohorts' / plan.cohort}: {error}") from error
            self.histories, self.failed, seconds = state["histories"], state["failed"], state["seconds"]
        self._began = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Seconds of training, those before the last checkpoint included."""
        return time.monotonic() - self._began

    def resume(self, advance: Callable[[int], object]) -> None:
        """Report the checkpoint's progress, and store the results if it is complete."""
        if self.trainer.epoch:
            advance(self.trainer.epoch * len(self.plan.specs))
        if self.trainer.finished:
            self._finish()

    def begin_epoch(self) -> None:
        """Note the settings of the coming epoch."""
        self._gamma, (_, self._rates) = self.trainer.gamma(), self.trainer.rates()

    def end_epoch(self, loss: EpochLoss, stopping: bool) -> None:
        """Record an epoch that has been trained, write a checkpoint where one is due, and end after the last.

        Parameters
        ----------
        loss
            Mean losses of the epoch.
        stopping
            Whether training is about to stop, so that a checkpoint is due.
        """
        training = self.trainer
        self._record(loss)
        if training.epoch % self.plan.specs[0].train.record_every == 0 or training.finished or stopping:
            self._save()
        if training.finished:
            self._finish()

    def _save(self) -> None:
        self.lease.check()
        self.store.save_state(
            self.plan.cohort,
            {
                "training": self.trainer.state_dict(),
                "histories": self.histories,
                "failed": self.failed,
                "seconds": self.seconds,
            },
            epoch=self.trainer.epoch,
        )

    def _record(self, loss: EpochLoss) -> None:
        """Append an epoch's record to every run's history."""
        training, train = self.trainer, self.plan.specs[0].train
        for member, bad in enumerate(bad_epoch(loss)):
            if bad and self.failed[member] is None:
                self.failed[member] = training.epoch
        recorded = training.finished or training.epoch % train.record_every == 0
        asked = training.epoch % train.accuracy_every == 0
        unconverged = [
            m
            for m in range(len(self.failed))
            if asked and self.failed[m] is None and not _converged(self.histories[m])
        ]
        outputs = None
        if recorded or unconverged:
            outputs = training.outputs(self.splits.train) if recorded else self._glance(unconverged)
        for member in range(len(self.failed)):
            if self.failed[member] is not None:
                continue
            entry: dict[str, Any] = {
                "epoch": training.epoch,
                "gamma": self._gamma[member],
                "learning_rate": self._rates[member],
                "loss_cross_entropy": float(loss.cross_entropy[member]),
                "loss_penalty": float(loss.penalty[member]),
            }
            if outputs is not None and (recorded or member in unconverged):
                latents = Latents(outputs.latent[member], outputs.logits[member], self.splits.train.label)
                if not bool(torch.isfinite(latents.logits).all()):
                    self.failed[member] = training.epoch
                    continue
                entry["accuracy"] = accuracy(latents.logits, latents.label)
                if recorded:
                    entry |= self._metrics(member, latents).as_dict()
            self.histories[member].append(entry)

    def _glance(self, members: Sequence[int]) -> HeadOutput:
        """Return outputs for accuracies only: faster ones if possible, except near the terminal phase."""
        training, images = self.trainer, self.splits.train
        if not training.glances:
            return training.outputs(images)
        outputs = training.glance(images)
        found = [accuracy(outputs.logits[member], images.label) for member in members]
        return outputs if max(found) < TERMINAL_ACCURACY - NEAR else training.outputs(images)

    def _metrics(self, member: int, latents: Latents) -> Measured:
        """Measure a run's latents of the train set with the metrics of its spec."""
        training, splits = self.trainer, self.splits
        spec, weights = training.specs[member], training.member_state(member)
        if spec.train.metrics == "information":
            return information_metrics(load_member(spec, splits.train, weights), splits)
        quick = spec.train.metrics == "geometry"
        return latent_metrics(
            latents,
            weight=readout_weight(weights["head.classifier.weight"], spec.model.classifier),
            bias=weights["head.classifier.bias"],
            classes=splits.train.classes,
            mixtures=not quick and (training.finished or spec.model.penultimate == "linear"),
            entropies=not quick,
        )

    def _finish(self) -> None:
        training, splits, specs, seconds = self.trainer, self.splits, self.plan.specs, self.seconds
        outputs = training.outputs(splits.train)
        held = training.outputs(splits.validation) if splits.validation is not None else None
        epochs = specs[0].train.epochs
        metric_learning = specs[0].train.objective in METRIC_LEARNING
        packages = ("pytorch-metric-learning",) if metric_learning else ()
        shared = {
            **provenance(splits.train.images.device, packages=packages),
            "data_checksum": splits.train.checksum(),
            "cohort": self.plan.cohort,
            "cohort_runs": len(specs),
            "cohort_seconds": round(seconds, 3),
            "run_epoch_seconds": seconds / epochs / len(specs),
            "workers": self.workers,
            **training.packing(),
            **({"side_by_side": self.together} if self.together > 1 else {}),
        }
        for member, spec in enumerate(specs):
            if self.store.finished(spec):
                continue
            history = self.histories[member]
            if self.failed[member] is not None:
                result: dict[str, Any] = {
                    "status": "failed",
                    "reason": f"the loss or the logits were not finite in epoch {self.failed[member]}",
                    "epoch": self.failed[member],
                }
            else:
                latents = Latents(outputs.latent[member], outputs.logits[member], splits.train.label)
                heldout = None if held is None else held.logits[member].double()
                result = {"status": "finished", **_result(spec, history, latents, splits, heldout)}
            self.lease.check()
            self.store.finish(
                spec,
                result=result,
                history=history,
                provenance={**shared, "seed": spec.seed, "attempts": len(self.store.attempts(spec))},
                weights=training.member_state(member),
            )
        self.lease.check()
        self.store.end(self.plan.cohort)
        self.ended = True


def _warn_of_budgets(training: Trainer) -> None:
    if training.specs[0].train.metrics == "information":
        return  # there a gamma that the readout does not survive is part of the study
    steps_an_epoch = math.ceil(len(training.images) / training.specs[0].train.batch_size)
    for spec in training.specs:
        if spec.model.classifier == "cosine":  # its logits do not shrink with the latents
            continue
        text = budget_warning(
            spec.train,
            width=training.latent_width,
            classes=training.images.classes,
            steps=spec.train.epochs * steps_an_epoch,
            images=len(training.images),
            certain=True,
        )
        if text is not None:
            warnings.warn(f"{spec.architecture}, seed {spec.seed}: {text}", stacklevel=3)


def _result(
    spec: RunSpec, history: list[dict[str, Any]], latents: Latents, splits: Splits, held: Tensor | None
) -> dict[str, Any]:
    """Return the result of a finished run: its last metrics, and values known only at the end."""
    final = dict(history[-1])
    passed = [entry["epoch"] for entry in history if _passed(entry)]
    result = {**final, "terminal_epoch": passed[0] if passed else None}
    if spec.train.metrics != "information":
        chance = _chance_epoch(history, splits.train)
        cube = Measured()
        cube.add(["cube_spread", "cube_patterns", "cube_dead_nodes"], lambda: cube_metrics(latents))
        if spec.train.optimizer == "adamw_turned":
            turn = latent_turn(spec.seed, latents.latent.shape[1]).to(latents.latent.device)
            own = latents._replace(latent=latents.latent @ turn.mT)
            cube.add(["cube_spread_optimizer"], lambda: cube_metrics(own)[0])
        result |= {
            **cube.values,
            "missing": {**final["missing"], **cube.missing},
            "readout_lost": final["nearest_mean_accuracy"] - final["accuracy"] > 0.1,
            "at_chance": chance is not None,
            "chance_epoch": chance,
        }
    result |= {"validation_accuracy": None, "validation_cross_entropy": None}
    if held is not None and splits.validation is not None:
        label = splits.validation.label
        result["validation_accuracy"] = accuracy(held, label)
        result["validation_cross_entropy"] = float(cross_entropy(held, label))
    return result


def _chance_epoch(history: list[dict[str, Any]], images: ImageSet) -> int | None:
    """Return the first epoch of the last stretch with train accuracy at chance, or None."""
    limit = CHANCE * float(images.label.bincount().max()) / len(images)
    taken = [(entry["epoch"], entry["accuracy"]) for entry in history if "accuracy" in entry]
    found = None
    for epoch, share in reversed(taken):
        if share > limit:
            break
        found = epoch
    return found
