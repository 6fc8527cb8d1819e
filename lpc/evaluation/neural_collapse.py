"""The four measures of neural collapse: NC1 to NC4."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.arrays import (
    EPSILON,
    Array,
    Convention,
    Groups,
    as_float64,
    as_labels,
    as_points,
    binary_scale,
    centre,
    check_convention,
    group,
    group_means,
    within_weights,
)


class NeuralCollapse(NamedTuple):
    """Measures of neural collapse; 0 is full collapse everywhere.

    Attributes
    ----------
    nc1
        tr(Sw Sb^+) / classes.
    nc1_per_node
        ``nc1`` / width, the paper's Figure 3. It flatters wide layers, whose Sb has rank at most K - 1.
    nc1_per_rank
        ``nc1`` / min(width, classes - 1).
    trace_ratio
        tr Sw / tr Sb.
    equinorm
        sd over mean, over classes, of the distance of a class mean from the global mean.
    equiangularity
        sd, over pairs i < j, of the cosine between centred class means.
    max_angle
        Mean, over pairs i < j, of abs(cosine + 1 / (classes - 1)).
    nc3
        Squared distance between the classifier's weights and the centred class means, each divided by its
        Frobenius norm; between 0 and 4. None where no classifier is given.
    nc4
        Share of points whose classifier decision is not the nearest class mean. None likewise.
    """

    nc1: float
    nc1_per_node: float
    nc1_per_rank: float
    trace_ratio: float
    equinorm: float
    equiangularity: float
    max_angle: float
    nc3: float | None
    nc4: float | None


def neural_collapse(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    convention: Convention = "paper",
    classifier_weight: Float[Array, "outputs width"] | None = None,
    classifier_bias: Float[Array, " outputs"] | None = None,
) -> NeuralCollapse:
    r"""Return NC1, NC2 and, where a classifier is given, NC3 and NC4.

    Parameters
    ----------
    latent
        Penultimate representations, float32 or float64.
    label
        Class of each point. The release passes predicted labels here.
    convention
        How Sw is averaged. ``"paper"``: sum over points / number of points. ``"released"``: unbiased
        covariance of each class, averaged over classes unweighted. All else is the same in both.
    classifier_weight, classifier_bias
        Of the last layer; row k belongs to label k. No bias means zero.

    Raises
    ------
    ValueError
        Invalid arrays, fewer than two classes, a class mean at the global mean (its angle is undefined),
        a bias without weights, labels outside the classifier's rows, an all-zero classifier, or under
        ``"released"`` a class with one point.

    Notes
    -----
    Everything is invariant to the scale and the offset of the latents, except ``nc4``: latents are centred
    and rescaled first.

    :math:`\Sigma_B = \frac1K\sum_c (\mu_c-\mu_G)(\mu_c-\mu_G)^\top` (Eq. 29), unweighted; :math:`\mu_G` is
    the mean of all points in both conventions (the mean of the class means for balanced classes).
    :math:`\Sigma_B^+` takes as zero the eigenvalues at or below max(K, P) * 2.2e-16 times the largest; they
    come from a singular value decomposition of the class means, not of
    :math:`\Sigma_B`. Standard deviations are population ones.

    NC3 is :math:`\lVert W^\top/\lVert W\rVert_F - \dot M/\lVert\dot M\rVert_F\rVert_F^2`, squared as in
    Papyan et al. 2020. Classes that no point has are left out of the means and, in NC3, of W's rows; in
    NC4 the classifier still decides among all its outputs.

    References
    ----------
    LPC 2024, Appendix E, Eqs. 28-29 and Figure 3; Papyan, Han and Donoho 2020, PNAS 117 (40).
    """
    check_convention(convention)
    points = as_points(latent)
    width = points.shape[1]
    groups = group(as_labels(label, points))
    classes = len(groups.value)
    if classes < 2:
        raise ValueError(f"label holds one class, {groups.value.tolist()}; expected 2 or more")

    centred = centre(points)
    scale = binary_scale(centred)
    centred = centred / scale
    mean = group_means(centred, groups)
    norm = torch.linalg.vector_norm(mean, dim=1)
    rounding = 8 * EPSILON * float(points.abs().max()) / scale
    if bool((norm <= rounding).any()):
        which = groups.value[norm <= rounding].tolist()
        raise ValueError(f"the means of classes {which} lie at the global mean: their angles are undefined")

    weight = within_weights(groups, convention)
    deviation = centred - mean[groups.index]
    nc1 = _whitened_trace(deviation, weight, mean) / classes
    within = float((weight * deviation.square().sum(dim=1)).sum())
    between = float(norm.square().mean())

    first, second = torch.triu_indices(classes, classes, offset=1, device=mean.device)
    direction = mean / norm[:, None]
    cosine = (direction[first] * direction[second]).sum(dim=1)

    nc3, nc4 = None, None
    if classifier_weight is not None:
        matrix, bias = _classifier(classifier_weight, classifier_bias, points, groups)
        nc3 = _duality(matrix[groups.value], mean)
        nc4 = _disagreement(points, centred, mean, groups, matrix, bias)
    elif classifier_bias is not None:
        raise ValueError("classifier_bias is given without classifier_weight")

    return NeuralCollapse(
        nc1=nc1,
        nc1_per_node=nc1 / width,
        nc1_per_rank=nc1 / min(width, classes - 1),
        trace_ratio=within / between,
        equinorm=float(norm.std(correction=0) / norm.mean()),
        equiangularity=float(cosine.std(correction=0)),
        max_angle=float((cosine + 1.0 / (classes - 1)).abs().mean()),
        nc3=nc3,
        nc4=nc4,
    )


def _whitened_trace(
    deviation: Float64[Tensor, "points width"],
    weight: Float64[Tensor, " points"],
    mean: Float64[Tensor, "classes width"],
) -> float:
    """Return tr(Sw Sb^+) without forming either matrix."""
    classes, width = mean.shape
    _, singular, right = torch.linalg.svd(mean / classes**0.5, full_matrices=False)
    kept = singular.square() > max(classes, width) * EPSILON * singular[0].square()
    whitened = deviation @ (right[kept] / singular[kept, None]).T
    return float((weight * whitened.square().sum(dim=1)).sum())


def _classifier(
    weight: Array, bias: Array | None, points: Tensor, groups: Groups
) -> tuple[Float64[Tensor, "outputs width"], Float64[Tensor, " outputs"]]:
    matrix = as_float64(weight, name="classifier_weight", dims=2).to(points.device)
    if matrix.shape[1] != points.shape[1]:
        raise ValueError(f"classifier_weight has width {matrix.shape[1]}; latent has width {points.shape[1]}")
    outputs = matrix.shape[0]
    lowest, highest = int(groups.value[0]), int(groups.value[-1])
    if lowest < 0 or highest >= outputs:
        raise ValueError(f"labels go from {lowest} to {highest}; the classifier has rows 0 to {outputs - 1}")
    if bias is None:
        return matrix, torch.zeros(outputs, dtype=torch.float64, device=points.device)
    vector = as_float64(bias, name="classifier_bias", dims=1).to(points.device)
    if vector.shape[0] != outputs:
        raise ValueError(f"classifier_bias has {vector.shape[0]} entries; the classifier has {outputs} rows")
    return matrix, vector


def _duality(matrix: Float64[Tensor, "classes width"], mean: Float64[Tensor, "classes width"]) -> float:
    size = torch.linalg.matrix_norm(matrix)
    if float(size) == 0.0:
        raise ValueError("classifier_weight is zero for every class: its direction is undefined")
    return float((matrix / size - mean / torch.linalg.matrix_norm(mean)).square().sum())


def _disagreement(
    points: Float64[Tensor, "points width"],
    centred: Float64[Tensor, "points width"],
    mean: Float64[Tensor, "classes width"],
    groups: Groups,
    matrix: Float64[Tensor, "outputs width"],
    bias: Float64[Tensor, " outputs"],
) -> float:
    decision = (points @ matrix.T + bias).argmax(dim=1)
    distance = torch.cdist(centred, mean, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = groups.value[distance.argmin(dim=1)]
    return float((decision != nearest).to(torch.float64).mean())
