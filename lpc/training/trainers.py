"""Trainer: any number of runs that are trained epoch by epoch in one program."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lpc.computing.threads import one_thread
from lpc.data import ImageSet
from lpc.heads import CategoricalHead, Classifier, HeadOutput
from lpc.objectives import objective, optimal_decoder
from lpc.schedules.by_spec import gamma, latent_sd, learning_rate, plateau_share
from lpc.specs import RunSpec
from lpc.training.choices import taken
from lpc.training.draws import Draws


class EpochLoss(NamedTuple):
    """Means over one epoch's points, one entry per run: in nats, and in the penalty's own unit."""

    cross_entropy: Float[Tensor, " runs"]
    penalty: Float[Tensor, " runs"]


def bad_epoch(loss: EpochLoss) -> list[bool]:
    """Return, for every run, whether its loss is no longer a finite number."""
    return [not math.isfinite(float(value)) for value in loss.cross_entropy + loss.penalty]


class Trainer(ABC):
    """Runs that are trained epoch by epoch in one program.

    Parameters
    ----------
    specs
        Specs of the runs.
    images
        Train set, on the device to train on.
    model
        Classifier with the shape of these runs.

    Attributes
    ----------
    epoch
        Number of epochs trained so far.
    losses
        Mean loss of every run in every epoch so far, penalties included.
    compiled, graphed
        Whether the backbone is compiled, and whether a step is recorded as a CUDA graph.
    choices
        Choices that speed up training (:mod:`lpc.training.choices`); none on a CPU.
    """

    compiled = False
    graphed: bool

    def __init__(self, specs: Sequence[RunSpec], images: ImageSet, *, model: Classifier) -> None:
        self.specs, self.images, self.epoch = list(specs), images, 0
        self.choices = taken() if images.images.device.type == "cuda" else ()
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
        """Return each run's weight of the squared norm in the coming epoch; 0 if there is none."""
        return [gamma(self.epoch, spec.train) for spec in self.specs]

    def train_epoch(self) -> EpochLoss:
        """Train one epoch and return its mean losses."""
        with one_thread():
            sums = self._train()
        return self.end_epoch(sums)

    def end_epoch(self, sums: Float[Tensor, "two runs"]) -> EpochLoss:
        """Finish an epoch after its last step and return its mean losses.

        Parameters
        ----------
        sums
            Sums of cross-entropy and weighted penalty over the epoch's points.
        """
        totals = sums / len(self.images)
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

        Statistics and products are taken in float64 and stored in float32.
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

    def packing(self) -> dict[str, Any]:
        """Return how the steps are executed, for a run's provenance."""
        chosen = {"faster": list(self.choices)} if self.choices else {}
        return {"compiled": self.compiled, "graphed": self.graphed, **chosen}

    @abstractmethod
    def _train(self) -> Float[Tensor, "two runs"]:
        """Train one epoch; return the sums over points of cross-entropy and weighted penalty."""

    @abstractmethod
    def _stacked(self) -> dict[str, Tensor]:
        """Return all weights and buffers, runs first; writing into them changes the runs."""

    @abstractmethod
    def outputs(self, images: ImageSet, *, batch_size: int = 1024) -> HeadOutput:
        """Return every run's latents (runs, points, width) and logits in evaluation mode, in float32."""

    def glance(self, images: ImageSet, *, batch_size: int = 1024) -> HeadOutput:
        """Return :meth:`outputs`, with ``glances`` faster and less precisely."""
        return self.outputs(images, batch_size=batch_size)

    @property
    def glances(self) -> bool:
        """Whether :meth:`glance` differs from :meth:`outputs`."""
        return False

    @abstractmethod
    def member_state(self, member: int) -> dict[str, Tensor]:
        """Return one run's weights and buffers, as its classifier's ``state_dict``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything that is needed to continue, on a CPU to the same bits."""

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
        """Return each run's learning rates in the coming epoch: last classifier, all other parameters."""
        share = [
            plateau_share(losses, spec.train) for losses, spec in zip(self.losses, self.specs, strict=True)
        ]
        constant = [spec.train.learning_rate * part for spec, part in zip(self.specs, share, strict=True)]
        rates = [learning_rate(self.epoch, spec.train) for spec in self.specs]
        return constant, [rate * part for rate, part in zip(rates, share, strict=True)]


def check_device(training: Trainer, state: dict[str, Any]) -> None:
    """Raise ValueError for a state whose random numbers another kind of device drew: it cannot go on there.

    Parameters
    ----------
    training
        Description of the resumed run, for the message.
    state
        State from ``state_dict``. Random generators of CPUs and GPUs have states of different sizes.
    """
    for draws, saved in zip(training.draws, state["generators"], strict=True):
        if len(saved) != len(draws.generator.get_state()):
            here = draws.generator.device.type
            there = "a GPU" if here == "cpu" else "the CPU"
            raise ValueError(
                f"the checkpoint was written on {there} and this is the device {here!r}, which draws other "
                "random numbers: the run cannot continue to the same bits. Continue where it began "
                "(LPC_DEVICE names a device), or remove the checkpoint to train it here from the start"
            )


def same_shapes(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two states hold tensors of the same names and shapes."""
    return {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
