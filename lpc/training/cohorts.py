"""Cohorts: runs of one shape train in one program, each with its own seed, rate and penalty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from lpc.classifiers import build_classifier
from lpc.computing.numerics import measurement
from lpc.computing.precision import cudnn_trials, exact_float32
from lpc.computing.threads import by_work
from lpc.data import ImageSet
from lpc.heads import HeadOutput
from lpc.specs import RunSpec
from lpc.training.draws import Batch
from lpc.training.optimizers import CLASSIFIER, of_cohort, restore
from lpc.training.recording import RecordedStep, check_recordable
from lpc.training.trainers import Trainer, check_device, same_shapes


def shape_of(spec: RunSpec) -> str:
    """Return the fields that runs must have in common to train in one cohort."""
    values = asdict(spec)
    for free in ("architecture", "seed"):
        del values[free]
    for free in ("learning_rate", "penalty_reduction", "l1"):
        del values["train"][free]
    if spec.train.penalty in ("none", "squared_norm", "weight_l1"):
        values["train"]["penalty"] = "norm"  # computed for all runs, with weight 0 if there is none
    gamma = ("initial", "factor", "maximum", "overshoot", "every", "late_factor", "late_from")
    for free in gamma:
        del values["train"][f"gamma_{free}"]
    del values["model"]["dropout"]
    return repr(values)


class Cohort(Trainer):
    """Several runs of one shape, trained step by step together.

    Parameters
    ----------
    specs
        Specs of the runs, with equal :func:`shape_of`.
    images
        Train set, on the device to train on.
    graphed
        Whether to record a step as a CUDA graph and replay it. None: on a GPU if :mod:`lpc.training.choices`
        says so.

    Notes
    -----
    The parameters are stacked (``torch.func.stack_module_state``) and the loss is mapped over them
    (``vmap``). Each run draws its weights, batch order, augmentation and dropout masks from its own
    seed, so that a run alone and in a cohort see the same randomness and differ only in rounding. A step
    is linear in the learning rate and of each run alone: one optimizer steps the whole stack at rate 1, and
    each run then keeps its own learning rate's share of the step.
    """

    def __init__(self, specs: Sequence[RunSpec], images: ImageSet, *, graphed: bool | None = None) -> None:
        if not specs:
            raise ValueError("a cohort needs at least one run")
        if len({shape_of(spec) for spec in specs}) > 1:
            raise ValueError("the runs of a cohort must share their data, model shape and number of steps")
        device, train = images.images.device, specs[0].train
        if train.precision != "float32":
            raise ValueError(
                f"TrainSpec.precision is {train.precision!r}; a cohort computes in float32 (autocast has no "
                "effect under vmap, whose batch norm takes no mixed types): train the run alone"
            )
        if specs[0].alone:
            raise ValueError(
                f"TrainSpec.objective is {train.objective!r}; a cohort cannot map it with the penalty "
                f"{train.penalty!r} and ModelSpec.spectral_norm={specs[0].model.spectral_norm} over runs, as "
                "pairs depend on each run's labels, centres on its latents and spectral norms on buffers of "
                "its own: train the run alone"
            )
        if graphed:
            check_recordable(device)
        models = [
            build_classifier(
                spec.model,
                channels=images.channels,
                size=images.size,
                classes=images.classes,
                seed=spec.seed,
            ).to(device)
            for spec in specs
        ]
        self.template = models[0]
        super().__init__(specs, images, model=self.template)
        self.graphed = "recorded_cohorts" in self.choices if graphed is None else graphed
        self.parameters, self.buffers = stack_module_state(models)  # type: ignore[arg-type]
        self.optimizer = of_cohort(
            train, self.parameters, seeds=[spec.seed for spec in specs], graphed=self.graphed
        )
        self.factor, self.l1 = self._weights_of_penalties()
        self.constant, self.decayed = (self._column(rates) for rates in self.rates())
        self.totals = torch.zeros(2, len(self), device=device)
        self._counted = by_work(self._losses, size=lambda images: images.shape[:2].numel())
        self.recording = (
            RecordedStep(lambda batch: self._step(batch, self._losses), self.optimizer, device)
            if self.graphed
            else None
        )

    def _train(self) -> Float[Tensor, "two runs"]:
        self.template.train()
        self.factor.copy_(self._weights_of_penalties()[0])
        for kept, rates in zip((self.constant, self.decayed), self.rates(), strict=True):
            kept.copy_(self._column(rates))
        self.totals.zero_()
        with exact_float32(), cudnn_trials("cudnn_trials" in self.choices):
            for drawn in zip(*(draws.epoch() for draws in self.draws), strict=True):
                batch = self._stack(drawn)
                if self.recording is not None and batch.label.shape[1] == self.specs[0].train.batch_size:
                    self.recording(batch)
                else:
                    self._step(batch, self._counted)
        return self.totals.clone()

    def _step(self, batch: Batch, mapped: Callable[..., tuple[Tensor, Tensor]]) -> None:
        """Take a step of every run on its own batch, by losses that are mapped over runs."""
        losses = mapped(batch.images, batch.label, batch.drawn, self.factor, self.l1)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses).sum().backward()  # type: ignore[union-attr]
        self._move()
        self.totals += torch.stack(losses).detach() * batch.label.shape[1]

    def _stack(self, batches: Sequence[Batch]) -> Batch:
        """Return the runs' batches as one, runs first."""
        images, label = (torch.stack(parts) for parts in list(zip(*batches, strict=True))[:2])
        return Batch(images, label, **self._drawn(batches))

    def _drawn(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Return the runs' draws for a step, runs first; masks of ones if a single run would drop nothing."""
        own = [batch.drawn for batch in batches]
        names = {name: part for drawn in own for name, part in drawn.items()}
        return {
            name: torch.stack([drawn.get(name, torch.ones_like(like)) for drawn in own])
            for name, like in names.items()
        }

    def _stacked(self) -> dict[str, Tensor]:
        """Return all weights and buffers, runs first; writing into them changes the runs."""
        return {**self.parameters, **self.buffers}

    @measurement
    @torch.no_grad()
    def outputs(self, images: ImageSet, *, batch_size: int = 1024) -> HeadOutput:
        """Return every run's latents (runs, points, width) and logits in evaluation mode, in float32."""
        self.template.eval()

        def forward(parameters: dict, buffers: dict, batch: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.template, (parameters, buffers), (batch,))[:2]

        mapped = vmap(forward, in_dims=(0, 0, None))
        network = by_work(lambda batch: mapped(self.parameters, self.buffers, batch))
        parts = [
            network(images.normalised(slice(start, start + batch_size)))
            for start in range(0, len(images), batch_size)
        ]
        return HeadOutput(*(torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)))

    def member_state(self, member: int) -> dict[str, Tensor]:
        """Return one run's weights and buffers, as its classifier's ``state_dict``."""
        return {name: value[member].detach().clone() for name, value in self._stacked().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed cohort needs to continue, to the same bits on a CPU.

        On a GPU that holds if all kernels of a step add in a fixed order, which has not been shown.
        """
        return {
            "epoch": self.epoch,
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
            "generators": [draws.generator.get_state() for draws in self.draws],
            "losses": self.losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, whose tensors may be on any device.

        A state of other shapes, or of another kind of device, is a ValueError and changes nothing.
        """
        check_device(self, state)
        for name in ("parameters", "buffers"):
            if not same_shapes(getattr(self, name), state[name]):
                raise ValueError(f"the checkpoint's {name} do not have the shapes of this cohort's")
        with torch.no_grad():
            for name in ("parameters", "buffers"):
                for key, value in getattr(self, name).items():
                    value.copy_(state[name][key])
        restore(self.optimizer, state["optimizer"])
        if self.recording is not None:
            self.recording.forget()
        for draws, saved in zip(self.draws, state["generators"], strict=True):
            draws.generator.set_state(saved.cpu())
        self.losses = state["losses"]
        self.epoch = state["epoch"]

    def _losses(
        self, images: Tensor, label: Tensor, drawn: dict[str, Tensor], gamma: Tensor, l1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (main term, weighted penalty) of every run on its own batch."""

        def losses(
            parameters: dict,
            buffers: dict,
            images: Tensor,
            label: Tensor,
            drawn: dict[str, Tensor],
            gamma: Tensor,
            l1: Tensor,
        ) -> tuple[Tensor, Tensor]:
            output = functional_call(self.template, (parameters, buffers), (images,), drawn)
            weight = parameters.get("head.penultimate.weight")
            return self.loss(output, label, gamma=gamma, l1=l1, weight=weight)

        mapped: Callable[..., tuple[Tensor, Tensor]] = vmap(losses)
        return mapped(self.parameters, self.buffers, images, label, drawn, gamma, l1)

    @torch.no_grad()
    def _move(self) -> None:
        """Step at rate 1, and let every run keep its own learning rate's share of that."""
        before = [value.detach().clone() for value in self.parameters.values()]
        self.optimizer.step()
        for (name, value), old in zip(self.parameters.items(), before, strict=True):
            rates = self.constant if name.startswith(CLASSIFIER) else self.decayed
            value.copy_(torch.lerp(old, value, rates.reshape(-1, *[1] * (value.dim() - 1))))


def part_of_state(state: dict[str, Any], members: Sequence[int]) -> dict[str, Any]:
    """Return the state of some members of a cohort, as a smaller cohort of them would have saved it.

    Parameters
    ----------
    state
        State from :meth:`Cohort.state_dict`.
    members
        Positions of the members in the cohort.
    """
    index = list(members)

    def part(value: Any) -> Any:
        return value[index] if isinstance(value, Tensor) and value.dim() > 0 else value

    moments = {
        place: {name: part(value) for name, value in moment.items()}
        for place, moment in state["optimizer"]["state"].items()
    }
    return {
        "epoch": state["epoch"],
        "parameters": {name: part(value) for name, value in state["parameters"].items()},
        "buffers": {name: part(value) for name, value in state["buffers"].items()},
        "optimizer": {**state["optimizer"], "state": moments},
        "generators": [state["generators"][member] for member in index],
        "losses": [state["losses"][member] for member in index],
    }
