"""Batches of a data loader: input and labels, checked and moved to a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lpc.inputs.networks import described

Unpack = Callable[[Any], tuple[Any, Any]]
"""Function that takes a batch apart: ``batch -> (input, label)``."""
_LABELS = ("labels", "label", "target", "targets", "y", "fine_label")


def unpacked(batch: Any, unpack: Unpack | None) -> tuple[Any, Tensor]:
    """Return the input of a network and the labels in a batch of a loader.

    Parameters
    ----------
    batch
        A pair of input and labels, or an input of ``unpack``.
    unpack
        Function from a batch to such a pair; None: batches are pairs.

    Raises
    ------
    ValueError
        If the batch is not a pair, or the labels are not one whole number per row; the message says how to
        cure it.
    """
    found = batch if unpack is None else unpack(batch)
    if isinstance(found, Mapping) or not isinstance(found, (tuple, list)) or len(found) != 2:
        who = "unpack returned" if unpack is not None else "the loader yielded"
        raise ValueError(f"{who} {described(found)}; expected input and labels: {_cure(found)}")
    return found[0], _labels(found[1])


def _cure(batch: Any) -> str:
    if isinstance(batch, Mapping):
        label = next((name for name in _LABELS if name in batch), None)
        if label is None:
            return "pass unpack=lambda batch: (batch[...], batch[...]), with the labels second"
        names = [name for name in batch if name != label]
        given = f"batch[{names[0]!r}]" if len(names) == 1 else f"{{name: batch[name] for name in {names}}}"
        return f"pass unpack=lambda batch: ({given}, batch[{label!r}])"
    if isinstance(batch, (tuple, list)) and len(batch) > 2:
        return "pass unpack=lambda batch: (batch[0], batch[1]), with the right indices"
    return "pass unpack, a function from such a batch to (input, labels)"


def _labels(label: Any) -> Tensor:
    value = torch.as_tensor(label) if isinstance(label, (np.ndarray, list, tuple)) else label
    if not isinstance(value, Tensor):
        raise ValueError(f"the labels of a batch are {described(value)}; expected one integer per row")
    whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if value.dim() == 2 and value.shape[1] > 1:
        raise ValueError(
            f"the labels of a batch have shape {tuple(value.shape)}, as one-hot rows do; expected one "
            "integer per row: unpack=lambda batch: (batch[0], batch[1].argmax(dim=1))"
        )
    if value.dim() != 1 or not whole:
        raise ValueError(
            f"the labels of a batch have shape {tuple(value.shape)} and dtype {value.dtype}; expected one "
            "integer per row: unpack=lambda batch: (batch[0], batch[1].flatten().long())"
        )
    return value.long()


def to_device(value: Any, device: torch.device) -> Any:
    """Return a network's input on a device: a tensor or an array, or these in a dict, tuple or list."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: to_device(part, device) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_device(part, device) for part in value]
    raise ValueError(
        f"the input of a batch is {described(value)}; expected a tensor, or tensors in a dict or list"
    )


def check_loader(loader: object) -> None:
    """Raise ValueError unless a loader is one: data may lack batches, or not be iterable."""
    arrays = isinstance(loader, (Tensor, np.ndarray)) or (
        isinstance(loader, (tuple, list))
        and len(loader) > 0
        and all(isinstance(part, (Tensor, np.ndarray)) for part in loader[:2])
    )
    if isinstance(loader, Dataset) or arrays:
        data = "TensorDataset(images, labels)" if arrays else "data"
        raise ValueError(
            f"the loader is {described(loader)}, not in batches; pass DataLoader({data}, batch_size=256)"
        )
    if not isinstance(loader, Iterable):
        raise ValueError(f"the loader is {described(loader)}; expected batches of input and labels")


def checked_batches(
    loader: Iterable[Any], unpack: Unpack | None, *, limit: int | None
) -> Iterator[tuple[Any, Tensor]]:
    """Yield input and labels of each batch, the last one cut where there is a limit.

    Parameters
    ----------
    loader
        Loader of batches.
    unpack
        Function from a batch to (input, labels); None: batches are such pairs.
    limit
        Largest number of points; None: all.

    Raises
    ------
    ValueError
        If there is no batch, or one has the wrong form.
    """
    seen = 0
    check_loader(loader)
    for batch in loader:
        given, label = unpacked(batch, unpack)
        rest = len(label) if limit is None else limit - seen
        if rest < len(label):
            given, label = _cut(given, rest, len(label)), label[:rest]
        seen += len(label)
        yield given, label
        if limit is not None and seen >= limit:
            break
    if seen == 0:
        raise ValueError(
            "the loader is empty: it yielded no batch; is its data set empty, drop_last=True with fewer "
            "points than a batch, or is it an iterator that has been used up?"
        )


def _cut(value: Any, rows: int, whole: int) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return value[:rows] if len(value.shape) and len(value) == whole else value
    if isinstance(value, Mapping):
        return {name: _cut(part, rows, whole) for name, part in value.items()}
    return [_cut(part, rows, whole) for part in value]
