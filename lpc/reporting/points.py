"""The points of a report: latents, labels, logits and the last layer, checked once, and samples of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lpc.arrays import as_labels, as_points, floats
from lpc.latents import Collected, Latents
from lpc.reporting.agreement import disagreement


@dataclass(frozen=True, kw_only=True)
class Points:
    """One set of points of a report, on the CPU.

    Attributes
    ----------
    name
        Name of the set: ``"train"``, ``"test"`` or ``"outside"``.
    latent
        Latents, shape (points, width), float32 or float64 as given.
    label
        Class of each point, shape (points,); None: points from outside.
    logits
        Class scores, shape (points, classes); None: not given.
    weight, bias
        Weight, shape (classes, width), and bias, shape (classes,), of the last layer; None: not given.
    doubt
        Reason why the logits cannot be those of the last layer; empty: none.
    """

    name: str
    latent: Tensor
    label: Tensor
    logits: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    doubt: str = ""

    @property
    def total(self) -> int:
        """Number of points."""
        return len(self.latent)

    @property
    def counts(self) -> dict[int, int]:
        """Number of points of each class."""
        value, count = self.label.unique(return_counts=True)
        return dict(zip(value.tolist(), count.tolist(), strict=True))

    def sample(self, points: int, seed: int) -> Points:
        """Return a random sample of the points, or all of them if there are no more.

        Parameters
        ----------
        points
            Largest number of points.
        seed
            Seed of the draw.
        """
        if self.total <= points:
            return self
        order = torch.randperm(self.total, generator=torch.Generator().manual_seed(seed))
        kept = order[:points].sort().values
        logits = None if self.logits is None else self.logits[kept]
        return replace(self, latent=self.latent[kept], label=self.label[kept], logits=logits)

    def shuffled(self, seed: int) -> Tensor:
        """Return the labels in a random order, as for latents that know nothing about labels."""
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
    """Return a set of points for a report; ValueError for arrays that do not match.

    Parameters
    ----------
    name
        Name of the set, for error messages.
    given
        Latents; or the result of :func:`~lpc.latents.collect_latents`; or a tuple of latents, labels and
        optionally logits.
    label, logits, classifier
        Labels, logits and last layer, as in :func:`lpc.report`.
    labelled
        Whether labels are required.
    """
    if isinstance(given, (Collected, Latents)):
        label = given.label if label is None else label
        logits = given.logits if logits is None else logits
        own = None if isinstance(given, Latents) or given.weight is None else (given.weight, given.bias)
        classifier, given = own if classifier is None else classifier, given.latent
    elif isinstance(given, tuple) or _list_of_arrays(given):
        if len(given) not in (2, 3):
            raise ValueError(
                f"{name} is a tuple of {len(given)}; expected latents, labels and, if known, logits"
            )
        given, label, *rest = given
        logits = rest[0] if rest else logits
    of = "" if name == "train" else f" of {name}"
    _refuse_others(given, f"latents{of}")
    latent = floats(given, name=f"latents{of}", dims=2).cpu()
    if labelled and label is None:
        raise ValueError(f"labels{of} are missing, and a report measures classes; pass one integer per point")
    classes = (
        torch.zeros(len(latent), dtype=torch.int64)
        if label is None
        else as_labels(label, latent, name=f"labels{of}")
    )
    found = Points(name=name, latent=latent, label=classes)
    if logits is not None:
        scores = floats(logits, name=f"logits{of}", dims=2).cpu()
        if len(scores) != len(latent):
            raise ValueError(f"logits{of} have {len(scores)} rows for {len(latent)} points")
        found = replace(found, logits=scores)
    if classifier is not None:
        weight, bias = _checked_readout(classifier, latent, f"latents{of}")
        found = replace(found, weight=weight, bias=bias)
        if found.logits is None:
            made = latent.double() @ weight.T + (0 if bias is None else bias)
            found = replace(found, logits=made)
        elif found.logits.shape[1] != len(weight):
            raise ValueError(
                f"logits{of} have {found.logits.shape[1]} columns and the classifier {len(weight)} rows; "
                "expected one of each per class"
            )
        else:
            found = replace(found, doubt=disagreement(latent, found.logits, weight, bias))
    if labelled and found.logits is not None:
        _check_classes(
            classes, found.logits.shape[1], of, "the classifier has" if logits is None else "logits have"
        )
    return found


def _list_of_arrays(given: Any) -> bool:
    return isinstance(given, list) and all(getattr(one, "ndim", 0) for one in given)


def _refuse_others(given: Any, name: str) -> None:
    """Raise ValueError for a network, and for several layers at once; the message says what to do."""
    if isinstance(given, torch.nn.Module):
        raise ValueError(
            f"{name} is a {type(given).__name__}, a network: pass lpc.collect_latents(network, loader)"
        )
    if isinstance(given, Mapping) and any(isinstance(one, Collected) for one in given.values()):
        raise ValueError(
            f"{name} is a dict of layers, and a report takes one: "
            "{name: lpc.report(one) for name, one in layers.items()}"
        )


def _check_classes(label: Tensor, classes: int, of: str, whose: str) -> None:
    low, high = int(label.min()), int(label.max())
    if 0 <= low <= high < classes:
        return
    cure = (
        "number them from 0: subtract 1"
        if (low, high) == (1, classes)
        else "expected one column per class, in the order of the labels"
    )
    raise ValueError(f"labels{of} go from {low} to {high}; {whose} classes 0 to {classes - 1}: {cure}")


def _checked_readout(classifier: Any, latent: Tensor, called: str) -> tuple[Tensor, Tensor | None]:
    weight, bias = _readout(classifier)
    rows = as_points(weight, name="the classifier's weight").cpu()
    width = latent.shape[1]
    if rows.shape[1] != width:
        cure = ": pass its transpose, (classes, width)" if rows.shape[0] == width else ""
        raise ValueError(
            f"the classifier's weight has width {rows.shape[1]}; {called} have width {width}{cure}"
        )
    if bias is None:
        return rows, None
    last = floats(bias, name="the classifier's bias", dims=1).cpu().double()
    if len(last) != len(rows):
        raise ValueError(
            f"the classifier's bias has {len(last)} entries and its weight {len(rows)} rows; expected one "
            "of each per class"
        )
    return rows, last


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
