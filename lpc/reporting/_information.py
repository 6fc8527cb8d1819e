"""The report's lines on entropy and information, all at unit rms and in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lpc.arrays import group, group_means
from lpc.computing.options import whole
from lpc.errors import Undefined
from lpc.evaluation.collapse import rescale_to_unit_rms
from lpc.evaluation.information import conditional_knn_entropy, knn_entropy
from lpc.evaluation.mutual_information import discrete_mutual_information
from lpc.evaluation.quantities import gaussian_quantities
from lpc.reporting.entries import Entry, Once, Sheet
from lpc.reporting.points import Points

VARIANCE = 0.01
"""Variance of the Gaussian noise at each node, for latents with unit rms."""
COMPARED = 2e9
"""Largest number of coordinates of pairs in the search behind I[Y; Z]: about two seconds."""


def neighbour(points: Points, k: int | None) -> int:
    """Return the neighbour's rank: 2 % of the smallest class with at least two points, and at least 2.

    Parameters
    ----------
    points
        Sample to measure.
    k
        Rank that was asked for; None: chosen by the rule.
    """
    if k is not None:
        return whole("k", k)
    sizes = [count for count in points.counts.values() if count > 1]
    return max(2, round(0.02 * min(sizes, default=100)))


def mixture_bias(latent: Tensor, label: Tensor, k: int, seed: int) -> float:
    r"""Return the error of the k-NN entropy for equally many points of a mixture matched to the latents.

    Parameters
    ----------
    latent, label
        Latents and labels to match: the mixture has a Gaussian about each class mean, all with the
        within-class covariance.
    k
        Rank of the neighbour.
    seed
        Seed of the drawn points, equally many per class as in the data.

    Raises
    ------
    Undefined
        If the covariance is singular: such a mixture has no entropy.

    Notes
    -----
    The estimate minus :math:`-\frac1N\sum_n \log p(z_n)` over the drawn points z, whose density p is known.
    """
    groups = group(label)
    points = latent.double()
    mean = group_means(points, groups)
    deviation = points - mean[groups.index]
    count, width = deviation.shape
    factor, info = torch.linalg.cholesky_ex(deviation.T @ deviation / count)
    diagonal = factor.diagonal()
    if count <= width or int(info) or float(diagonal.min()) < 1e-7 * float(diagonal.max()):
        raise Undefined("the covariance within classes is singular: such a mixture has no entropy")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, width, generator=generator, dtype=torch.float64)
    drawn = mean[groups.index] + noise @ factor.T
    share = (groups.count / count).log()
    whitened = [torch.linalg.solve_triangular(factor, part.T, upper=False).T for part in (drawn, mean)]
    squared = torch.cdist(whitened[0], whitened[1], compute_mode="donot_use_mm_for_euclid_dist").square()
    constant = 0.5 * width * math.log(2 * math.pi) + float(diagonal.log().sum())
    true = constant - float((share - 0.5 * squared).logsumexp(dim=1).mean())
    return knn_entropy(drawn, k=k) - true


def information(points: Points, *, sample: int, k: int | None, seed: int) -> list[Entry]:
    """Return the lines on entropy and information.

    Parameters
    ----------
    points
        Points to measure.
    sample, seed
        Largest number of points, because the cost grows with their square, and the seed of their draw and of
        the noise.
    k
        Rank of the neighbour; None: 2 % of the smallest class.
    """
    sheet = Sheet("Information", points.name)
    some = points.sample(sample, seed)
    few = some.sample(max(2, math.isqrt(int(COMPARED / some.latent.shape[1]))), seed)
    unit = Once(lambda: rescale_to_unit_rms(some.latent))
    k_of_few, k = neighbour(few, k), neighbour(some, k)
    of = f"{some.total:,} of {points.total:,} points, unit rms, k = {k}"
    share = torch.tensor(list(some.counts.values()), dtype=torch.float64) / some.total
    label_entropy = float(torch.special.entr(share).sum())
    sheet.add(
        "knn_entropy",
        "H[Z]",
        lambda: knn_entropy(unit(), k=k),
        unit="nats",
        how=f"Kozachenko-Leonenko; {of}",
        guide="shape only, because the scale is divided out; not comparable across widths",
        references={
            f"k = {2 * k}": lambda: knn_entropy(unit(), k=2 * k),
            "bias on a matched mixture": lambda: mixture_bias(unit(), some.label, k, seed),
        },
        flag=_too_large(k, some),
    )
    sheet.add(
        "conditional_knn_entropy",
        "H[Z | Y]",
        lambda: conditional_knn_entropy(unit(), some.label, k=k),
        unit="nats",
        how=f"within each class; {of}",
        guide="H[Z] minus the information about the label",
        references={f"k = {2 * k}": lambda: conditional_knn_entropy(unit(), some.label, k=2 * k)},
    )
    sheet.add(
        "label_information",
        "I[Y; Z]",
        lambda: discrete_mutual_information(few.latent, few.label, k=k_of_few),
        unit="nats",
        how=f"Ross 2014; {few.total:,} of {points.total:,} points, k = {k_of_few}; free of scale",
        guide="at most H[Y]; shuffled labels have none, so their value is the bias",
        references={
            "H[Y]": label_entropy,
            "ln K": math.log(len(some.counts)),
            "shuffled labels": lambda: discrete_mutual_information(
                few.latent, few.shuffled(seed), k=k_of_few
            ),
        },
        flag=_too_large(k_of_few, few),
    )
    noisy = Once(
        lambda: gaussian_quantities(
            unit(), some.label, variance=VARIANCE, draws=2, generator=torch.Generator().manual_seed(seed)
        )
    )
    for key, name, ceiling in (
        ("preserved_relevant_information", "I[Y; Z + noise]", {"H[Y]": label_entropy}),
        ("preserved_information", "I[X; Z + noise]", {"ln N": math.log(some.total)}),
    ):
        sheet.add(
            f"noisy_{key}",
            name,
            lambda key=key: getattr(noisy().quantities, key),
            unit="nats",
            how=f"{some.total:,} of {points.total:,} points, unit rms, noise of variance {VARIANCE:g}",
            guide="exact except for the draws of noise",
            references={
                **ceiling,
                "standard error": lambda key=key: getattr(noisy().standard_error, key),
            },
        )
    return sheet.entries


def _too_large(k: int, points: Points) -> str:
    smallest = min(points.counts.values())
    return f"k = {k} is not below the smallest class ({smallest} points)" if k >= smallest else ""
