"""Upper bounds of robustness that hold for any network, from distances to images of other classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import Array, as_labels, as_points, rows_at_once
from lpc.computing.numerics import measurement
from lpc.computing.threads import threads_for


class Ceiling(NamedTuple):
    """Bound on the robustness of any network that classifies a point and its nearest stranger correctly.

    Attributes
    ----------
    stranger
        Index of the nearest point of another class, the first if there are several.
    distance
        Euclidean distance to that point.
    single
        Ceiling of the smallest relative perturbation of the point alone: ``distance`` over the point's norm.
    both
        Ceiling of the mean of the smallest relative perturbations of the two points.
    """

    stranger: Int64[Tensor, " points"]
    distance: Float64[Tensor, " points"]
    single: Float64[Tensor, " points"]
    both: Float64[Tensor, " points"]


@measurement
def boundary_ceiling(
    points: Float[Array, "points width"],
    label: Integer[Array, " points"],
    among: Float[Array, "others width"],
    among_label: Integer[Array, " others"],
) -> Ceiling:
    r"""Return an upper bound of each point's smallest perturbation that holds for any network.

    Parameters
    ----------
    points
        Inputs, flattened, shape (points, features).
    label
        Class of each point.
    among, among_label
        Inputs and classes among which the nearest point of another class is searched, such as the train set.

    Raises
    ------
    ValueError
        If the arrays are invalid, widths differ, a point has norm 0, or all of ``among`` have the same class
        as a point.

    Notes
    -----
    Let x and x' be d apart and of different classes, both classified correctly. On the way from x to x' the
    decision changes, at a share t say, so the smallest perturbations satisfy :math:`r(x) \le t d` and
    :math:`r(x') \le (1 - t) d`: that of the one is at most d, and the mean of both at most d / 2. Over the
    norms, :math:`\tfrac12\bigl(\tfrac{r(x)}{\lVert x\rVert} + \tfrac{r(x')}{\lVert x'\rVert}\bigr) \le
    \tfrac{d}{2\min(\lVert x\rVert, \lVert x'\rVert)}`.
    """
    inputs = as_points(points, name="points")
    others = as_points(among, name="among").to(inputs.device)
    if inputs.shape[1] != others.shape[1]:
        raise ValueError(f"points has width {inputs.shape[1]} and among has width {others.shape[1]}")
    own = as_labels(label, inputs)
    theirs = as_labels(among_label, others, name="among_label")
    norm, other_norm = _norms(inputs), torch.linalg.vector_norm(others, dim=1)
    if len(theirs.unique()) == 1 and bool((own == theirs[0]).any()):
        raise ValueError(f"among_label holds one class, {int(theirs[0])}, and so does label: no stranger")
    found = []
    with threads_for(inputs.numel() * len(others)):
        for rows, classes in zip(
            inputs.split(rows_at_once(len(others), inputs.device)),
            own.split(rows_at_once(len(others), inputs.device)),
            strict=True,
        ):
            every = torch.cdist(rows, others).masked_fill_(theirs == classes[:, None], torch.inf)
            found.append(every.argmin(dim=1))
    stranger = torch.cat(found)
    distance = torch.linalg.vector_norm(inputs - others[stranger], dim=1)
    smaller = torch.minimum(norm, other_norm[stranger])
    return Ceiling(stranger, distance, distance / norm, distance / (2 * smaller))


@measurement
def mean_ceiling(points: Float[Array, "points width"], label: Integer[Array, " points"]) -> float:
    r"""Return an upper bound of the mean over points of the smallest relative perturbation.

    Parameters
    ----------
    points
        Inputs, flattened, shape (points, features). Time grows with the cube of their number: about a second
        for 2,000.
    label
        Class of each point.

    Raises
    ------
    ValueError
        If the arrays are invalid, a point has norm 0, or one class has more than half of the points, so that
        not every member can have a partner of another class.

    Notes
    -----
    For any assignment :math:`\sigma` of the points among themselves, each to one of another class,
    :math:`\rho(x_i) + \rho(x_{\sigma(i)}) \le d_{i\sigma(i)} / \min(\lVert x_i\rVert, \lVert
    x_{\sigma(i)}\rVert)` (:func:`boundary_ceiling`), and every point stands once on either place: the mean of
    :math:`\rho` is at most half the mean of the right side. The result is that of the best assignment.

    Where all norms are equal and the K classes equally large, a random assignment already gives
    :math:`\tfrac12\sqrt{2K/(K-1)}` or less: 0.745 for ten classes, whatever the images are.
    """
    from scipy.optimize import linear_sum_assignment

    inputs = as_points(points, name="points")
    own = as_labels(label, inputs)
    norm = _norms(inputs)
    largest = int(own.unique(return_counts=True)[1].max())
    if 2 * largest > len(own):
        raise ValueError(f"a class has {largest} of {len(own)} points; expected at most half of them")
    with threads_for(inputs.numel() * len(inputs)):
        cost = torch.cdist(inputs, inputs)
    cost = cost / torch.minimum(norm[:, None], norm)
    cost = cost.masked_fill(own[:, None] == own, float(cost.max()) * len(own))
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return float(cost[rows, columns].mean()) / 2


def _norms(inputs: Float64[Tensor, "points width"]) -> Float64[Tensor, " points"]:
    norm = torch.linalg.vector_norm(inputs, dim=1)
    if bool((norm == 0).any()):
        raise ValueError(f"points has norm 0 at index {int(torch.nonzero(norm == 0)[0])}: no ratio to it")
    return norm
