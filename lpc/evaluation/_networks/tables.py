"""Networks of tables, attacked as networks of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lpc.arrays import Array


def of_images(logits_fn: Any, image: Array) -> tuple[Any, Array]:
    """Return a network of tables as one of images of one row, and its rows so; other things as they are.

    Parameters
    ----------
    logits_fn
        Of (batch, features), where ``image`` is of this shape. What is no function is returned as it is, for
        who calls it to name.
    image
        Tables or images.
    """
    if getattr(image, "ndim", 0) != 2:
        return logits_fn, image
    if not callable(logits_fn):
        return logits_fn, image[:, None, None, :]
    tables: Callable[[Tensor], object] = logits_fn
    return lambda value: tables(value.flatten(start_dim=1)), image[:, None, None, :]
