"""An epoch of training: everything that is drawn at random for it, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.data import Augment, ImageSet, batches
from lpc.heads import CategoricalHead, Classifier, HeadOutput
from lpc.losses import zero_entropy_noise
from lpc.objectives import objective, optimal_decoder
from lpc.sampling import dropout_masks
from lpc.schedules import gamma, latent_sd, learning_rate, plateau_share
from lpc.specs import RunSpec

BATCHES_AT_ONCE = 16
"""Batches augmented together, over the samples an image: few large operations instead of many small ones."""


class EpochLoss(NamedTuple):
    """Means over one epoch's points, one entry a run: in nats, and in the penalty's own unit."""

    cross_entropy: Float[Tensor, " runs"]
    penalty: Float[Tensor, " runs"]


class Batch(NamedTuple):
    """What one step of one run sees.

    ``keep`` (of the head) and ``mask`` (of the backbone) are dropout's masks over the probability of keeping,
    ``noise`` is added to the latent. With several samples an image, their rows are all images for the first
    sample, then for the second.
    """

    images: Float[Tensor, "batch channel row column"]
    label: Int[Tensor, " batch"]
    keep: Float[Tensor, "rows site"] | None = None
    noise: Float[Tensor, "rows width"] | None = None
    mask: Float[Tensor, "rows nodes"] | None = None

    @property
    def drawn(self) -> dict[str, Tensor]:
        """What a classifier takes beside the images."""
        parts = {"keep": self.keep, "noise": self.noise, "mask": self.mask}
        return {name: part for name, part in parts.items() if part is not None}


class Draws:
    """All that a run draws after its first weights: order of images, augmentation, dropout masks, noise.

    Parameters
    ----------
    spec
        Of the run; its seed gives the stream of random numbers, apart from the one of the weights.
    images
        The train set; numbers are drawn, and batches made, on its device.
    model
        The run's classifier, for the sizes of what is drawn.
    """

    def __init__(self, spec: RunSpec, images: ImageSet, *, model: Classifier) -> None:
        if len(images) % spec.train.batch_size == 1:
            raise ValueError(
                f"TrainSpec.batch_size is {spec.train.batch_size}: of {len(images)} training images it "
                "leaves a last batch of one, which batch norm cannot normalise; choose another size"
            )
        self.images = images
        self.batch_size = spec.train.batch_size
        self.augment = Augment(spec.data.flip, spec.data.crop_padding, spec.data.noise)
        self.samples = spec.train.samples
        site = model.head.latent_width if spec.model.dropout_site == "latent" else images.classes
        self.head_sites = [(spec.model.dropout, site)] if spec.model.dropout else ()
        self.backbone_sites: Sequence[tuple[float, int]] = getattr(model.backbone, "sites", ())
        self.noisy_width = model.head.latent_width if spec.model.latent_noise != "none" else 0
        if self.samples > 1 and not (self.head_sites or self.backbone_sites or self.noisy_width):
            raise ValueError(
                f"TrainSpec.samples is {self.samples}; expected 1 where neither dropout nor noise makes "
                "samples differ"
            )
        self.generator = torch.Generator(images.images.device).manual_seed(_stream(spec.seed))

    def order(self) -> Int[Tensor, " images"]:
        """Draw the order in which an epoch takes the images."""
        return torch.cat(list(batches(len(self.images), self.batch_size, self.generator)))

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of one epoch; the last may be smaller."""
        at_once = max(1, BATCHES_AT_ONCE // self.samples)
        for some in self.order().split(self.batch_size * at_once):
            images = self.images.augmented(some, self.augment, self.generator)
            drawn = {
                "keep": self._masks(len(some), self.head_sites),
                "noise": self._noise(len(some)),
                "mask": self._masks(len(some), self.backbone_sites),
            }
            for start in range(0, len(some), self.batch_size):
                part = slice(start, start + self.batch_size)
                parts = {
                    name: None if value is None else value[:, part].flatten(0, 1)
                    for name, value in drawn.items()
                }
                yield Batch(images[part], self.images.label[some[part]], **parts)

    def _masks(self, points: int, sites: Sequence[tuple[float, int]]) -> Tensor | None:
        """Draw masks (samples, points, nodes) of all sites; None where there is none."""
        if not sites:
            return None
        return dropout_masks(self.samples * points, sites, self.generator).unflatten(0, (-1, points))

    def _noise(self, points: int) -> Tensor | None:
        """Draw noise (samples, points, width) of the latent; None where there is none."""
        if not self.noisy_width:
            return None
        return zero_entropy_noise((self.samples, points, self.noisy_width), self.generator)


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
    model
        A classifier of these runs' shape.

    Attributes
    ----------
    epoch
        Epochs trained so far.
    losses
        Of every run and epoch so far, penalties included.
    """

    def __init__(self, specs: Sequence[RunSpec], images: ImageSet, *, model: Classifier) -> None:
        self.specs, self.images, self.epoch = list(specs), images, 0
        self.latent_width = model.head.latent_width
        self.optimal_decoder = isinstance(model.head, CategoricalHead) and model.head.decoder is None
        self.draws = [Draws(spec, images, model=model) for spec in specs]
        self.loss = objective(specs[0].train, specs[0].model, classes=images.classes)
        self.losses: list[list[float]] = [[] for _ in specs]

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
        totals = self._train() / len(self.images)
        for losses, total in zip(self.losses, totals.sum(dim=0).tolist(), strict=True):
            losses.append(total)
        if self.optimal_decoder:
            self._set_decoders()
        if self.specs[0].train.latent_sd is not None:
            self._rescale_latents(latent_sd(self.epoch, self.specs[0].train))
        self.epoch += 1
        return EpochLoss(totals[0], totals[1])

    @torch.no_grad()
    def _set_decoders(self) -> None:
        """Set every run's decoder to p(y | z) of the train set (Kirsch et al. 2020, Section 5.4)."""
        latent = self.outputs(self.images).latent.double()
        member = torch.nn.functional.one_hot(self.images.label, self.images.classes).double()
        for table, own in zip(self._stacked()["head.table"], latent, strict=True):
            table.copy_(optimal_decoder(own.T @ member))

    @torch.no_grad()
    def _rescale_latents(self, sd: float) -> None:
        """Bring every node of the train set's latents to mean 0 and an (unbiased) sd; make the decoder match.

        Statistics and products are taken in float64; what is stored is rounded to float32.
        """
        latent = self.outputs(self.images).latent.double()
        tensors = self._stacked()
        shift, scale = tensors["head.shift"], tensors["head.scale"]
        weight, bias = tensors["head.classifier.weight"], tensors["head.classifier.bias"]
        mean, factor = latent.mean(dim=1), sd / latent.std(dim=1)
        bias.copy_(bias + (weight.double() @ mean[:, :, None])[:, :, 0])
        weight.copy_(weight / factor[:, None, :])
        shift.copy_(shift + mean / scale.double())
        scale.copy_(scale * factor)

    def packing(self) -> dict[str, bool]:
        """Return how the steps are executed, for a run's provenance."""
        return {"compiled": False, "graphed": False}

    @abstractmethod
    def _train(self) -> Float[Tensor, "two runs"]:
        """Train one epoch; return the sums over points of cross-entropy and weighted penalty."""

    @abstractmethod
    def _stacked(self) -> dict[str, Tensor]:
        """Return all weights and buffers, runs first; what is written into them is written into the runs."""

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

    def rates(self) -> tuple[list[float], list[float]]:
        """Return each run's learning rate in the coming epoch: of the last classifier, of all else."""
        share = [
            plateau_share(losses, spec.train) for losses, spec in zip(self.losses, self.specs, strict=True)
        ]
        constant = [spec.train.learning_rate * part for spec, part in zip(self.specs, share, strict=True)]
        rates = [learning_rate(self.epoch, spec.train) for spec in self.specs]
        return constant, [rate * part for rate, part in zip(rates, share, strict=True)]


def same_shapes(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two states hold tensors of the same names and shapes."""
    return {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
