"""The points of a report: latents, labels, logits and the last layer, checked once, and samples of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lpc.arrays import as_labels, as_points, floats
from lpc.latents import Collected, Latents


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points as a report measures them, on the CPU.

    Attributes
    ----------
    name
        ``"train"``, ``"test"`` or ``"outside"``.
    latent
        (points, width), as they came: float32 or float64.
    label
        (points,); None: of points from outside.
    logits
        (points, classes); None: not given.
    weight, bias
        Of the last layer; None: not given.
    """

    name: str
    latent: Tensor
    label: Tensor
    logits: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def total(self) -> int:
        """How many points there are."""
        return len(self.latent)

    @property
    def counts(self) -> dict[int, int]:
        """How many points each class has."""
        value, count = self.label.unique(return_counts=True)
        return dict(zip(value.tolist(), count.tolist(), strict=True))

    def sample(self, points: int, seed: int) -> Points:
        """Return a random sample of the points, all where there are no more.

        Parameters
        ----------
        points
            How many at most.
        seed
            Of the draw.
        """
        if self.total <= points:
            return self
        order = torch.randperm(self.total, generator=torch.Generator().manual_seed(seed))
        kept = order[:points].sort().values
        logits = None if self.logits is None else self.logits[kept]
        return replace(self, latent=self.latent[kept], label=self.label[kept], logits=logits)

    def shuffled(self, seed: int) -> Tensor:
        """Return the labels in a random order: what latents that know nothing of labels would have."""
        order = torch.randperm(self.total, generator=torch.Generator().manual_seed(seed))
        return self.label[order]


def as_report_points(
    name: str,
    given: Any,
    label: Any = None,
    *,
    logits: Any = None,
    classifier: Any = None,
    labelled: bool = True,
) -> Points:
    """Return points of a report; ValueError for what does not fit together.

    Parameters
    ----------
    name
        What messages call the set.
    given
        Latents; or what :func:`~lpc.latents.collect_latents` returned, or a tuple of latents, labels and,
        where they are known, logits.
    label, logits, classifier
        As in :func:`lpc.report`.
    labelled
        Whether there must be labels.
    """
    if isinstance(given, (Collected, Latents)):
        label = given.label if label is None else label
        logits = given.logits if logits is None else logits
        own = None if isinstance(given, Latents) or given.weight is None else (given.weight, given.bias)
        classifier, given = classifier or own, given.latent
    elif isinstance(given, (tuple, list)):
        if len(given) not in (2, 3):
            raise ValueError(
                f"{name} is a tuple of {len(given)}; expected latents, labels and, if known, logits"
            )
        given, label, *rest = given
        logits = rest[0] if rest else logits
    called = "latents" if name == "train" else f"latents of {name}"
    latent = floats(given, name=called, dims=2).cpu()
    if labelled and label is None:
        raise ValueError(
            f"labels of {name} are missing: a report is about classes; pass one integer per point"
        )
    of = (
        as_labels(label, latent, name=f"labels of {name}")
        if label is not None
        else torch.zeros(len(latent), dtype=torch.int64)
    )
    found = Points(name=name, latent=latent, label=of)
    if logits is not None:
        scores = floats(logits, name=f"logits of {name}", dims=2).cpu()
        if len(scores) != len(latent):
            raise ValueError(f"logits of {name} have {len(scores)} rows for {len(latent)} points")
        if labelled and not 0 <= int(of.min()) <= int(of.max()) < scores.shape[1]:
            raise ValueError(
                f"labels of {name} go from {int(of.min())} to {int(of.max())}; logits have classes 0 to "
                f"{scores.shape[1] - 1}"
            )
        found = replace(found, logits=scores)
    if classifier is not None:
        weight, bias = _readout(classifier)
        rows = as_points(weight, name="the classifier's weight").cpu()
        if rows.shape[1] != latent.shape[1]:
            raise ValueError(
                f"the classifier's weight has width {rows.shape[1]}; {called} have width {latent.shape[1]}"
            )
        last = None if bias is None else floats(bias, name="the classifier's bias", dims=1).cpu().double()
        found = replace(found, weight=rows, bias=last)
        if found.logits is None:
            made = latent.double() @ rows.T + (0 if last is None else last)
            found = replace(found, logits=made)
    return found


def _readout(classifier: Any) -> tuple[Any, Any]:
    """Return weight and bias of a linear layer, of a pair of arrays, or of an array alone."""
    if isinstance(classifier, torch.nn.Module):
        weight = getattr(classifier, "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"classifier is a {type(classifier).__name__}; expected a linear layer")
        bias = getattr(classifier, "bias", None)
        return weight.detach(), None if bias is None else bias.detach()
    if isinstance(classifier, (tuple, list)):
        if len(classifier) != 2:
            raise ValueError(f"classifier is a tuple of {len(classifier)}; expected weight and bias")
        return classifier[0], classifier[1]
    return classifier, None
