"""The four measures of neural collapse, NC1 to NC4."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer

from lpc.arrays import (
    EPSILON,
    Array,
    Convention,
    as_labels,
    check_convention,
    group,
    within_weights,
)
from lpc.computing.numerics import measurement
from lpc.evaluation._classes.class_means import (
    about_global_mean,
    as_classifier,
    check_several,
    check_spread,
    collapse_of_means,
    duality,
    whitening,
)
from lpc.evaluation._classes.framed import about_mean
from lpc.evaluation._classes.nearest import nearest_row


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
        Population sd over mean, taken over classes, of the distance of a class mean from the global mean.
    equiangularity
        Population sd, over pairs i < j, of the cosine between centred class means.
    max_angle
        Mean, over pairs i < j, of abs(cosine + 1 / (classes - 1)).
    nc3
        Squared distance, between 0 and 4, between the classifier's weights and the centred class means, each
        divided by its Frobenius norm; None: no classifier was given.
    nc4
        Share of points for which the classifier's decision is not the nearest class mean; None: no classifier
        was given.
    """

    nc1: float
    nc1_per_node: float
    nc1_per_rank: float
    trace_ratio: float
    equinorm: float
    equiangularity: float
    max_angle: float
    nc3: float | None = None
    nc4: float | None = None


@measurement
def neural_collapse(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    convention: Convention = "paper",
    classifier_weight: Float[Array, "outputs width"] | None = None,
    classifier_bias: Float[Array, " outputs"] | None = None,
) -> NeuralCollapse:
    r"""Return NC1, NC2 and, with a classifier, NC3 and NC4.

    Parameters
    ----------
    latent
        Penultimate representations, shape (points, width), float32 or float64.
    label
        Class of each point, shape (points,). The release passes predicted labels here.
    convention
        Average that defines Sw. ``"paper"``: sum over points / number of points. ``"released"``: unbiased
        covariance of each class, averaged over classes without weights. All else is the same in both.
    classifier_weight
        Weights of the last layer, shape (classes, width); row k belongs to label k. None: no NC3 and NC4.
    classifier_bias
        Biases of the last layer; None: zero.

    Raises
    ------
    ValueError
        If the arrays are invalid, there are fewer than two classes, every class has a single point (a spread
        of 0 would suggest perfect collapse), a class mean equals the global mean (its angle is undefined), a
        bias comes without weights, labels are outside the classifier's rows, the classifier is all zero, or
        under ``"released"`` a class has a single point.

    Warns
    -----
    UserWarning
        If some classes have a single point, or some of the classifier's classes have none.

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
    Papyan et al. 2020. Classes without points are left out of the means and, in NC3, of W's rows; in
    NC4 the classifier still decides among all its outputs.

    References
    ----------
    LPC 2024, Appendix E, Eqs. 28-29 and Figure 3; Papyan, Han and Donoho 2020, PNAS 117 (40).
    """
    check_convention(convention)
    framed = about_mean(latent)
    groups = group(as_labels(label, framed.points))
    check_several(groups.value)
    classifier = as_classifier(classifier_weight, classifier_bias, groups.value, framed.points)
    check_spread(groups.value, groups.count, classes=None if classifier is None else len(classifier.weight))
    rounding = 8 * EPSILON * framed.largest / framed.scale
    mean = framed.means(groups)
    about = about_global_mean(mean, groups.count)

    axes = whitening(about)
    weight = within_weights(groups, convention)
    whitened, within = mean.new_zeros(2)
    for deviation, (_, share) in framed.deviations(mean, groups.index, weight):
        along = deviation @ axes
        whitened += share @ torch.linalg.vecdot(along, along)
        within += share @ torch.linalg.vecdot(deviation, deviation)

    of_means = collapse_of_means(
        about, groups.value, rounding=rounding, whitened=float(whitened), within=float(within)
    )
    result = NeuralCollapse(**of_means)
    if classifier is None:
        return result
    nearest = groups.value[torch.cat([nearest_row(block, mean) for block, _ in framed.blocks()])]
    nc4 = float((classifier.decisions(framed.points) != nearest).to(torch.float64).mean())
    return result._replace(nc3=duality(classifier.weight[groups.value], about), nc4=nc4)
