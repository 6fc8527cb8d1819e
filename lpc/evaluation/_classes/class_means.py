"""Ingredients of neural collapse: class means about the global mean, and the last layer."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from lpc.arrays import EPSILON, Array, as_float64, rows_at_once
from lpc.errors import Undefined


def check_several(value: Int64[Tensor, " classes"]) -> None:
    """Raise ValueError unless there are at least two classes.

    Parameters
    ----------
    value
        Labels that occur.
    """
    if len(value) < 2:
        raise Undefined(f"label holds one class, {value.tolist()}; expected 2 or more")


def check_spread(
    value: Int64[Tensor, " classes"], count: Int64[Tensor, " classes"], *, classes: int | None = None
) -> None:
    """Raise Undefined if no class has two points: their spread is then 0, collapsed or not.

    Parameters
    ----------
    value
        Labels that occur.
    count
        Number of points with each of them.
    classes
        Number of classes, so that labels go from 0 to ``classes - 1``; None: only the labels that occur
        count.

    Warns
    -----
    UserWarning
        If some classes have one point, which adds nothing to the spread, or no point at all.
    """
    single = value[count == 1].tolist()
    if len(single) == len(value):
        raise Undefined(
            f"label: each of the {len(single)} classes has one point, which has no spread; expected 2 or "
            "more points in some class"
        )
    absent = sorted(set(range(classes or 0)) - set(value.tolist()))
    for which, number in ((single, "one point"), (absent, "no point")):
        if which:
            named = f"{which[:10]}{f' and {len(which) - 10} more' if len(which) > 10 else ''}"
            warnings.warn(f"classes {named} have {number}: their spread is unknown", stacklevel=4)


def about_global_mean(
    mean: Float64[Tensor, "classes width"], count: Int64[Tensor, " classes"]
) -> Float64[Tensor, "classes width"]:
    """Return the class means minus the mean of all points, subtracted twice because of rounding.

    Parameters
    ----------
    mean
        Class means, shape (classes, width).
    count
        Number of points of each class.
    """
    share = count.to(torch.float64) / count.sum()
    mean = mean - share @ mean
    return mean - share @ mean


def whitening(mean: Float64[Tensor, "classes width"]) -> Float64[Tensor, "width rank"]:
    r"""Return A with A A^T = Sb^+, so that tr(S Sb^+) = tr(A^T S A) without forming either matrix.

    The rank counts the singular values above the cut-off.

    Parameters
    ----------
    mean
        Centred class means, shape (classes, width).
    """
    classes, width = mean.shape
    _, singular, right = torch.linalg.svd(mean / classes**0.5, full_matrices=False)
    kept = singular.square() > max(classes, width) * EPSILON * singular[0].square()
    return (right[kept] / singular[kept, None]).T


def collapse_of_means(
    mean: Float64[Tensor, "classes width"],
    value: Int64[Tensor, " classes"],
    *,
    rounding: float,
    whitened: float,
    within: float,
) -> dict[str, float]:
    r"""Return NC1 and NC2 by their names, from the centred class means.

    Parameters
    ----------
    mean
        Class means minus the mean of all points, shape (classes, width).
    value
        Labels of the classes.
    rounding
        Distance from the global mean below which the direction of a class mean is rounding error.
    whitened, within
        tr(Sw Sb^+) and tr Sw, in the units of ``mean``.
    """
    classes, width = mean.shape
    norm = torch.linalg.vector_norm(mean, dim=1)
    if bool((norm <= rounding).any()):
        which = value[norm <= rounding].tolist()
        raise Undefined(
            f"latent: the means of classes {which} lie at the global mean: their angles are undefined"
        )
    direction = mean / norm[:, None]
    first, second = torch.triu_indices(classes, classes, offset=1, device=mean.device)
    cosine = (direction @ direction.T)[first, second]
    nc1 = whitened / classes
    return dict(
        nc1=nc1,
        nc1_per_node=nc1 / width,
        nc1_per_rank=nc1 / min(width, classes - 1),
        trace_ratio=within / float(norm.square().mean()),
        equinorm=float(norm.std(correction=0) / norm.mean()),
        equiangularity=float(cosine.std(correction=0)),
        max_angle=float((cosine + 1.0 / (classes - 1)).abs().mean()),
    )


class LastLayer(NamedTuple):
    """Weights and bias of the last layer, in float64; row k belongs to label k.

    Attributes
    ----------
    weight
        Weights, shape (classes, width).
    bias
        Biases, shape (classes,).
    """

    weight: Float64[Tensor, "outputs width"]
    bias: Float64[Tensor, " outputs"]

    def decisions(self, points: Float[Tensor, "points width"]) -> Int64[Tensor, " points"]:
        """Return the predicted label of each point."""
        blocks = points.split(rows_at_once(len(self.weight), points.device))
        return torch.cat([(block.double() @ self.weight.T + self.bias).argmax(dim=1) for block in blocks])


def as_classifier(
    weight: Array | None, bias: Array | None, value: Int64[Tensor, " classes"], points: Tensor
) -> LastLayer | None:
    """Return the classifier on the points' device, checked against their width and labels, or None.

    Parameters
    ----------
    weight
        Weights of the last layer, or None.
    bias
        Biases of the last layer; None: zero.
    value
        Labels that occur.
    points
        Latents, shape (points, width).
    """
    if weight is None:
        if bias is not None:
            raise ValueError("classifier_bias is given without classifier_weight")
        return None
    matrix = as_float64(weight, name="classifier_weight", dims=2).to(points.device)
    if matrix.shape[1] != points.shape[1]:
        raise ValueError(f"classifier_weight has width {matrix.shape[1]}; latent has width {points.shape[1]}")
    outputs = matrix.shape[0]
    lowest, highest = int(value[0]), int(value[-1])
    if lowest < 0 or highest >= outputs:
        raise ValueError(f"labels go from {lowest} to {highest}; the classifier has rows 0 to {outputs - 1}")
    if bias is None:
        return LastLayer(matrix, matrix.new_zeros(outputs))
    vector = as_float64(bias, name="classifier_bias", dims=1).to(points.device)
    if vector.shape[0] != outputs:
        raise ValueError(f"classifier_bias has {vector.shape[0]} entries; the classifier has {outputs} rows")
    return LastLayer(matrix, vector)


def duality(matrix: Float64[Tensor, "classes width"], mean: Float64[Tensor, "classes width"]) -> float:
    """Return NC3 of the classifier's rows and the centred class means.

    Parameters
    ----------
    matrix
        Weights of the classifier, shape (classes, width).
    mean
        Centred class means, shape (classes, width).
    """
    size = torch.linalg.matrix_norm(matrix)
    if float(size) == 0.0:
        raise Undefined("classifier_weight is zero for every class: its direction is undefined")
    return float((matrix / size - mean / torch.linalg.matrix_norm(mean)).square().sum())
