"""Networks of table rows, attacked as networks of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lpc.arrays import Array


def of_images(logits_fn: Any, image: Array) -> tuple[Any, Array]:
    """Turn a network of table rows, and the rows, into one of single-row images; leave the rest as it is.

    Parameters
    ----------
    logits_fn
        Function from table rows, if ``image`` has shape (batch, features). Anything that is not callable is
        returned as it is, and left for the caller to report.
    image
        Table rows or images.
    """
    if getattr(image, "ndim", 0) != 2:
        return logits_fn, image
    if not callable(logits_fn):
        return logits_fn, image[:, None, None, :]
    tables: Callable[[Tensor], object] = logits_fn
    return lambda value: tables(value.flatten(start_dim=1)), image[:, None, None, :]
