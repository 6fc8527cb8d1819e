"""Training: runs that share a shape train as one cohort, each with its own seed, rate and penalty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from lpc.classifiers import build_classifier
from lpc.data import Augment, ImageSet, batches
from lpc.heads import Classifier, HeadOutput
from lpc.losses import geometric_gamma, squared_norm
from lpc.specs import RunSpec, TrainSpec


def learning_rate(epoch: int, train: TrainSpec) -> float:
    """Return the rate of everything but the last classifier in an epoch (counted from 0).

    References
    ----------
    LPC 2024, Appendix C: halved every 50 epochs from epoch 250.
    """
    if train.decay_start is None or epoch < train.decay_start:
        return train.learning_rate
    return train.learning_rate * 0.5 ** (1 + (epoch - train.decay_start) // train.decay_every)


def shape_of(spec: RunSpec) -> str:
    """Return what two runs must have in common to train in one cohort."""
    values = asdict(spec)
    for free in ("architecture", "seed"):
        del values[free]
    for free in ("learning_rate", "penalty", "penalty_reduction", "l1"):
        del values["train"][free]
    for free in ("gamma_initial", "gamma_factor", "gamma_maximum", "gamma_overshoot"):
        del values["train"][free]
    del values["model"]["dropout"]
    return repr(values)


class EpochLoss(NamedTuple):
    """Means over one epoch's points, one entry a run of the cohort."""

    cross_entropy: Float[Tensor, " runs"]
    penalty: Float[Tensor, " runs"]


class Cohort:
    """Several runs of one shape, trained step by step together.

    Parameters
    ----------
    specs
        Runs with equal :func:`shape_of`.
    images
        The train set, on the device to train on.

    Notes
    -----
    The parameters are stacked (``torch.func.stack_module_state``) and the loss is mapped over them
    (``vmap``). Each run draws its weights, batch order, augmentation and dropout masks from its own
    seed, so that a run alone and in a cohort see the same randomness and differ only in rounding. AdamW
    works element by element: one torch optimizer steps the whole stack at rate 1, and each run then
    keeps its own learning rate's share of the step.
    """

    def __init__(self, specs: Sequence[RunSpec], images: ImageSet) -> None:
        if not specs:
            raise ValueError("a cohort needs at least one run")
        if len({shape_of(spec) for spec in specs}) > 1:
            raise ValueError("the runs of a cohort must share their data, model shape and number of steps")
        self.specs, self.images, self.epoch = list(specs), images, 0
        device = images.images.device
        first = specs[0]
        self.batch_size = first.train.batch_size
        self.augment = Augment(first.data.flip, first.data.crop_padding, first.data.noise)
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
        self.parameters, self.buffers = stack_module_state(models)  # type: ignore[arg-type]
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=1.0, weight_decay=first.train.weight_decay
        )
        self.generators = [torch.Generator(device).manual_seed(_stream(spec.seed)) for spec in specs]

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def finished(self) -> bool:
        """Whether every epoch has been trained."""
        return self.epoch >= self.specs[0].train.epochs

    def gamma(self) -> list[float]:
        """Return each run's weight of the squared norm in the coming epoch; 0 where there is none."""
        return [
            geometric_gamma(
                self.epoch,
                initial=spec.train.gamma_initial,
                factor=spec.train.gamma_factor,
                maximum=spec.train.gamma_maximum,
                overshoot=spec.train.gamma_overshoot,
            )
            if spec.train.penalty == "squared_norm"
            else 0.0
            for spec in self.specs
        ]

    def train_epoch(self) -> EpochLoss:
        """Train one epoch and return its mean losses (in nats, and in the penalty's own unit)."""
        self.template.train()
        width = self.template.head.latent_width
        gamma = self._column(self.gamma()) / self._column(
            [float(width) if spec.train.penalty_reduction == "mean" else 1.0 for spec in self.specs]
        )
        l1 = self._column([s.train.l1 if s.train.penalty == "weight_l1" else 0.0 for s in self.specs])
        rates = self._rates()
        orders = [list(batches(len(self.images), self.batch_size, g)) for g in self.generators]
        totals = torch.zeros(2, len(self), device=gamma.device)
        for chosen in zip(*orders, strict=True):
            drawn = zip(chosen, self.generators, strict=True)
            images = torch.stack([self.images.augmented(index, self.augment, g) for index, g in drawn])
            label = self.images.label[torch.stack(chosen)]
            losses = self._losses(images, label, self._keep(label.shape[1]), gamma, l1)
            self.optimizer.zero_grad(set_to_none=True)
            sum(losses).sum().backward()  # type: ignore[union-attr]
            self._step(rates)
            totals += torch.stack(losses).detach() * label.shape[1]
        self.epoch += 1
        totals /= len(self.images)
        return EpochLoss(totals[0], totals[1])

    @torch.no_grad()
    def outputs(self, images: ImageSet, *, batch_size: int = 1024) -> HeadOutput:
        """Return every run's latents (runs, points, width) and logits in evaluation mode."""
        self.template.eval()

        def forward(parameters: dict, buffers: dict, batch: Tensor) -> HeadOutput:
            return functional_call(self.template, (parameters, buffers), (batch,))

        mapped = vmap(forward, in_dims=(0, 0, None))
        parts = [
            mapped(self.parameters, self.buffers, images.normalised(slice(start, start + batch_size)))
            for start in range(0, len(images), batch_size)
        ]
        return HeadOutput(*(torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)))

    def member_state(self, member: int) -> dict[str, Tensor]:
        """Return one run's weights and buffers, as its classifier's ``state_dict``."""
        stacked = {**self.parameters, **self.buffers}
        return {name: value[member].detach().clone() for name, value in stacked.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed cohort needs to go on to the same bits."""
        return {
            "epoch": self.epoch,
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
            "generators": [generator.get_state() for generator in self.generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; a state of other shapes is a ValueError and changes nothing."""
        for name in ("parameters", "buffers"):
            ours, theirs = getattr(self, name), state[name]
            shapes = {key: tuple(value.shape) for key, value in ours.items()}
            if shapes != {key: tuple(value.shape) for key, value in theirs.items()}:
                raise ValueError(f"the checkpoint's {name} do not have the shapes of this cohort's")
        with torch.no_grad():
            for name in ("parameters", "buffers"):
                for key, value in getattr(self, name).items():
                    value.copy_(state[name][key])
        self.optimizer.load_state_dict(state["optimizer"])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())
        self.epoch = state["epoch"]

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.images.images.device)

    def _rates(self) -> dict[str, Tensor]:
        decayed = self._column([learning_rate(self.epoch, spec.train) for spec in self.specs])
        constant = self._column([spec.train.learning_rate for spec in self.specs])
        return {
            name: constant if name.startswith("head.classifier.") else decayed for name in self.parameters
        }

    def _keep(self, batch: int) -> Tensor | None:
        """Return dropout masks (runs, batch, site), or None where no run drops anything."""
        if not any(spec.model.dropout for spec in self.specs):
            return None
        head = self.template.head
        site = head.latent_width if head.dropout_site == "latent" else self.images.classes
        masks = []
        for spec, generator in zip(self.specs, self.generators, strict=True):
            rate = spec.model.dropout
            if rate:
                drawn = torch.rand((batch, site), generator=generator, device=generator.device)
                masks.append((drawn >= rate).float() / (1 - rate))
            else:
                masks.append(torch.ones((batch, site), device=generator.device))
        return torch.stack(masks)

    def _losses(
        self, images: Tensor, label: Tensor, keep: Tensor | None, gamma: Tensor, l1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (cross-entropy, weighted penalty) of every run on its own batch."""

        def losses(
            parameters: dict,
            buffers: dict,
            images: Tensor,
            label: Tensor,
            keep: Tensor | None,
            gamma: Tensor,
            l1: Tensor,
        ) -> tuple[Tensor, Tensor]:
            output = functional_call(self.template, (parameters, buffers), (images,), {"keep": keep})
            penalty = gamma * squared_norm(output.latent, reduction="sum")
            if "head.penultimate.weight" in parameters:
                penalty = penalty + l1 * parameters["head.penultimate.weight"].abs().sum()
            return cross_entropy(output.logits, label), penalty

        in_dims = (0, 0, 0, 0, None if keep is None else 0, 0, 0)
        mapped: Callable[..., tuple[Tensor, Tensor]] = vmap(losses, in_dims=in_dims)
        return mapped(self.parameters, self.buffers, images, label, keep, gamma, l1)

    @torch.no_grad()
    def _step(self, rates: dict[str, Tensor]) -> None:
        before = [value.detach().clone() for value in self.parameters.values()]
        self.optimizer.step()
        for (name, value), old in zip(self.parameters.items(), before, strict=True):
            rate = rates[name].reshape(-1, *[1] * (value.dim() - 1))
            value.copy_(torch.lerp(old, value, rate))


def _stream(seed: int) -> int:
    """Return the seed of a run's batch order, augmentation and dropout, apart from its weights' seed."""
    return (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**63


def load_member(spec: RunSpec, images: ImageSet, state: dict[str, Tensor]) -> Classifier:
    """Return a finished run's classifier in evaluation mode, on the device of the images.

    Parameters
    ----------
    spec
        Of the run.
    images
        Any split of its data, for channels, size and classes.
    state
        From :meth:`Cohort.member_state`.
    """
    model = build_classifier(
        spec.model, channels=images.channels, size=images.size, classes=images.classes, seed=spec.seed
    )
    model.load_state_dict(state)
    return model.to(images.images.device).eval()


def bad_epoch(loss: EpochLoss) -> list[bool]:
    """Return, for every run, whether its loss is no longer a finite number."""
    return [not math.isfinite(float(value)) for value in loss.cross_entropy + loss.penalty]
