"""An epoch of training: everything that is drawn at random for it, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.data import Augment, ImageSet, batches
from lpc.heads import HeadOutput
from lpc.schedules import gamma, learning_rate
from lpc.specs import RunSpec

BATCHES_AT_ONCE = 16
"""Batches that are augmented together: few large operations instead of many small ones."""


class EpochLoss(NamedTuple):
    """Means over one epoch's points, one entry a run: in nats, and in the penalty's own unit."""

    cross_entropy: Float[Tensor, " runs"]
    penalty: Float[Tensor, " runs"]


class Batch(NamedTuple):
    """What one step of one run sees; ``keep`` is dropout's mask over the probability of keeping."""

    images: Float[Tensor, "batch channel row column"]
    label: Int[Tensor, " batch"]
    keep: Float[Tensor, "batch site"] | None


class Draws:
    """All that a run draws after its first weights: the order of images, augmentation, dropout masks.

    Parameters
    ----------
    spec
        Of the run; its seed gives the stream of random numbers, apart from the one of the weights.
    images
        The train set; numbers are drawn, and batches made, on its device.
    latent_width
        Width of the head's latent, where dropout acts unless the spec puts it on the logits.
    """

    def __init__(self, spec: RunSpec, images: ImageSet, *, latent_width: int) -> None:
        if len(images) % spec.train.batch_size == 1:
            raise ValueError(
                f"TrainSpec.batch_size is {spec.train.batch_size}: of {len(images)} training images it "
                "leaves a last batch of one, which batch norm cannot normalise; choose another size"
            )
        self.images = images
        self.batch_size = spec.train.batch_size
        self.augment = Augment(spec.data.flip, spec.data.crop_padding, spec.data.noise)
        self.dropout = spec.model.dropout
        self.site = latent_width if spec.model.dropout_site == "latent" else images.classes
        self.generator = torch.Generator(images.images.device).manual_seed(_stream(spec.seed))

    def order(self) -> Int[Tensor, " images"]:
        """Draw the order in which an epoch takes the images."""
        return torch.cat(list(batches(len(self.images), self.batch_size, self.generator)))

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of one epoch; the last may be smaller."""
        for some in self.order().split(self.batch_size * BATCHES_AT_ONCE):
            images = self.images.augmented(some, self.augment, self.generator)
            keep = self._keep(len(some)) if self.dropout else None
            for start in range(0, len(some), self.batch_size):
                part = slice(start, start + self.batch_size)
                mask = None if keep is None else keep[part]
                yield Batch(images[part], self.images.label[some[part]], mask)

    def _keep(self, points: int) -> Tensor:
        drawn = torch.rand((points, self.site), generator=self.generator, device=self.generator.device)
        return (drawn >= self.dropout).float() / (1 - self.dropout)


def _stream(seed: int) -> int:
    """Return the seed of a run's draws, apart from its weights' seed."""
    return (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**63


class Trainer(ABC):
    """Runs that are trained epoch by epoch in one program.

    Parameters
    ----------
    specs
        The runs.
    images
        The train set, on the device to train on.
    latent_width
        Of the head.

    Attributes
    ----------
    epoch
        Epochs trained so far.
    """

    def __init__(self, specs: Sequence[RunSpec], images: ImageSet, *, latent_width: int) -> None:
        self.specs, self.images, self.epoch = list(specs), images, 0
        self.latent_width = latent_width
        self.draws = [Draws(spec, images, latent_width=latent_width) for spec in specs]

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def finished(self) -> bool:
        """Whether every epoch has been trained."""
        return self.epoch >= self.specs[0].train.epochs

    def gamma(self) -> list[float]:
        """Return each run's weight of the squared norm in the coming epoch; 0 where there is none."""
        return [gamma(self.epoch, spec.train) for spec in self.specs]

    def train_epoch(self) -> EpochLoss:
        """Train one epoch and return its mean losses."""
        totals = self._train()
        self.epoch += 1
        totals = totals / len(self.images)
        return EpochLoss(totals[0], totals[1])

    def packing(self) -> dict[str, bool]:
        """Return how the steps are executed, for a run's provenance."""
        return {"compiled": False, "graphed": False}

    @abstractmethod
    def _train(self) -> Float[Tensor, "two runs"]:
        """Train one epoch; return the sums over points of cross-entropy and weighted penalty."""

    @abstractmethod
    def outputs(self, images: ImageSet, *, batch_size: int = 1024) -> HeadOutput:
        """Return every run's latents (runs, points, width) and logits in evaluation mode, in float32."""

    @abstractmethod
    def member_state(self, member: int) -> dict[str, Tensor]:
        """Return one run's weights and buffers, as its classifier's ``state_dict``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything that is needed to go on to the same bits."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; a state of other shapes is a ValueError and changes nothing."""

    def _column(self, values: Sequence[float]) -> Float[Tensor, " runs"]:
        return torch.tensor(values, dtype=torch.float32, device=self.images.images.device)

    def _weights_of_penalties(self) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
        """Return each run's factor of the summed squared norm in the coming epoch, and of the L1 norm."""
        width = float(self.latent_width)
        over = [width if spec.train.penalty_reduction == "mean" else 1.0 for spec in self.specs]
        l1 = [spec.train.l1 if spec.train.penalty == "weight_l1" else 0.0 for spec in self.specs]
        return self._column(self.gamma()) / self._column(over), self._column(l1)

    def _rates(self) -> tuple[list[float], list[float]]:
        """Return each run's learning rate in the coming epoch: of the last classifier, of all else."""
        constant = [spec.train.learning_rate for spec in self.specs]
        return constant, [learning_rate(self.epoch, spec.train) for spec in self.specs]


def same_shapes(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two states hold tensors of the same names and shapes."""
    return {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
