"""Geometry of class means and separation of classes: Gram distance and pairwise variance."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from lpc.arrays import Array, as_labels, group
from lpc.computing.numerics import measurement
from lpc.errors import Undefined
from lpc.evaluation._classes.class_means import about_global_mean, check_several, check_spread
from lpc.evaluation._classes.framed import about_mean


@measurement
def gram_distance(latent: Float[Array, "points width"], label: Integer[Array, " points"]) -> float:
    r"""Return the distance between the Gram matrix of the centred class means and that of a simplex.

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,).

    Returns
    -------
    float
        Distance from 0, on a simplex, to 2; independent of the latents' scale and offset.

    Raises
    ------
    ValueError
        If the arrays are invalid, there are fewer than two classes, or class means coincide.

    Notes
    -----
    :math:`\bigl\lVert \frac{M M^\top}{\lVert M M^\top\rVert_F} - \frac1{\sqrt{K-1}}
    (I - \tfrac1K \mathbf 1 \mathbf 1^\top)\bigr\rVert_F` with one row of M per class, less the mean of all
    points.

    References
    ----------
    Zhu et al. 2021, A geometric analysis of neural collapse with unconstrained features, Eq. 8 (there of W).
    """
    framed = about_mean(latent)
    groups = group(as_labels(label, framed.points))
    check_several(groups.value)
    return _gram_distance_of(about_global_mean(framed.means(groups), groups.count))


def _gram_distance_of(mean: Float64[Tensor, "classes width"]) -> float:
    """Return :func:`gram_distance` of class means minus the mean of all points, in any scale.

    Raises
    ------
    Undefined
        If class means coincide.
    """
    gram, classes = mean @ mean.T, len(mean)
    size = torch.linalg.matrix_norm(gram)
    if float(size) == 0.0:
        raise Undefined("latent: all class means coincide; their Gram matrix has no direction")
    simplex = torch.eye(classes, dtype=gram.dtype, device=gram.device) - 1 / classes
    return float(torch.linalg.matrix_norm(gram / size - simplex / (classes - 1) ** 0.5))


@measurement
def class_distance_variance(latent: Float[Array, "points width"], label: Integer[Array, " points"]) -> float:
    r"""Return the class-distance normalised variance (CDNV), averaged over all pairs of classes.

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,).

    Returns
    -------
    float
        CDNV, at least 0, and 0 for collapsed classes; independent of the latents' scale and offset.

    Raises
    ------
    ValueError
        If the arrays are invalid, there are fewer than two classes, every class has a single point, or two
        class means coincide.

    Notes
    -----
    :math:`\frac{2}{K(K-1)}\sum_{i<j} \frac{V_i + V_j}{2\lVert\mu_i - \mu_j\rVert^2}` with
    :math:`V_c = \frac1{n_c}\sum_{i: y_i = c}\lVert z_i - \mu_c\rVert^2`.

    References
    ----------
    Galanti, György and Hutter 2022, On the role of neural collapse in transfer learning, Section 2.
    """
    framed = about_mean(latent)
    groups = group(as_labels(label, framed.points))
    check_several(groups.value)
    check_spread(groups.value, groups.count)
    mean = framed.means(groups)
    variance = framed.variances(mean, groups)
    return _class_distance_variance_of(mean, variance, groups.value)


def _class_distance_variance_of(
    mean: Float64[Tensor, "classes width"],
    variance: Float64[Tensor, " classes"],
    value: Int64[Tensor, " classes"],
) -> float:
    """Return :func:`class_distance_variance` from class means and variances; ``value`` has the labels.

    Raises
    ------
    ValueError
        If two class means coincide.
    """
    first, second = torch.triu_indices(len(mean), len(mean), offset=1, device=mean.device)
    apart = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist")[first, second].square()
    if bool((apart == 0).any()):
        where = int((apart == 0).nonzero()[0])
        both = [int(value[index[where]]) for index in (first, second)]
        raise Undefined(f"latent: the means of classes {both} coincide")
    return float(((variance[first] + variance[second]) / (2 * apart)).mean())
