"""The k-th nearest distances of all points: group by group, roughly first, decided by direct differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lpc.arrays import binary_scale
from lpc.computing.threads import callers_threads, threads_for
from lpc.evaluation._searching.clusters import clusters
from lpc.evaluation._searching.frames import Frame, Norm, P, direct, frame_of, pairs, rows_at_once

SPARE = 32
"""Number of candidates beyond the point itself and k others: so many pairs rarely lie within rounding."""
_LEAST_ROWS = 256  # of a block of products: with fewer, a product is bound by reading the other points
_MOST_IN_DOUBT = 1 / 32  # of all pairs: a direct difference costs some thirty times a product's share
_FEW = 1 << 21  # coordinates of pairs: a millisecond or two
_FAR = 2.0**300  # times the others' size: beyond it squares at one scale underflow
_HOPELESS = 0.5  # of the rows of a block: then those of the next are not tried

Candidates = Callable[[Tensor, Frame, int], tuple[Tensor, Tensor]]
"""Function of points in a frame and the frame that returns the nearest points of the frame, nearest first.

Squared distances (``l2``) or distances (``linf``) in the frame's dtype, and the points' indices.
"""


def kth_by_tree(points: np.ndarray, among: np.ndarray, k: int, norm: Norm) -> Float64[Tensor, " points"]:
    """Return the k-th distance of each point to others, itself among them, by SciPy's tree."""
    from scipy.spatial import cKDTree

    found = cKDTree(among).query(points, k=[k + 1], p=P[norm], workers=callers_threads())
    return torch.from_numpy(np.asarray(found[0])[:, 0])


def kth_of_pairs(points: Tensor, among: Tensor, k: int, norm: Norm) -> Float64[Tensor, " points"]:
    """Return the k-th distance of each point to others, itself among them, by differences of all pairs."""
    blocks = points.split(rows_at_once(points, len(among)))
    # The point itself is among the k + 1 nearest, at distance zero.
    return torch.cat([pairs(block, among, norm).kthvalue(k + 1, dim=1).values for block in blocks])


def by_topk(norm: Norm) -> Candidates:
    """Return the search for candidates that measures all pairs in the frame's dtype."""

    def nearest(own: Tensor, frame: Frame, count: int) -> tuple[Tensor, Tensor]:
        if norm == "linf":
            value, column = pairs(own, frame.relative, norm).topk(count, dim=1, largest=False)
            return value, column
        value, column = _products(own, frame).topk(count, dim=1, largest=False)
        return value + torch.linalg.vecdot(own, own)[:, None], column

    return nearest


def _products(own: Tensor, frame: Frame) -> Float[Tensor, "rows columns"]:
    """Return squared distances minus each row's own squared norm."""
    with threads_for(own.numel() * len(frame.relative)):
        return torch.addmm(frame.square, own, frame.relative.T, alpha=-2)


def kth_among(
    queries: Float64[Tensor, "queries width"], points: Float64[Tensor, "points width"], k: int
) -> Float64[Tensor, " queries"]:
    """Return the Euclidean distance of each query to its k-th nearest of other points.

    Products of all points about their mean choose, direct differences decide, as in :class:`Search`; for few
    pairs, differences alone.
    """
    own = binary_scale(points)
    far = queries.abs().amax(dim=1) > _FAR * own
    if bool(far.any()) and not bool(far.all()):  # a scale of their own, lest the others' squares underflow
        result = queries.new_empty(len(queries))
        for part in (far, ~far):
            result[part] = kth_among(queries[part], points, k)
        return result
    scale = max(own, binary_scale(queries))
    if queries.numel() * len(points) <= _FEW:
        return kth_of_pairs(queries / scale, points / scale, k - 1, "l2") * scale
    low, high = points.amin(dim=0) / scale, points.amax(dim=0) / scale
    centre = points.mean(dim=0) / scale
    reach = float(torch.linalg.vector_norm(torch.maximum(high - centre, centre - low)))
    every, rows = (torch.arange(len(value), device=value.device) for value in (points, queries))

    def frame(dtype: torch.dtype) -> Frame:
        return frame_of(points, every, centre, scale, reach, dtype)

    result = queries.new_empty(len(queries))
    search = Search(points, k - 1, "l2", None, scale=scale, queries=queries)
    search._exactly(result, rows, rows, every, frame)
    return result * scale


class Search:
    """One search for the k-th distances of all points.

    The points of a group look for neighbours in the nearest groups that together hold more than k, and then
    in every other group that could hold a nearer one than they found.

    Parameters
    ----------
    points
        Points, shape (points, width), float64, on any device.
    k
        Rank of the neighbour.
    norm
        Norm of the distances, ``"l2"`` or ``"linf"``.
    candidates
        Function that finds the few points measured directly; None: products of all pairs (``l2``).
    scale
        Divisor of the points, so that squares neither under- nor overflow; None: their own.
    queries
        Points whose distances are wanted; None: the points themselves, each the nearest to itself.

    Attributes
    ----------
    in_doubt
        Number of rows that candidates could not decide, so that they were searched exactly.
    """

    def __init__(
        self,
        points: Float64[Tensor, "points width"],
        k: int,
        norm: Norm,
        candidates: Candidates | None,
        *,
        scale: float | None = None,
        queries: Float64[Tensor, "queries width"] | None = None,
    ) -> None:
        self.points, self.k, self.candidates = points, k, candidates
        self.queries = points if queries is None else queries
        self.norm: Norm = norm
        self.scale = binary_scale(points) if scale is None else scale
        self.in_doubt = 0

    def distances(self) -> Float64[Tensor, " points"]:
        """Return the k-th distance of every point."""
        found = self.groups = clusters(self.points, self.scale)
        k, result = self.k, self.points.new_empty(len(self.points))
        gaps, sizes = found.gaps().cpu(), found.size.cpu()
        if self.norm == "linf":
            gaps /= self.points.shape[1] ** 0.5  # balls are Euclidean
        for own, gap in enumerate(gaps):
            rows = found.member[own]
            order = gap.argsort(stable=True)
            enough = int((sizes[order].cumsum(0) <= k).sum()) + 1
            result[rows] = self._among(rows, own, order[:enough])
            if enough == len(order):
                continue
            rows = rows[result[rows] > float(gap[order[enough]])]
            if rows.numel():
                reach = int((gap[order] < float(result[rows].max())).sum())
                result[rows] = self._among(rows, own, order[:reach])
        return result * self.scale

    def _among(self, rows: Tensor, own: int, near: Tensor) -> Float64[Tensor, " rows"]:
        """Return the k-th distance over the scale of some points of a group, looking in some groups."""
        found = self.groups
        among = torch.cat([found.member[other] for other in near.tolist()])
        there = near.to(rows.device)
        away = torch.linalg.vector_norm(found.centre[there] - found.centre[own], dim=1) + found.radius[there]
        reach = float(away.max())

        def frame(dtype: torch.dtype) -> Frame:
            return frame_of(self.points, among, found.centre[own], self.scale, reach, dtype)

        result = self.points.new_empty(len(rows))  # filled in place: small pieces would leave holes in memory
        if self.candidates is None:
            self._exactly(result, torch.arange(len(rows), device=rows.device), rows, among, frame)
            return result
        doubtful = self._by_candidates(result, rows, among, frame(torch.float32))
        self.in_doubt += len(doubtful)
        if len(doubtful):
            self._exactly(result, doubtful, rows[doubtful], among, frame)
        return result

    def _by_candidates(
        self, result: Tensor, rows: Tensor, among: Tensor, frame: Frame
    ) -> Int64[Tensor, " doubtful"]:
        """Write the distances that candidates decide; return the positions of the other rows."""
        count = min(self.k + 1 + SPARE, len(among))
        doubtful = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        size = rows_at_once(self.points, max(len(among) if rows.is_cuda else count, self.points.shape[1]))
        size = max(_LEAST_ROWS, size)
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            result[block], doubtful[block] = self._few(rows[block], among, frame, count)
            if float(doubtful[block].double().mean()) > _HOPELESS:
                doubtful[start:] = True
                break
        return doubtful.nonzero()[:, 0]

    def _few(
        self, rows: Tensor, among: Tensor, frame: Frame, count: int
    ) -> tuple[Float64[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """Return the k-th distances of a block by its candidates, and which rows these do not decide."""
        assert self.candidates is not None
        own = frame.of(self.queries.index_select(0, rows))
        value, column = self.candidates(own, frame, count)
        margin = frame.margin(own, self.norm)
        limit = value[:, self.k, None]
        doubtful = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if count < len(among):  # one that is no candidate may be within rounding of the k-th
            doubtful = value[:, -1] <= (limit + margin)[:, 0]
        close = ((value - limit).abs() <= margin) & ~doubtful[:, None]
        row, place = torch.nonzero(close, as_tuple=True)
        if len(row) == 0:
            return self.points.new_zeros(len(rows)), doubtful
        nearer = (limit - value > margin).sum(dim=1)
        distance = direct(
            self.queries, rows[row], self.points, among[column[row, place]], self.scale, self.norm
        )
        off = (value[row, place] - frame.compared(distance, self.norm)).abs()
        if bool((off > margin[row, 0] / 2).any()):  # rounded more than float32 is: nothing here is known
            return self.points.new_zeros(len(rows)), torch.ones_like(doubtful)
        return _of_rank(distance, row, self.k - nearer, ~doubtful), doubtful

    def _exactly(
        self,
        result: Tensor,
        where: Tensor,
        rows: Tensor,
        among: Tensor,
        frame: Callable[[torch.dtype], Frame],
    ) -> None:
        """Write the distances of rows, looking at every pair.

        Products are in float32 where its rounding leaves few pairs in doubt, else in float64, else not used.
        """
        plain = rows.device.type == "cpu" and self.candidates is None
        left = [torch.float32, torch.float64] if plain else [torch.float64]
        if self.norm == "linf":
            left = []
        made: Frame | None = None
        size = max(_LEAST_ROWS, rows_at_once(self.points, len(among)))
        for start in range(0, len(rows), size):
            decided = None
            while decided is None and left:
                made = made or frame(left[0])
                decided = self._all(rows[start : start + size], among, made)
                if decided is None:  # too many in doubt: nor would the blocks that follow be better
                    left, made = left[1:], None
            if decided is None:
                rest, others = self.queries[rows[start:]] / self.scale, self.points[among] / self.scale
                if rows.device.type == "cpu":
                    result[where[start:]] = kth_by_tree(rest.numpy(), others.numpy(), self.k, self.norm)
                else:
                    result[where[start:]] = kth_of_pairs(rest, others, self.k, self.norm)
                break
            result[where[start : start + size]] = decided

    def _all(self, rows: Tensor, among: Tensor, frame: Frame) -> Float64[Tensor, " rows"] | None:
        """Return a block's k-th distances, or None where rounding leaves too many pairs in doubt."""
        own = frame.of(self.queries.index_select(0, rows))
        rough = _products(own, frame)
        margin = frame.margin(own, "l2")
        smallest = _smallest(rough, self.k + 1)  # the point itself is one of them
        limit = smallest.amax(dim=1, keepdim=True)
        if not bool(torch.isfinite(limit + margin).all()):
            return None  # a point so far away that products overflow
        row, column = torch.nonzero((rough - limit).abs_() <= margin, as_tuple=True)
        if len(row) > _MOST_IN_DOUBT * rough.numel() + len(rows) * 8:
            return None
        nearer = (limit - smallest > margin).sum(dim=1)  # the same subtraction: none is counted twice
        distance = direct(self.queries, rows[row], self.points, among[column], self.scale, "l2")
        return _of_rank(distance, row, self.k - nearer, torch.ones_like(nearer, dtype=torch.bool))


def _of_rank(
    distance: Float64[Tensor, " pairs"],
    row: Int64[Tensor, " pairs"],
    rank: Int64[Tensor, " rows"],
    known: Bool[Tensor, " rows"],
) -> Float64[Tensor, " rows"]:
    """Return for each row the distance of a rank (from 0) among its pairs; zero where it is not known."""
    order = distance.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    first = torch.bincount(row, minlength=len(rank)).cumsum(0).roll(1)
    first[0] = 0
    return distance[order[torch.where(known, first + rank, 0)]] * known


def _smallest(values: Float[Tensor, "rows columns"], count: int) -> Float[Tensor, "rows count"]:
    """Return each row's smallest values, in any order."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), count - 1, axis=1)[:, :count])
    return values.topk(count, dim=1, largest=False, sorted=False).values
