"""Exact nearest-neighbour distances in bounded memory, also for sets that have collapsed.

A returned distance is always the root of a sum of squared direct differences (or the largest direct
difference) of the original points, up to a power of two. Matrix products of centred points, or
faiss, only decide which pairs need one, with an error bound that leaves no true neighbour out.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lpc.arrays import as_float64, as_points, binary_scale
from lpc.computing.numerics import measurement
from lpc.computing.options import choice, whole
from lpc.computing.threads import callers_threads
from lpc.evaluation._searching import faiss_search
from lpc.evaluation._searching.clusters import clusters
from lpc.evaluation._searching.frames import Norm as _Norm
from lpc.evaluation._searching.frames import P, pairs, rows_at_once
from lpc.evaluation._searching.neighbour_search import Search, by_topk, kth_by_tree, kth_of_pairs

Norm = _Norm
Method = Literal["tree", "products", "candidates", "faiss", "pairs"]

_TREE_WIDTH, _TREE_WIDTH_OF_FEW = 10, 30
_ASKED, _FROM, _FEW = 32, 1000, 0.2  # points that are asked, of at least so many; largest share that is near
_FAISS_POINTS, _FAISS_WIDTH = 20_000, 1024


def check_norm(norm: str) -> None:
    """Raise a ValueError unless a norm is known.

    Parameters
    ----------
    norm
        Norm to check: ``"l2"`` or ``"linf"``.
    """
    choice("norm", norm, Norm)


def check_k(k: object, total: int, what: str) -> None:
    """Raise a ValueError unless every point has a k-th neighbour.

    Parameters
    ----------
    k
        Rank of the neighbour: an integer from 1 to ``total - 1``.
    total
        Number of points.
    what
        Description of the points for the message.
    """
    whole("k", k, least=1, most=total - 1, of=f"{total} {what}")


class KthDistances(NamedTuple):
    """The distance of each point to its k-th nearest other point, and how it was found.

    Attributes
    ----------
    distance
        Distances, shape (points,), float64.
    method
        Name of the method, as from :func:`method_for`.
    in_doubt
        Number of points that candidates could not decide, so that all others were searched, with
        ``"candidates"`` and ``"faiss"``; otherwise 0.
    """

    distance: Float64[Tensor, " points"]
    method: Method
    in_doubt: int


def method_for(
    width: int, *, norm: Norm, device: str = "cpu", points: int | None = None, k: int | None = None
) -> Method:
    """Return the name of the method that finds the neighbours of a set.

    Parameters
    ----------
    width
        Width of the points.
    norm
        Norm of the distances, ``"l2"`` or ``"linf"``.
    device
        Type of the device that holds the points.
    points, k
        Number of points, and rank of the neighbour; None: too few points for faiss.

    Returns
    -------
    str
        ``"tree"``: SciPy's k-d tree on all threads; on the CPU for the Chebyshev norm, which gives up a pair
        at its first distant coordinate, and for the Euclidean norm up to width 10. ``"products"``: matrix
        products choose, direct differences decide; on the CPU for the Euclidean norm otherwise, but
        :func:`kth_distances` takes the tree up to width 30 where few points are near.
        ``"candidates"``: the same with the k + 32 nearest points by float32, for both norms; on other devices
        than the CPU. ``"faiss"``: these candidates from faiss; on a GPU with faiss-gpu, for the Euclidean
        norm, from 20,000 points on, for widths up to 1,024 and k up to 2,015. ``"pairs"``: direct differences
        of all pairs, in blocks; only on request.

    Notes
    -----
    All return the same distances, except for the rounding of a sum of squares. The choice of faiss is
    calculated, not measured: it writes no matrix of all distances, which takes most of the time of narrow
    points; from width 1,024 the product does, which is the same for both.
    """
    check_norm(norm)
    whole("width", width)
    if device == "cpu":
        return "tree" if norm == "linf" or width <= _TREE_WIDTH else "products"
    many = points is not None and whole("points", points) >= _FAISS_POINTS and width <= _FAISS_WIDTH
    if norm == "l2" and many and k is not None and whole("k", k) <= faiss_search.MOST_K:
        return "faiss" if device == "cuda" and faiss_search.on_gpus() else "candidates"
    return "candidates"


@measurement
def kth_distances(
    points: Float64[Tensor, "points width"], *, k: int, norm: Norm, method: Method | None = None
) -> KthDistances:
    r"""Return the distance from each point to its k-th nearest other point, and how it was found.

    Parameters
    ----------
    points
        Points, shape (points, width), float64, on any device.
    k
        Rank of the neighbour, from 1 to the number of points minus one.
    norm
        Norm of the distances: ``"l2"`` (Euclidean) or ``"linf"`` (Chebyshev).
    method
        Method to use, one of those of :func:`method_for`; None: the one it chooses. ``"tree"`` works on the
        CPU only, ``"products"`` for ``"l2"`` only.

    Raises
    ------
    ValueError
        If ``k`` is out of range, the norm or method is unknown, or the method is unavailable here.
    MissingExtra
        If ``"faiss"`` is not installed, or only for the CPU while the points are on a GPU.

    Warns
    -----
    UserWarning
        If ``"faiss"`` was asked for on a GPU with a k above 2,015, which it does not support;
        ``"candidates"`` is then used.

    Notes
    -----
    Points repeated more than k times have a distance of exactly zero. Besides the points, memory holds at
    most one float32 copy of them and blocks of some MiB.

    ``"candidates"`` and ``"faiss"``: points that come in separate groups are centred on their group in
    float64, then rounded to float32. By these the k + 32 nearest are found. Which of them lie within rounding
    of the k-th is known from a bound, :math:`(P + 16)\,2^{-24}(\lVert q\rVert + \max\lVert x\rVert)^2` for
    squared distances, and is decided by direct differences in float64. Where the last candidate lies within
    rounding of the k-th too, or where a distance turns out to be rounded more than the bound allows, all
    pairs are looked at. Groups farther away are left out only once none of them can hold a nearer point.

    A tree passes most points by where few are near: in tight classes, or a low intrinsic dimension. With
    1,000 or more points of width 11 to 30 on a CPU, 32 of them are tried: where on average at most a fifth
    of all points lie within twice the k-th distance, the tree is chosen.
    """
    check_norm(norm)
    points = as_points(points, name="points")
    total, width = points.shape
    check_k(k, total, "points")
    chosen = _method(method, width, total, k, norm, points.device)
    if method is None and chosen == "products" and width <= _TREE_WIDTH_OF_FEW and _few_are_near(points, k):
        chosen = "tree"
    if chosen in ("tree", "pairs"):
        scale = binary_scale(points)
        if chosen == "pairs":
            value = points / scale
            return KthDistances(kth_of_pairs(value, value, k, norm) * scale, chosen, 0)
        sorted_columns = _widest_first(points) / scale
        return KthDistances(kth_by_tree(sorted_columns, sorted_columns, k, norm).mul_(scale), chosen, 0)
    candidates = None
    if chosen != "products":
        candidates = by_topk(norm) if chosen == "candidates" else faiss_search.by_faiss(points.device, norm)
    search = Search(points, k, norm, candidates)
    return KthDistances(search.distances(), chosen, search.in_doubt)


@measurement
def kth_distance(
    points: Float64[Tensor, "points width"], *, k: int, norm: Norm, method: Method | None = None
) -> Float64[Tensor, " points"]:
    """Return the distance from each point to its k-th nearest other point.

    Parameters
    ----------
    points, k, norm, method
        The arguments of :func:`kth_distances`, which also returns the method and documents the errors.
    """
    return kth_distances(points, k=k, norm=norm, method=method).distance


def _method(asked: Method | None, width: int, total: int, k: int, norm: Norm, device: torch.device) -> Method:
    """Return the method to use; ValueError for one that is unknown or unsuitable for these points."""
    if asked is None:
        return method_for(width, norm=norm, device=device.type, points=total, k=k)
    choice("method", asked, Method)
    if asked == "tree" and device.type != "cpu":
        raise ValueError(f"method is 'tree', which is for points on the CPU; these are on {device}")
    if asked == "products" and norm != "l2":
        raise ValueError(f"method is 'products', which is for norm 'l2'; norm is {norm!r}")
    if asked == "faiss" and device.type != "cpu" and k > faiss_search.MOST_K:
        faiss_search.module_for(device)
        warnings.warn(
            f"faiss finds {faiss_search.MOST_ON_A_GPU} neighbours at most on a GPU, and k = {k} needs "
            "more: torch searches instead (method 'candidates')",
            stacklevel=4,
        )
        return "candidates"
    return asked


@measurement
def count_within(
    points: Float64[Tensor, "points width"], radius: Float64[Tensor, " points"]
) -> Int64[Tensor, " points"]:
    """Return the number of other points strictly nearer than ``radius`` in the Chebyshev norm.

    Parameters
    ----------
    points
        Points, shape (points, width), float64, on any device.
    radius
        Positive radius of each point.

    Notes
    -----
    On the CPU, up to width 10, by SciPy's tree. Otherwise by direct differences, without groups of points
    that are too far away: giving up a pair at its first distant coordinate saves nothing if most pairs are
    about one radius apart, as in many dimensions.
    """
    points = as_points(points, name="points")
    radius = as_float64(radius, name="radius", dims=1).to(points.device)
    if len(radius) != len(points):
        raise ValueError(f"radius has {len(radius)} entries for {len(points)} points")
    if points.device.type == "cpu" and points.shape[1] <= _TREE_WIDTH:
        from scipy.spatial import cKDTree

        value = _widest_first(points)
        below = np.nextafter(radius.numpy(), 0.0)
        count = cKDTree(value).query_ball_point(
            value, below, p=P["linf"], return_length=True, workers=callers_threads()
        )
        return torch.from_numpy(np.asarray(count, dtype=np.int64)) - 1
    scale = binary_scale(points)
    groups = clusters(points, scale)
    gaps = groups.gaps() * scale / points.shape[1] ** 0.5  # balls are Euclidean
    result = torch.empty_like(radius, dtype=torch.int64)
    for own, gap in zip(groups.member, gaps, strict=True):
        near = (gap < radius[own].max()).nonzero()[:, 0].tolist()
        among = points[torch.cat([groups.member[other] for other in near])]
        for rows in own.split(rows_at_once(points, len(among))):
            result[rows] = (pairs(points[rows], among, "linf") < radius[rows, None]).sum(dim=1) - 1
    return result


def _few_are_near(points: Float64[Tensor, "points width"], k: int) -> bool:
    """Return whether the mean share of points within twice the distance of the k-th neighbour is small."""
    if len(points) < _FROM:
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    asked = torch.randperm(len(points), generator=generator, device="cpu")[:_ASKED]
    scaled = points / binary_scale(points)
    distance = pairs(scaled[asked], scaled, "l2")
    reach = 2 * distance.kthvalue(k + 1, dim=1, keepdim=True).values
    return float((distance <= reach).double().mean()) <= _FEW


def _widest_first(points: Float64[Tensor, "points width"]) -> np.ndarray:
    """Return a copy of the points, widest coordinates first, so that a tree gives up distant pairs sooner.

    NumPy's, as the tree that follows is: torch's threads would go on spinning beside the tree's.
    """
    value = points.numpy()
    return value[:, np.argsort(-np.ptp(value, axis=0), kind="stable")]
