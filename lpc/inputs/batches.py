"""Checks of a batch for losses: form of latents and labels, and the labels' values where that is free."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor

from lpc.arrays import check_dense

_CURES = {
    3: "; of the tokens take one, or their mean, first",
    4: "; pool feature maps first, or flatten(1) them",
}


def check_latent(latent: Tensor, *, name: str = "latent", form: str = "(batch, width)") -> None:
    """Raise ValueError unless a batch is a dense tensor of floats with as many dimensions as ``form``.

    No value is read, so that nothing waits for a device and functions can be mapped over runs.

    Parameters
    ----------
    latent
        Batch to check.
    name
        Name of the argument, for error messages.
    form
        Names of the dimensions.
    """
    if not isinstance(latent, Tensor):
        has = next(
            (part for part in ("latent", "logits") if isinstance(getattr(latent, part, None), Tensor)), ""
        )
        cure = f": take its {has}" if has else ""
        raise ValueError(f"{name} is a {type(latent).__name__}; expected a tensor of shape {form}{cure}")
    check_dense(latent, name)
    if latent.device.type == "meta":
        raise ValueError(f"{name} is on the device meta, where tensors have no values")
    shape = tuple(latent.shape)
    if len(shape) != form.count(",") + 1:
        cure = _CURES.get(len(shape), "") if form == "(batch, width)" else ""
        raise ValueError(f"{name} has shape {shape}; expected {form}{cure}")
    if 0 in shape:
        raise ValueError(f"{name} has shape {shape}: it holds no values")
    if not latent.is_floating_point():
        raise ValueError(f"{name} has dtype {latent.dtype}; expected floats")


def checked_label(
    label: Tensor, batch: Tensor, *, classes: int | None = None, check: bool | None = None
) -> Int64[Tensor, " batch"]:
    """Return the class of each point of a batch as int64; ValueError if a label is not a class.

    Parameters
    ----------
    label
        Labels, shape (batch,), integers of any width, on the device of the batch.
    batch
        Batch that the labels belong to; only the size of the first dimension is used.
    classes
        Number of classes; labels go from 0 to ``classes - 1``. None: any integers are classes.
    check
        Whether the labels' values are checked. None: only where they are in the host's memory and not mapped
        over runs; True: also on a GPU, which the program then has to wait for.
    """
    if not isinstance(label, Tensor):
        raise ValueError(f"label is a {type(label).__name__}; expected a tensor of integers")
    check_dense(label, "label")
    if label.is_floating_point() or label.is_complex() or "bool" in str(label.dtype):
        raise ValueError(f"label has dtype {label.dtype}; expected integers")
    if label.dim() != 1:
        one_hot = "; for one-hot rows pass label.argmax(dim=1)" if label.dim() == 2 else ""
        raise ValueError(f"label has shape {tuple(label.shape)}; expected one class per point{one_hot}")
    if label.shape[0] != batch.shape[0]:
        raise ValueError(f"label has {label.shape[0]} entries for {batch.shape[0]} points")
    if label.device != batch.device:
        raise ValueError(f"label is on {label.device} and the batch on {batch.device}; expected one device")
    whole = label.long()
    if classes is not None and (check or (check is None and label.device.type == "cpu")):
        _in_range(whole, classes, must=bool(check))
    return whole


def _in_range(label: Tensor, classes: int, *, must: bool) -> None:
    low, high = label.aminmax()
    try:
        ends = int(low), int(high)
    except RuntimeError:  # mapped over runs: there is no one value
        if must:
            raise
        return
    for end in ends:
        if not 0 <= end < classes:
            where = int((label == end).nonzero()[0])
            raise ValueError(f"label is {end} at index {where}; expected 0 to {classes - 1}")
