"""One forward pass over images or any data loader -> latents, logits and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lpc.computing.generators import as_they_were
from lpc.computing.numerics import measurement
from lpc.computing.options import choice, whole
from lpc.computing.threads import by_work
from lpc.data import ImageSet
from lpc.heads import Classifier
from lpc.inputs.layers import Pool, Watched
from lpc.inputs.loaders import Unpack, checked_batches, to_device
from lpc.inputs.networks import check_network, described, evaluating
from lpc.inputs.rows import Rows

_BATCH = 1024


class Latents(NamedTuple):
    """Penultimate representations, class scores and labels of a set, in its order.

    Attributes
    ----------
    latent
        Penultimate representations, shape (points, width).
    logits
        Class scores, shape (points, classes).
    label
        Class of each point, shape (points,).
    """

    latent: Float[Tensor, "points width"]
    logits: Float[Tensor, "points classes"]
    label: Int[Tensor, " points"]

    @property
    def predicted(self) -> Int[Tensor, " points"]:
        """The class of the largest logit."""
        return self.logits.argmax(dim=1)


class Collected(NamedTuple):
    """Latents, logits and labels of the points of a loader, in their order, on the CPU.

    Attributes
    ----------
    latent
        Penultimate representations, shape (points, width); float32, or float64 if the network computes in it.
    logits
        Class scores, shape (points, classes).
    label
        Class of each point, shape (points,).
    layer
        Description of the layer that the latents come from.
    weight, bias
        Weight and bias of the linear layer that maps these latents to the logits; None: no linear layer does,
        or ``layer`` named another one.
    """

    latent: Float[Tensor, "points width"]
    logits: Float[Tensor, "points classes"]
    label: Int[Tensor, " points"]
    layer: str
    weight: Float[Tensor, "classes width"] | None = None
    bias: Float[Tensor, " classes"] | None = None

    @property
    def predicted(self) -> Int[Tensor, " points"]:
        """The class of the largest logit."""
        return self.logits.argmax(dim=1)


@measurement
@torch.no_grad()
def collect_latents(
    model: nn.Module,
    loader: Iterable[Any] | ImageSet,
    *,
    layer: str | Sequence[str] | None = None,
    pool: Pool | None = None,
    unpack: Unpack | None = None,
    device: torch.device | str | None = None,
    limit: int | None = None,
    file: Path | str | None = None,
    progress: bool | None = None,
) -> Any:
    """Run any classifier over any data loader, once, and keep latents, logits and labels.

    Meanwhile the network is in evaluation mode; its modes, buffers and hooks are left as they were, and so
    are torch's generators. All arrays come from a single pass, so that a loader may shuffle.

    Parameters
    ----------
    model
        Network that returns logits: a tensor, or an object or dict with ``logits``.
    loader
        Loader of (input, labels) pairs; batches of another form go through ``unpack``. An
        :class:`~lpc.data.ImageSet` is accepted too, and its images are normalised as in :func:`collect`.
    layer
        Name, or several names, of the layer whose output is collected, as in ``model.named_modules()``. None:
        the output ``latent`` if the network returns one, else the input of its last linear layer.
    pool
        Reduction of feature maps and tokens to one row per point: ``"mean"`` over positions, ``"flatten"``
        for all entries, ``"first"`` for the first token. None: they are refused.
    unpack
        Function from a batch to (input, labels); an input that is a dict is passed by keyword.
    device
        Device for the batches; None: the network's device, which is the only valid choice.
    limit
        Largest number of points to collect, from the start of the loader; None: all.
    file
        Safetensors file to which rows are written as they come (``latent``, one array per layer if there are
        several, ``logits``, ``label``, ``weight``, ``bias``); the results are then memory maps of it. None:
        everything stays in memory, at 4 bytes per entry, with one array held twice for a moment.
    progress
        Whether to show a progress bar on stderr; None: only in a terminal.

    Returns
    -------
    Collected
        The collected arrays; with several layers a dict of them by layer name, sharing logits and labels.

    Raises
    ------
    ValueError
        If batches have another form, the loader is empty, the layer is unknown (the message names similar
        ones) or runs twice in a pass, outputs are not one row per point, or the network is on another device;
        the message says how to cure it.
    """
    from tqdm import tqdm

    check_network(model)
    where = _device_of(model, device)
    names = None if layer is None else [layer] if isinstance(layer, str) else list(layer)
    several = names is not None and not isinstance(layer, str)
    if names == []:
        raise ValueError("layer is empty; expected names, or None")
    if pool is not None:
        choice("pool", pool, Pool)
    limit = None if limit is None else whole("limit", limit)
    if isinstance(loader, ImageSet):
        loader = _batches_of(loader)
    watched = Watched(model, names, pool)
    total = _points(loader, limit)
    with (
        closing(Rows(None if file is None else Path(file))) as rows,
        as_they_were(),
        evaluating(model),
        watched.watching(),
        tqdm(total=total, unit=" points", disable=None if progress is None else not progress) as bar,
    ):
        for given, label in checked_batches(loader, unpack, limit=limit):
            made = watched(to_device(given, where), len(label))
            for name, latent in made.latent.items():
                rows.add(name if several else "latent", latent)
            rows.add("logits", made.logits)
            rows.add("label", label)
            bar.update(len(label))
        last = watched.last if isinstance(watched.last, nn.Linear) and names is None else None
        weight = None if last is None else last.weight.detach().cpu().clone()
        bias = None if last is None or last.bias is None else last.bias.detach().cpu().clone()
        readout = {name: value for name, value in (("weight", weight), ("bias", bias)) if value is not None}
        found = rows.finished(readout)
    shared = {"logits": found["logits"], "label": found["label"]}
    if several and names is not None:
        return {name: Collected(found[name], **shared, layer=name) for name in names}
    said = names[0] if names else watched.found
    return Collected(found["latent"], **shared, layer=said, weight=weight, bias=bias)


def _batches_of(images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(images), _BATCH):
        some = slice(start, start + _BATCH)
        yield images.normalised(some), images.label[some]


def _device_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Return the device of a network; ValueError if another one was asked for."""
    own = next((value.device for value in (*model.parameters(), *model.buffers())), None)
    if own is None or device is None:
        return own or torch.device(device or "cpu")
    asked = torch.device(device)
    if asked.type != own.type or (asked.index not in (None, own.index)):
        raise ValueError(f"the model is on {own} and device is {str(device)!r}: model.to({str(device)!r})")
    return own


def _points(loader: object, limit: int | None) -> int | None:
    """Return the number of points to come, for the progress bar; None if it is unknown."""
    try:
        known = len(loader.sampler)  # type: ignore[attr-defined]
    except (AttributeError, TypeError, NotImplementedError):
        return limit
    return known if limit is None else min(known, limit)


@measurement
@torch.no_grad()
def collect(
    model: Classifier,
    images: ImageSet,
    *,
    shown: Float[Tensor, "points channel row column"] | None = None,
    batch_size: int = _BATCH,
) -> Latents:
    """Run a classifier over every image in evaluation mode; afterwards every module is in its former mode.

    Parameters
    ----------
    model
        Classifier on the device of the images.
    images
        Images to pass through it, without augmentation unless ``shown`` is given.
    shown
        Images that the classifier sees instead, such as augmented ones, in the same order.
    batch_size
        Number of images per pass.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    places = (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
    network = by_work(model)
    with evaluating(model):
        outputs = [
            network(images.normalised(some) if shown is None else shown[some].clone()) for some in places
        ]
    for output in outputs[:1]:
        if not all(isinstance(getattr(output, name, None), Tensor) for name in ("latent", "logits")):
            raise ValueError(
                f"the model returned {described(output)}; expected latent and logits, as a classifier of "
                "lpc.bottleneck_classifier returns them"
            )
    return Latents(
        torch.cat([output.latent for output in outputs]),
        torch.cat([output.logits for output in outputs]),
        images.label,
    )
