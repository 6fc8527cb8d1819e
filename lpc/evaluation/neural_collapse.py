"""The four measures of neural collapse, NC1 to NC4, and what they are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import (
    BLOCK,
    EPSILON,
    Array,
    Convention,
    as_float64,
    as_labels,
    as_points,
    binary_scale,
    check_convention,
    group,
    group_means,
    within_weights,
)
from lpc.numerics import measurement
from lpc.threads import threads_for


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


@measurement
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
    groups = group(as_labels(label, points))
    check_several(groups.value)
    classifier = as_classifier(classifier_weight, classifier_bias, groups.value, points)
    lowest, highest, middle = points.amin(dim=0), points.amax(dim=0), points.mean(dim=0)
    scale = binary_scale(torch.stack((lowest - middle, highest - middle)))
    rounding = 8 * EPSILON * float(torch.maximum(-lowest, highest).max()) / scale
    centred = (points - middle).div_(scale)
    mean = group_means(centred, groups)
    about = about_global_mean(mean, groups.count)

    axes = whitening(about)
    weight = within_weights(groups, convention)
    whitened, within = 0.0, 0.0
    for part, index, share in zip(*(v.split(BLOCK) for v in (centred, groups.index, weight)), strict=True):
        deviation = part - mean[index]
        whitened += float(share @ (deviation @ axes).square().sum(dim=1))
        within += float(share @ deviation.square().sum(dim=1))

    result = collapse_of_means(about, groups.value, rounding=rounding, whitened=whitened, within=within)
    if classifier is None:
        return result
    nearest = groups.value[nearest_row(centred, mean)]
    nc4 = float((classifier.decisions(points) != nearest).to(torch.float64).mean())
    return result._replace(nc3=duality(classifier.weight[groups.value], about), nc4=nc4)


def check_several(value: Int64[Tensor, " classes"]) -> None:
    """Raise ValueError unless there are two classes or more.

    Parameters
    ----------
    value
        The labels that occur.
    """
    if len(value) < 2:
        raise ValueError(f"label holds one class, {value.tolist()}; expected 2 or more")


@measurement
def about_global_mean(
    mean: Float64[Tensor, "classes width"], count: Int64[Tensor, " classes"]
) -> Float64[Tensor, "classes width"]:
    """Return the class means minus the mean of all points, taken twice as rounding leaves some.

    Parameters
    ----------
    mean
        Class means.
    count
        Points of each class.
    """
    share = count.to(torch.float64) / count.sum()
    mean = mean - share @ mean
    return mean - share @ mean


@measurement
def whitening(mean: Float64[Tensor, "classes width"]) -> Float64[Tensor, "width rank"]:
    r"""Return A with A A^T = Sb^+, so that tr(S Sb^+) = tr(A^T S A) without forming either matrix.

    The rank is what stands above the cut-off.

    Parameters
    ----------
    mean
        Centred class means.
    """
    classes, width = mean.shape
    _, singular, right = torch.linalg.svd(mean / classes**0.5, full_matrices=False)
    kept = singular.square() > max(classes, width) * EPSILON * singular[0].square()
    return (right[kept] / singular[kept, None]).T


@measurement
def collapse_of_means(
    mean: Float64[Tensor, "classes width"],
    value: Int64[Tensor, " classes"],
    *,
    rounding: float,
    whitened: float,
    within: float,
) -> NeuralCollapse:
    r"""Return NC1 and NC2 from the centred class means.

    Parameters
    ----------
    mean, value
        Class means minus the mean of all points, and the classes' labels.
    rounding
        How far a class mean must lie from the global mean for its direction to mean anything.
    whitened, within
        tr(Sw Sb^+) and tr Sw, in the units of ``mean``.
    """
    classes, width = mean.shape
    norm = torch.linalg.vector_norm(mean, dim=1)
    if bool((norm <= rounding).any()):
        which = value[norm <= rounding].tolist()
        raise ValueError(f"the means of classes {which} lie at the global mean: their angles are undefined")
    direction = mean / norm[:, None]
    first, second = torch.triu_indices(classes, classes, offset=1, device=mean.device)
    cosine = (direction @ direction.T)[first, second]
    nc1 = whitened / classes
    return NeuralCollapse(
        nc1=nc1,
        nc1_per_node=nc1 / width,
        nc1_per_rank=nc1 / min(width, classes - 1),
        trace_ratio=within / float(norm.square().mean()),
        equinorm=float(norm.std(correction=0) / norm.mean()),
        equiangularity=float(cosine.std(correction=0)),
        max_angle=float((cosine + 1.0 / (classes - 1)).abs().mean()),
        nc3=None,
        nc4=None,
    )


class LastLayer(NamedTuple):
    """Weights and bias of the last layer, in float64; row k belongs to label k.

    Attributes
    ----------
    weight
        One row a class.
    bias
        One entry a class.
    """

    weight: Float64[Tensor, "outputs width"]
    bias: Float64[Tensor, " outputs"]

    @measurement
    def decisions(self, points: Float64[Tensor, "points width"]) -> Int64[Tensor, " points"]:
        """Return the label that each point is given."""
        return (points @ self.weight.T + self.bias).argmax(dim=1)


@measurement
def as_classifier(
    weight: Array | None, bias: Array | None, value: Int64[Tensor, " classes"], points: Tensor
) -> LastLayer | None:
    """Return the classifier on the points' device, checked against their width and labels; None for none.

    Parameters
    ----------
    weight, bias
        Of the last layer; no bias means zero.
    value
        The labels that occur.
    points
        The latents.
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


@measurement
def duality(matrix: Float64[Tensor, "classes width"], mean: Float64[Tensor, "classes width"]) -> float:
    """Return NC3 of the classifier's rows and the centred class means.

    Parameters
    ----------
    matrix
        The classifier's weights, a row a class.
    mean
        Centred class means.
    """
    size = torch.linalg.matrix_norm(matrix)
    if float(size) == 0.0:
        raise ValueError("classifier_weight is zero for every class: its direction is undefined")
    return float((matrix / size - mean / torch.linalg.matrix_norm(mean)).square().sum())


@measurement
def nearest_row(
    points: Float64[Tensor, "points width"], mean: Float64[Tensor, "classes width"]
) -> Int64[Tensor, " points"]:
    """Return which row of ``mean`` is nearest to each point, by direct differences; ties go to the first.

    Parameters
    ----------
    points
        Latents.
    mean
        Class means.
    """
    with threads_for(points.numel() * len(mean)):
        return torch.cdist(points, mean, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
