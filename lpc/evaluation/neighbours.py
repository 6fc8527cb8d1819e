"""Exact nearest-neighbour distances in bounded memory, also for sets that have collapsed.

A distance that is returned is always the root of a sum of squared direct differences (or the largest
direct difference) of the points as they came, up to a power of two. Matrix products of centred points only
decide which pairs need one, with an error bound that leaves no true neighbour out.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from lpc.arrays import as_float64, as_points, binary_scale
from lpc.computing.numerics import measurement
from lpc.computing.threads import callers_threads, threads_for
from lpc.evaluation._clusters import Clusters, clusters
from lpc.options import choice, whole

Norm = Literal["l2", "linf"]
Method = Literal["tree", "products", "pairs"]

_TREE_WIDTH = 10
_LEAST_ROWS = 256  # of a block of products: with fewer, a product is bound by reading the other points
_MOST_IN_DOUBT = 1 / 32  # of all pairs: a direct difference costs some thirty times a product's share
_P = {"l2": 2.0, "linf": float("inf")}
_ENTRIES = {"cpu": 1 << 20}  # of one temporary; other devices: 2**26, half a GiB of float64


def check_norm(norm: str) -> None:
    """Raise a ValueError unless a norm is known.

    Parameters
    ----------
    norm
        ``"l2"`` or ``"linf"``.
    """
    choice("norm", norm, Norm)


def check_k(k: object, total: int, what: str) -> None:
    """Raise a ValueError unless so many neighbours can be asked for.

    Parameters
    ----------
    k
        Number of neighbours: an integer from 1 to ``total - 1``.
    total
        Number of points.
    what
        What the message calls the points.
    """
    whole("k", k, least=1, most=total - 1, of=f"{total} {what}")


def method_for(width: int, *, norm: Norm, device: str = "cpu") -> Method:
    """Return how the neighbours of a set are found.

    Parameters
    ----------
    width
        Of the points.
    norm
        ``"l2"`` or ``"linf"``.
    device
        Type of the device that the points are on.

    Returns
    -------
    str
        ``"tree"``: SciPy's k-d tree on all threads; on the CPU for the Chebyshev norm, which gives up a
        pair at its first far coordinate, and for the Euclidean norm up to width 10. ``"products"``: matrix
        products choose, direct differences decide; the Euclidean norm otherwise. ``"pairs"``: direct
        differences of all pairs, in blocks; the Chebyshev norm elsewhere than on the CPU.
    """
    check_norm(norm)
    whole("width", width)
    if device == "cpu" and (norm == "linf" or width <= _TREE_WIDTH):
        return "tree"
    return "products" if norm == "l2" else "pairs"


@measurement
def kth_distance(
    points: Float64[Tensor, "points width"], *, k: int, norm: Norm
) -> Float64[Tensor, " points"]:
    """Return the distance from each point to its k-th nearest other point.

    Parameters
    ----------
    points
        float64, on any device.
    k
        From 1 to the number of points less one.
    norm
        ``"l2"`` (Euclidean) or ``"linf"`` (Chebyshev).

    Raises
    ------
    ValueError
        k out of range, or an unknown norm.

    Notes
    -----
    :func:`method_for` says how. Points repeated more than k times get a distance of exactly zero. Beside
    the points, memory holds at most one float32 copy of them and blocks of some MiB.
    """
    check_norm(norm)
    points = as_points(points, name="points")
    total, width = points.shape
    check_k(k, total, "points")
    method = method_for(width, norm=norm, device=points.device.type)
    scale = binary_scale(points)
    if method == "products":
        return _kth_by_products(points, k, scale) * scale
    if method == "pairs":
        value = points / scale
        return _kth_of_pairs(value, value, k, norm) * scale
    value = _widest_first(points) / scale
    return _kth_by_tree(value, value, k, norm).mul_(scale)


@measurement
def count_within(
    points: Float64[Tensor, "points width"], radius: Float64[Tensor, " points"]
) -> Int64[Tensor, " points"]:
    """Return how many other points lie strictly nearer than ``radius`` in the Chebyshev norm.

    Parameters
    ----------
    points
        float64, on any device.
    radius
        One positive radius a point.
    """
    points = as_points(points, name="points")
    radius = as_float64(radius, name="radius", dims=1).to(points.device)
    if len(radius) != len(points):
        raise ValueError(f"radius has {len(radius)} entries for {len(points)} points")
    if method_for(points.shape[1], norm="linf", device=points.device.type) == "tree":
        from scipy.spatial import cKDTree

        value = _widest_first(points)
        below = np.nextafter(radius.numpy(), 0.0)
        count = cKDTree(value).query_ball_point(
            value, below, p=_P["linf"], return_length=True, workers=callers_threads()
        )
        return torch.from_numpy(np.asarray(count, dtype=np.int64)) - 1
    rows = _rows(points, len(points))
    parts = [
        (_pairs(block, points, "linf") < reach[:, None]).sum(dim=1) - 1
        for block, reach in zip(points.split(rows), radius.split(rows), strict=True)
    ]
    return torch.cat(parts)


def _rows(points: Tensor, columns: int) -> int:
    """Return how many rows of so many columns a temporary may have."""
    return max(1, _ENTRIES.get(points.device.type, 1 << 26) // columns)


def _pairs(left: Tensor, right: Tensor, norm: Norm) -> Tensor:
    return torch.cdist(left, right, p=_P[norm], compute_mode="donot_use_mm_for_euclid_dist")


def _widest_first(points: Float64[Tensor, "points width"]) -> np.ndarray:
    """Return a copy of the points, the widest coordinates first: a tree gives up far pairs sooner.

    NumPy's, as the tree that follows is: torch's threads would go on spinning beside the tree's.
    """
    value = points.numpy()
    return value[:, np.argsort(-np.ptp(value, axis=0), kind="stable")]


def _kth_by_tree(points: np.ndarray, among: np.ndarray, k: int, norm: Norm) -> Float64[Tensor, " points"]:
    from scipy.spatial import cKDTree

    found = cKDTree(among).query(points, k=[k + 1], p=_P[norm], workers=callers_threads())
    return torch.from_numpy(np.asarray(found[0])[:, 0])


def _kth_of_pairs(points: Tensor, among: Tensor, k: int, norm: Norm) -> Float64[Tensor, " points"]:
    blocks = points.split(_rows(points, len(among)))
    # The point itself is among the k + 1 nearest, at distance zero.
    return torch.cat([_pairs(block, among, norm).kthvalue(k + 1, dim=1).values for block in blocks])


def _kth_by_products(points: Float64[Tensor, "points width"], k: int, scale: float) -> Tensor:
    """Return the k-th Euclidean distance over ``scale``, cluster by cluster.

    The points of a cluster look for neighbours in the nearest clusters that together hold more than k, and
    then in every other cluster that could hold a nearer one than they found.
    """
    found = clusters(points, scale)
    result = points.new_empty(len(points))
    for own, gap in enumerate(found.gaps()):
        rows = found.member[own]
        order = gap.argsort(stable=True)
        enough = int((found.size[order].cumsum(0) <= k).sum()) + 1
        result[rows] = _kth_among(points, rows, found, own, order[:enough], k, scale)
        farthest = result[rows] > (gap[order[enough]] if enough < len(order) else torch.inf)
        rows = rows[farthest]
        if rows.numel():
            reach = int((gap[order] < result[rows].max()).sum())
            result[rows] = _kth_among(points, rows, found, own, order[:reach], k, scale)
    return result


class _Frame(NamedTuple):
    """Points over a scale and relative to a centre, rounded to a dtype; and their squared norms."""

    centre: Float64[Tensor, " width"]
    scale: float
    relative: Float[Tensor, "points width"]
    square: Float[Tensor, " points"]

    def of(self, points: Float64[Tensor, "points width"]) -> Float[Tensor, "points width"]:
        """Return other points in this frame."""
        return (points / self.scale - self.centre).to(self.relative.dtype)


def _frame(points: Tensor, index: Tensor, centre: Tensor, scale: float, dtype: torch.dtype) -> _Frame:
    relative = torch.empty((len(index), points.shape[1]), dtype=dtype, device=points.device)
    square, size = relative.new_empty(len(index)), _rows(points, points.shape[1])
    for start in range(0, len(index), size):
        part = slice(start, start + size)
        relative[part] = (points.index_select(0, index[part]) / scale - centre).to(dtype)
        square[part] = torch.linalg.vecdot(relative[part], relative[part])
    return _Frame(centre, scale, relative, square)


def _kth_among(
    points: Float64[Tensor, "points width"],
    rows: Int64[Tensor, " rows"],
    found: Clusters,
    own: int,
    near: Int64[Tensor, " near"],
    k: int,
    scale: float,
) -> Float64[Tensor, " rows"]:
    """Return the k-th distance over the scale of some points of a cluster, looking in some clusters.

    Products are in float32 where its rounding leaves few pairs in doubt, else in float64, else not used.
    """
    among = torch.cat([found.member[other] for other in near.tolist()])
    plain = points.device.type == "cpu"
    left = [torch.float32, torch.float64] if plain else [torch.float64]
    frame: _Frame | None = None
    result = points.new_empty(len(rows))  # filled in place: small pieces would leave holes in memory
    size = max(_LEAST_ROWS, _rows(points, len(among)))
    for start in range(0, len(rows), size):
        decided = None
        while decided is None and left:
            if frame is None:
                frame = _frame(points, among, found.centre[own], scale, left[0])
            decided = _kth_in_frame(points, rows[start : start + size], among, frame, k)
            if decided is None:  # too many in doubt: nor would the blocks that follow be better
                left, frame = left[1:], None
        if decided is None:
            rest, others = points[rows[start:]] / scale, points[among] / scale
            if points.device.type == "cpu":
                result[start:] = _kth_by_tree(rest.numpy(), others.numpy(), k, "l2")
            else:
                result[start:] = _kth_of_pairs(rest, others, k, "l2")
            break
        result[start : start + size] = decided
    return result


def _kth_in_frame(
    points: Float64[Tensor, "points width"],
    rows: Int64[Tensor, " rows"],
    among: Int64[Tensor, " among"],
    frame: _Frame,
    k: int,
) -> Float64[Tensor, " rows"] | None:
    r"""Return the k-th distances of a block, or None where rounding leaves too many pairs in doubt.

    With c points in the frame and u the unit rounding of its dtype, :math:`\lVert c_j\rVert^2 - 2 c_i c_j`
    is off by less than :math:`b_i = (P + 16) u (\lVert c_i\rVert + \max_j \lVert c_j\rVert)^2`. So a pair
    is nearer than the k-th distance where it lies more than :math:`2 b_i` below the k-th smallest value,
    farther where it lies more than that above, and in doubt between; those are measured directly.
    """
    own = frame.of(points.index_select(0, rows))
    with threads_for(own.numel() * len(frame.relative)):
        rough = torch.addmm(frame.square, own, frame.relative.T, alpha=-2)
    unit = torch.finfo(rough.dtype).eps / 2
    size = torch.linalg.vecdot(own, own).sqrt() + frame.square.max().sqrt()
    margin = (2 * (points.shape[1] + 16) * unit * size.square())[:, None]
    smallest = _smallest(rough, k + 1)  # the point itself is one of them
    limit = smallest.amax(dim=1, keepdim=True)
    row, column = torch.nonzero((rough - limit).abs_() <= margin, as_tuple=True)
    if len(row) > _MOST_IN_DOUBT * rough.numel() + len(rows) * 8:
        return None
    nearer = (limit - smallest > margin).sum(dim=1)  # the same subtraction: none is counted twice
    distance = _direct(points, rows[row], among[column], frame.scale)
    order = distance.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    first = torch.bincount(row, minlength=len(rows)).cumsum(0).roll(1)
    first[0] = 0
    return distance[order[first + k - nearer]]


def _smallest(values: Float[Tensor, "rows columns"], count: int) -> Float[Tensor, "rows count"]:
    """Return each row's smallest values, in any order."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), count - 1, axis=1)[:, :count])
    return values.topk(count, dim=1, largest=False, sorted=False).values


def _direct(
    points: Float64[Tensor, "points width"], left: Tensor, right: Tensor, scale: float
) -> Float64[Tensor, " pairs"]:
    """Return the Euclidean distances of pairs of points over a scale, from direct differences."""
    result, size = points.new_empty(len(left)), _rows(points, points.shape[1])
    for start in range(0, len(left), size):
        pair = slice(start, start + size)
        away = points.index_select(0, left[pair]).sub_(points.index_select(0, right[pair]))
        result[pair] = torch.linalg.vector_norm(away.div_(scale), dim=1)
    return result
