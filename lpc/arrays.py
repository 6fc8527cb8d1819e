"""Points and labels: conversion to float64 tensors, validation, and grouping of points by class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar, Union

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.masked import MaskedTensor

from lpc.computing.options import choice
from lpc.errors import Undefined

Array = Union[np.ndarray, Tensor]  # noqa: UP007  jaxtyping reads typing.Union; kept plain for Python 3.10
ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)
Convention = Literal["paper", "released"]

EPSILON = float(np.finfo(np.float64).eps)
CHUNK_BYTES = 4 * 2**20
"""Default size in bytes of the images differentiated at a time: 170 of 3 x 32 x 32 in float64."""
BLOCK = 4096  # points processed at once where the work can be split
_BLOCK_ENTRIES = 1 << 22  # of one temporary with a column for each class: 32 MiB
_ENTRIES_ELSEWHERE = 1 << 26  # of one temporary on a GPU: half a GiB of float64
_BLOCK_IN_CACHE = 1 << 17  # entries of a block of points that several passes read: 1 MiB
_CACHED_ENTRIES = 1 << 14  # of one temporary of several that are to stay in a CPU's cache


def rows_at_once(columns: int, device: torch.device) -> int:
    """Return the number of points to process at once if each needs so many columns.

    On a CPU up to 4,096, in 32 MiB; elsewhere as many as fit in half a GiB: launches are the cost there.
    """
    if device.type != "cpu":
        return max(1, _ENTRIES_ELSEWHERE // columns)
    return max(1, min(BLOCK, _BLOCK_ENTRIES // columns))


def points_at_once(points: Tensor) -> int:
    """Return the number of points of a set to process at once: on a CPU a block that stays in its cache."""
    if points.device.type != "cpu":
        return rows_at_once(points.shape[1], points.device)
    return max(1, min(BLOCK, _BLOCK_IN_CACHE // points.shape[1]))


def entries_at_once(device: torch.device) -> int:
    """Return the number of float64 values to process together: those that fit a CPU's cache, or 32 MiB.

    On a GPU it is the number of launches that costs.
    """
    return _CACHED_ENTRIES if device.type == "cpu" else _BLOCK_ENTRIES


def check_convention(convention: str) -> None:
    """Raise ValueError unless ``convention`` is ``"paper"`` or ``"released"``."""
    choice("convention", convention, Convention)


def measuring_device(device: torch.device) -> torch.device:
    """Return the device that measures latents of ``device``: itself, or the CPU.

    Everything is measured in float64, which Apple's ``mps`` and some other devices lack. Their latents are
    moved to the CPU; a warning says so once per process.
    """
    return device if _has_float64(device.type) else torch.device("cpu")


@lru_cache
def _has_float64(kind: str) -> bool:
    if kind in ("cpu", "cuda", "meta"):
        return True
    if kind != "mps":
        try:
            torch.zeros(1, dtype=torch.float64, device=kind)
            return True
        except (TypeError, RuntimeError, NotImplementedError):
            pass
    warnings.warn(f"{kind} has no float64: latents there are measured on the CPU", stacklevel=2)
    return False


_CURES = {"to_numpy": "{0}.to_numpy()", "toarray": "{0}.toarray()", "__len__": "np.asarray({0})"}


def _expression(name: str) -> str:
    """Return the expression for a value in a cure: its name if that is an identifier, as of a parameter."""
    return name if name.isidentifier() else "array"


def _tensor(value: object, name: str) -> Tensor:
    """Return an array as a plain, dense tensor without gradient; ValueError for anything else."""
    if isinstance(value, Tensor):
        return _plain(value, name)
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.count_masked(value))
        raise ValueError(
            f"{name} is a masked array, with {masked} of {value.size} entries masked; expected a plain one: "
            f"leave out the masked entries, and pass {name}.data"
        )
    if isinstance(value, np.ndarray):
        return _from_numpy(value, name)
    forms = {} if isinstance(value, Mapping) else _CURES
    cure = next((form.format(_expression(name)) for has, form in forms.items() if hasattr(value, has)), "")
    hint = f"; pass {cure}" if cure else ""
    raise ValueError(f"{name} is a {type(value).__name__}; expected a numpy array or a torch tensor{hint}")


def _from_numpy(value: np.ndarray, name: str) -> Tensor:
    native = np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            narrow = native.astype(np.float64)
        if not np.array_equal(narrow, native, equal_nan=True):
            raise ValueError(
                f"{name} has dtype {value.dtype}, with digits that float64 does not hold; expected float32 "
                f"or float64: pass {_expression(name)}.astype(np.float64) where they do not matter"
            )
        native = narrow
    if not native.flags.writeable:
        native = native.copy()  # torch warns of memory that it could not write to; nothing here writes
    try:
        return torch.from_numpy(native)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has dtype {value.dtype}; expected numbers") from error


def check_dense(value: Tensor, name: str) -> None:
    """Raise ValueError for a tensor that is masked, sparse, nested or quantized."""
    if isinstance(value, MaskedTensor):
        raise ValueError(f"{name} is a masked tensor; expected a plain one: leave out the masked entries")
    if value.is_nested or value.is_quantized or value.layout != torch.strided:
        kind = "a nested" if value.is_nested else "a quantized" if value.is_quantized else "a sparse"
        cure = "dequantize()" if value.is_quantized else "to_dense()"
        where = "" if value.is_nested else f"; pass {name}.{cure}"
        raise ValueError(f"{name} is {kind} tensor ({value.layout}); expected a dense one{where}")


def _plain(value: Tensor, name: str) -> Tensor:
    check_dense(value, name)
    if value.device.type == "meta":
        raise ValueError(f"{name} is on the device meta, where tensors have no values")
    device = measuring_device(value.device)
    plain = value.as_subclass(Tensor).detach().resolve_conj().resolve_neg()
    return plain.cpu() if device.type == "cpu" else plain


def tensor_of(value: Array) -> Tensor:
    """Return an array as a tensor on the CPU, whatever the default device is; a tensor as it is."""
    return value if isinstance(value, Tensor) else _tensor(value, "value")


def extremes(values: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest entry; NaN for both if any entry is NaN.

    On the CPU by NumPy: torch's threads would go on spinning, in the way of a tree's that come next.
    """
    if values.device.type == "cpu":
        return float(values.numpy().min()), float(values.numpy().max())
    low, high = values.aminmax()
    return float(low), float(high)


SUM_TOLERANCE = 1e-5
"""Largest allowed distance of a sum of probabilities from one: rounding in float32."""


def as_float64(value: Array, *, name: str, dims: int | None = None, finite: bool = True) -> Tensor:
    """Return float32 or float64 values as a float64 tensor on their own device (numpy: cpu).

    A device without float64 is left for the CPU: :func:`measuring_device`. Any strides, byte order and
    read-only memory will do. Half precision is refused: its rounding hides collapse.

    Parameters
    ----------
    value
        Array of any shape, float32 or float64.
    name
        Name of the argument, for error messages.
    dims
        Required number of dimensions; None accepts any number.
    finite
        Whether NaN and infinity are refused.

    Raises
    ------
    ValueError
        If ``value`` is no plain array (but a list, a data frame, a masked or sparse array), has another dtype
        (also one with more digits than float64) or another number of dimensions, is empty, or holds NaN or
        infinity.
    """
    return floats(value, name=name, dims=dims, finite=finite).to(torch.float64)


def floats(value: Array, *, name: str, dims: int | None = None, finite: bool = True) -> Tensor:
    """Return the same as :func:`as_float64`, but in the original dtype and without a copy."""
    tensor = _tensor(value, name)
    if tensor.dtype not in (torch.float32, torch.float64):
        cure = _as_floats(tensor, name, value)
        raise ValueError(f"{name} has dtype {tensor.dtype}; expected float32 or float64{cure}")
    if dims is not None and tensor.ndim != dims:
        it = _expression(name)
        hint = f"; pool it, or pass {it}.reshape(len({it}), -1)" if dims == 2 < tensor.ndim else ""
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {dims} dimensions{hint}")
    if tensor.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it holds no values")
    if finite and not all(math.isfinite(end) for end in extremes(tensor)):
        bad = torch.nonzero(~torch.isfinite(tensor))
        where = tuple(bad[0].tolist())
        of = "torch" if isinstance(value, Tensor) else "np"
        hint = f"; whole rows are {of}.isfinite({_expression(name)}).all(1)" if tensor.ndim == 2 else ""
        raise ValueError(
            f"{name} holds {len(bad)} NaN or infinite values; the first is at index {where}{hint}"
        )
    return tensor


def _as_floats(tensor: Tensor, name: str, given: Array) -> str:
    """Return the cure for values that are not float32 or float64: what to pass in their place."""
    if tensor.is_complex():
        return ""
    call = "float()" if isinstance(given, Tensor) else "astype(np.float32)"
    half = " where its rounding does not matter" if tensor.is_floating_point() else ""
    return f"; pass {_expression(name)}.{call}{half}"


def images_at_once(image: Array, chunk: int | None) -> int:
    """Return the number of images per pass of a network; ValueError where gradients are impossible.

    Parameters
    ----------
    image
        Images, shape (batch, ...), float32 or float64.
    chunk
        Images per pass; None: as many as fit in :data:`CHUNK_BYTES`, at least 1.
    """
    values = as_float64(image, name="image")
    if values.ndim < 2:
        raise ValueError(f"image has shape {tuple(values.shape)}; expected (batch, ...)")
    if torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode is on: it keeps no gradients; use torch.no_grad or neither")
    if chunk is None:
        return max(1, CHUNK_BYTES // (values[0].numel() * image.dtype.itemsize))
    if chunk < 1:
        raise ValueError(f"chunk={chunk}; expected 1 or more images")
    return chunk


def as_points(latent: Array, *, name: str = "latent") -> Float64[Tensor, "points width"]:
    """Return a set of points as a float64 tensor on its own device (numpy: cpu).

    Parameters
    ----------
    latent
        Points, shape (points, width), float32 or float64.
    name
        Name of the argument, for error messages.

    Raises
    ------
    ValueError
        If the dtype is another, the array is not two-dimensional or is empty, or it holds NaN or infinity
        (the message gives their number and the first index).
    """
    return as_float64(latent, name=name, dims=2)


def as_labels(label: Array, points: Tensor, *, name: str = "label") -> Int64[Tensor, " points"]:
    """Return the label of each point as an int64 tensor on the points' device.

    Parameters
    ----------
    label
        Labels, shape (points,), integers of any width.
    points
        Points that the labels belong to; only the size of the first dimension is used.
    name
        Name of the argument, for error messages.

    Raises
    ------
    ValueError
        If the dtype is not integer, the array is not one-dimensional, or there are not as many labels as
        points.
    """
    it = _expression(name)
    if isinstance(label, np.ndarray) and label.dtype.kind in "USO":
        raise ValueError(
            f"{name} has dtype {label.dtype}; expected integers: number the classes by "
            f"np.unique({it}, return_inverse=True)[1]"
        )
    tensor = _tensor(label, name)
    if tensor.ndim != 1:
        one = tensor.ndim == 2 and tensor.shape[1] == 1
        cure = f"pass {it}[:, 0]" if one else f"of one-hot rows pass {it}.argmax(1)"
        hint = f"; {cure}" if tensor.ndim == 2 else ""
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected 1 dimension{hint}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        call = "long()" if isinstance(label, Tensor) else "astype(int)"
        hint = "" if tensor.is_complex() else f"; pass {it}.{call}"
        raise ValueError(f"{name} has dtype {tensor.dtype}; expected integers{hint}")
    if tensor.shape[0] != points.shape[0]:
        raise ValueError(f"{name} has {tensor.shape[0]} entries for {points.shape[0]} points")
    whole = tensor.to(device=points.device, dtype=torch.int64).contiguous()
    if tensor.dtype == torch.uint64 and bool((whole < 0).any()):
        raise ValueError(f"{name} holds values of 2**63 or more; expected values that int64 can hold")
    return whole


def as_flags(flag: Array, points: Tensor, *, name: str) -> Bool[Tensor, " points"]:
    """Return one boolean per point on the points' device; ValueError for another dtype or length."""
    tensor = _tensor(flag, name)
    if tensor.dtype != torch.bool:
        raise ValueError(f"{name} has dtype {tensor.dtype}; expected booleans")
    if tensor.ndim != 1 or tensor.shape[0] != points.shape[0]:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)} for {points.shape[0]} points")
    return tensor.to(points.device)


def like(value: Tensor, source: ArrayT) -> ArrayT:
    """Return ``value`` in the kind of ``source``: numpy for numpy, else the tensor where it was measured."""
    if isinstance(source, np.ndarray):
        return value.cpu().numpy()
    return value


class Groups(NamedTuple):
    """Points grouped by label.

    Attributes
    ----------
    value
        The labels that occur, ascending, shape (classes,).
    index
        Position of each point's label in ``value``, shape (points,).
    count
        Number of points in each class, shape (classes,), int64.
    """

    value: Tensor
    index: Tensor
    count: Tensor


def group(label: Int64[Tensor, " points"]) -> Groups:
    """Group points by label; only labels that occur become classes."""
    value, index, count = torch.unique(label, return_inverse=True, return_counts=True)
    return Groups(value, index, count)


def group_sums(
    points: Float64[Tensor, "points width"], index: Int64[Tensor, " points"], classes: int
) -> Float64[Tensor, "classes width"]:
    """Return the sum of the points of each class, added in one order, so always to the same bits.

    By scattered addition on a CPU; elsewhere that has no fixed order, and :func:`product_sums` does it.
    """
    if points.device.type != "cpu":
        return product_sums(points, index, classes)
    return points.new_zeros(classes, points.shape[1]).index_add_(0, index, points)


def product_sums(
    points: Float64[Tensor, "points width"], index: Int64[Tensor, " points"], classes: int
) -> Float64[Tensor, "classes width"]:
    """Return the sum of the points of each class by products with matrices of zeros and ones."""
    total, size = points.new_zeros(classes, points.shape[1]), rows_at_once(classes, points.device)
    for part, where in zip(points.split(size), index.split(size), strict=True):
        total.addmm_(torch.nn.functional.one_hot(where, classes).to(points.dtype).T, part)
    return total


def group_means(points: Float64[Tensor, "points width"], groups: Groups) -> Float64[Tensor, "classes width"]:
    """Return the mean of each class.

    It is taken twice, the second time of the residual, so that the rounding of the sum does not show beside
    the spread of a collapsed class. No second array of the size of ``points`` is needed.
    """
    classes, total = len(groups.value), groups.count[:, None]
    mean = group_sums(points, groups.index, classes) / total
    rest = torch.zeros_like(mean)
    size = points_at_once(points)
    for part, index in zip(points.split(size), groups.index.split(size), strict=True):
        rest += group_sums(part - mean[index], index, classes)
    return mean + rest / total


def deviations(points: Float64[Tensor, "points width"], groups: Groups) -> Float64[Tensor, "points width"]:
    """Return each point minus the mean of its class."""
    return group_means(points, groups)[groups.index].neg_().add_(points)


def within_weights(groups: Groups, convention: Convention) -> Float64[Tensor, " points"]:
    r"""Return w such that the within-class covariance is the sum over points of w times the outer product.

    Notes
    -----
    ``paper``: :math:`1/N`. ``released``: :math:`1/(K (n_c - 1))` for a point of class c, the unweighted
    average over classes of the unbiased covariance of each.

    Raises
    ------
    ValueError
        If ``convention`` is ``"released"`` and a class has a single point, whose unbiased covariance does not
        exist; the message names the class.
    """
    check_convention(convention)
    total = groups.index.shape[0]
    if convention == "paper":
        return torch.full((total,), 1.0 / total, dtype=torch.float64, device=groups.index.device)
    single = groups.value[groups.count == 1].tolist()
    if single:
        raise Undefined(
            f"classes {single} have one point each, so no unbiased covariance; use convention='paper'"
        )
    weight = 1.0 / (len(groups.value) * (groups.count - 1).to(torch.float64))
    return weight[groups.index]


def centre(points: Float64[Tensor, "points width"]) -> Float64[Tensor, "points width"]:
    """Return the points minus their mean, taken twice so that a large common offset leaves no rounding."""
    centred = points - points.mean(dim=0)
    return centred - centred.mean(dim=0)


def binary_scale(points: Tensor) -> float:
    """Return the power of two next below the largest absolute entry (1.0 where all are zero).

    Division by it changes no digit of any entry, and keeps squares from under- and overflowing.
    """
    largest = max(abs(end) for end in extremes(points))
    return 2.0 ** (math.frexp(largest)[1] - 1) if largest > 0 else 1.0


def as_distributions(value: Array, *, name: str) -> Float64[Tensor, "points categories"]:
    """Return rows of probabilities in float64, each divided by its sum.

    Parameters
    ----------
    value
        Probabilities, shape (points, categories).
    name
        Name of the argument, for error messages.

    Raises
    ------
    ValueError
        If the array is invalid, an entry is negative, or a row's sum differs from one by more than 1e-5.
    """
    probability = as_float64(value, name=name, dims=2)
    not_negative(probability, name)
    row = probability.sum(dim=1)
    off = (row - 1).abs() > SUM_TOLERANCE
    if bool(off.any()):
        index = int(torch.nonzero(off)[0])
        raise ValueError(
            f"{int(off.sum())} rows of {name} do not sum to one; the first is row {index}, "
            f"with {float(row[index])}"
        )
    return probability / row[:, None]


def not_negative(probability: Tensor, name: str) -> None:
    """Raise a ValueError that names the first negative entry of some probabilities."""
    if bool((probability < 0).any()):
        where = tuple(torch.nonzero(probability < 0)[0].tolist())
        raise ValueError(f"{name} is negative; the first such entry is at index {where}")
