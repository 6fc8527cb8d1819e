"""Random draws of an epoch of training: the order of images, augmentation, dropout, noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpc.computing.sampling import dropout_masks
from lpc.data import Augment, ImageSet, batches
from lpc.heads import Classifier
from lpc.losses import zero_entropy_noise
from lpc.specs import RunSpec

BATCHES_AT_ONCE = 16
"""Batches augmented together, over the samples per image: few large operations instead of many small ones."""


class Batch(NamedTuple):
    """Input of one step of one run.

    ``keep`` (of the head) and ``mask`` (of the backbone) are dropout's masks over the probability of keeping,
    ``noise`` is added to the latent. With several samples per image, their rows are all images for the first
    sample, then for the second.
    """

    images: Float[Tensor, "batch channel row column"]
    label: Int[Tensor, " batch"]
    keep: Float[Tensor, "rows site"] | None = None
    noise: Float[Tensor, "rows width"] | None = None
    mask: Float[Tensor, "rows nodes"] | None = None

    @property
    def drawn(self) -> dict[str, Tensor]:
        """Arguments of a classifier besides the images."""
        parts = {"keep": self.keep, "noise": self.noise, "mask": self.mask}
        return {name: part for name, part in parts.items() if part is not None}


class Draws:
    """All random draws of a run after its first weights: order of images, augmentation, dropout masks, noise.

    Parameters
    ----------
    spec
        Spec of the run; its seed gives the stream of random numbers, separate from that of the weights.
    images
        Train set; numbers are drawn and batches are made on its device.
    model
        Classifier of the run, for the sizes of the draws.
    """

    def __init__(self, spec: RunSpec, images: ImageSet, *, model: Classifier) -> None:
        if len(images) % spec.train.batch_size == 1:
            raise ValueError(
                f"TrainSpec.batch_size is {spec.train.batch_size}: with {len(images)} training images it "
                "leaves a last batch of one, which batch norm cannot normalise; choose another size"
            )
        self.images = images
        self.batch_size = spec.train.batch_size
        self.augment = Augment(spec.data.flip, spec.data.crop_padding, spec.data.noise)
        self.samples = spec.train.samples
        site = model.head.latent_width if spec.model.dropout_site == "latent" else images.classes
        self.head_sites = [(spec.model.dropout, site)] if spec.model.dropout else ()
        self.backbone_sites: Sequence[tuple[float, int]] = getattr(model.backbone, "sites", ())
        self.learnt = spec.model.latent_noise == "learnt"
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
        """Draw masks (samples, points, nodes) of all sites; None if there is no dropout."""
        if not sites:
            return None
        return dropout_masks(self.samples * points, sites, self.generator).unflatten(0, (-1, points))

    def _noise(self, points: int) -> Tensor | None:
        """Draw noise (samples, points, width) of the latent; None if it has no noise."""
        if not self.noisy_width:
            return None
        shape = (self.samples, points, self.noisy_width)
        if self.learnt:  # the head multiplies it by its sd
            return torch.randn(shape, generator=self.generator, device=self.generator.device)
        return zero_entropy_noise(shape, self.generator)


def _stream(seed: int) -> int:
    """Return the seed of a run's draws, different from the seed of its weights."""
    return (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**63
