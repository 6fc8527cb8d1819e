"""Scale and shape: how much of an entropy is scale, and which size of latents gamma allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from scipy.optimize import brentq

from experiments.reporting import paper
from experiments.studies.schedules import PAPER_TRAIN
from lpc.errors import unknown_name
from lpc.evaluation.quantities import ZERO_ENTROPY_VARIANCE
from lpc.specs import VARIANTS, WIDTHS

EXTINCTION = 1 / (2 * ZERO_ENTROPY_VARIANCE)
r"""Smallest gamma, in Eq. 3's convention, at which a noisy latent is best at zero: :math:`\pi e`.

With Gaussian noise of variance :math:`s^2` at every node, :math:`I[Y;Z] \le E\lVert\mu\rVert^2/2s^2`, so
cross-entropy plus penalty is at least :math:`H[Y] + (\gamma - 1/2s^2)\,E\lVert\mu\rVert^2`.
"""
CLASSES: Mapping[str, int] = {"SVHN": 10, "CIFAR10": 10, "CIFAR100": 100}
BASELINES: Mapping[str, str] = {"intermediate": "LinPen", "wide": "NoPen"}
"""Baselines for entropies, by group of equal width: architectures without the penalty."""
_PARTS = {"scale": ("#E69F00", "////"), "shape": ("#0072B2", "")}
"""Colour and hatching of each part."""


def group_of(architecture: str) -> str | None:
    """Return an architecture's group of equal width, a key of :data:`BASELINES`; None if it is in none.

    Without a penultimate layer the latent is the backbone's features, which are as wide as the wide layer.
    """
    if architecture not in VARIANTS:
        raise unknown_name("architecture", architecture, VARIANTS)
    width = {"none": "wide"}.get(str(VARIANTS[architecture].width), str(VARIANTS[architecture].width))
    return width if width in BASELINES else None


def entropy_parts(selected: pd.DataFrame) -> pd.DataFrame:
    """Split the differences between k-NN entropies of equally wide latents into scale and shape.

    Parameters
    ----------
    selected
        Table with one row per architecture and seed, with ``knn_entropy`` and ``knn_entropy_unit_rms``.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``seed``, ``group`` (a key of :data:`BASELINES`), and differences from the
        baseline of the same seed, in nats: ``scale`` (width times the logarithm of the rms), ``shape`` (the
        entropy at unit rms), ``total``. There is no row if an architecture has no baseline, or the baseline
        lacks the seed.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    for name in ("architecture", "seed", "knn_entropy", "knn_entropy_unit_rms"):
        if name not in selected:
            raise unknown_name("column", name, selected.columns)
    shape = pd.to_numeric(selected["knn_entropy_unit_rms"])
    parts = selected[["architecture", "seed"]].assign(
        group=[group_of(str(name)) for name in selected["architecture"]],
        scale=pd.to_numeric(selected["knn_entropy"]) - shape,
        shape=shape,
    )
    base = parts[
        [BASELINES.get(str(g)) == a for g, a in zip(parts["group"], parts["architecture"], strict=True)]
    ]
    joined = parts.merge(base, on=["group", "seed"], suffixes=("", "_base"))
    joined = joined[joined["architecture"] != joined["architecture_base"]]
    for name in ("scale", "shape"):
        joined[name] -= joined[f"{name}_base"]
    joined["total"] = joined["scale"] + joined["shape"]
    return joined[["architecture", "seed", "group", "scale", "shape", "total"]].reset_index(drop=True)


class Drop(NamedTuple):
    """Difference between the entropies of IB and LinPen, with a bound on its scale part, in nats.

    Attributes
    ----------
    total
        Entropy of IB minus that of LinPen.
    scale_at_most
        Upper bound on the scale part; if both are negative, at least this much of the drop is scale.
    """

    total: float
    scale_at_most: float

    @property
    def share(self) -> float:
        """Smallest share of the drop that must be scale: 0 if nothing follows, NaN if there is no drop."""
        return max(0.0, self.scale_at_most / self.total) if self.total < 0 else math.nan


def drop_bound(penalised: float, baseline: float, *, gamma: float, width: int, classes: int) -> Drop:
    r"""Bound the scale part of the difference between two entropies, from the entropies alone.

    Parameters
    ----------
    penalised, baseline
        Entropies in nats of latents with and without the penalty.
    gamma
        Weight gamma at the end of training, in Eq. 3's convention.
    width, classes
        Numbers of nodes P and of classes K.

    Notes
    -----
    A latent of rms :math:`\rho` has :math:`H \le \frac P2\ln 2\pi e\rho^2`, which bounds the baseline's
    :math:`\rho` from below. If a network's loss, Eq. 3, is at most :math:`\ln K`, its value for latents at
    zero, then :math:`\gamma P\rho^2 \le \ln K`, which bounds the penalised :math:`\rho` from above.
    """
    largest = math.sqrt(math.log(classes) / (gamma * width))
    return Drop(
        penalised - baseline,
        width * math.log(largest) - baseline + width / 2 * math.log(1 / ZERO_ENTROPY_VARIANCE),
    )


def printed_drop(dataset: str, *, released: bool = False) -> Drop:
    """Return :func:`drop_bound` of IB and LinPen in the LPC paper's Table 1.

    Parameters
    ----------
    dataset
        Name of the data set, a key of :data:`CLASSES`.
    released
        Whether gamma was divided by the width, as in the released code.
    """
    if dataset not in CLASSES:
        raise unknown_name("data set of Table 1", dataset, CLASSES)
    width = WIDTHS[dataset.lower()]["intermediate"]
    assert width is not None
    gamma = PAPER_TRAIN[dataset].gamma_maximum / (width if released else 1)
    of = {name: paper.value(dataset, name, "knn_entropy")[0] for name in ("IB", "LinPen")}
    return drop_bound(of["IB"], of["LinPen"], gamma=gamma, width=width, classes=CLASSES[dataset])


def largest_radius(gamma: float, *, classes: int) -> float:
    r"""Return the largest norm at which free latents can be at equilibrium, whatever the classifier's D is.

    Notes
    -----
    By :func:`lpc.equilibrium.radius` :math:`\gamma\Delta^2 = \frac{K-1}2\,\frac g{e^g + K - 1}`, which is
    largest where :math:`e^g(g - 1) = K - 1`.
    """
    if gamma <= 0 or classes < 2:
        raise ValueError(f"gamma={gamma}, classes={classes}; expected gamma above 0 and 2 or more classes")
    gap = brentq(lambda g: math.exp(g) * (g - 1) - (classes - 1), 1, 2 + math.log(classes))
    return math.sqrt((classes - 1) / 2 * gap / (math.exp(gap) + classes - 1) / gamma)


def noisy_simplex(
    radii: Sequence[float], *, classes: int, draws: int = 20_000, generator: torch.Generator
) -> pd.DataFrame:
    r"""Return the information about the label that survives zero-entropy noise on the points of a simplex.

    Parameters
    ----------
    radii
        Distances of the points from the origin, in latent units.
    classes
        Number of classes K, equally frequent.
    draws
        Number of draws of z about one point; by symmetry, one point is enough.
    generator
        Generator on the CPU; all radii use the same draws.

    Returns
    -------
    DataFrame
        Columns ``norm``, ``decoder_uncertainty`` (nats), and ``gamma``, for which this radius minimises
        :math:`H[Y|Z] + \gamma\lVert\mu\rVert^2`.

    Notes
    -----
    :math:`I` is concave in the signal-to-noise ratio, with half the mean squared error of
    :math:`E[\mu|z]` as its slope (Guo, Shamai and Verdu 2005). So
    :math:`\gamma = \pi e\,(1 - E[u\cdot E[u|z]])` for points :math:`\mu = \lVert\mu\rVert u`, which falls
    from :math:`\pi e` as the radius grows from zero.
    """
    points = torch.eye(classes, dtype=torch.float64) - 1 / classes
    points = points / points[0].norm()
    noise = torch.randn(draws, classes, generator=generator, dtype=torch.float64)
    rows = []
    for radius in radii:
        if radius <= 0:
            raise ValueError(f"radius {radius}; expected positive radii")
        ratio = radius / math.sqrt(ZERO_ENTROPY_VARIANCE)
        posterior = (ratio * (ratio * points[0] + noise) @ points.T).softmax(dim=1)
        overlap = float((posterior @ points @ points[0]).mean())
        rows.append((radius, float(torch.special.entr(posterior).sum(1).mean()), EXTINCTION * (1 - overlap)))
    return pd.DataFrame(rows, columns=["norm", "decoder_uncertainty", "gamma"])


def size_by_gamma(gammas: Sequence[float], simplex: pd.DataFrame, *, classes: int) -> pd.DataFrame:
    r"""Return how large latents can be at some gammas, in standard deviations of zero-entropy noise.

    Parameters
    ----------
    gammas
        Values of gamma in Eq. 3's convention, the index of the result.
    simplex
        Table from :func:`noisy_simplex`, with the same number of classes.
    classes
        Number of classes K.

    Returns
    -------
    DataFrame
        Columns ``price``: gamma over :data:`EXTINCTION`, in nats per nat. Without noise, ``any_network``: the
        norm :math:`\sqrt{\ln K/\gamma}`, and ``symmetric``: :func:`largest_radius`. With noise, ``noisy`` and
        ``decoder_uncertainty`` of the simplex at its best radius; missing outside its radii.
    """
    sd, table = math.sqrt(ZERO_ENTROPY_VARIANCE), simplex.sort_values("gamma")
    rows = {}
    for gamma in gammas:
        row = {
            "price": gamma / EXTINCTION,
            "any_network": math.sqrt(math.log(classes) / gamma) / sd,
            "symmetric": largest_radius(gamma, classes=classes) / sd,
        }
        for name, unit, zero in (("norm", sd, 0.0), ("decoder_uncertainty", 1.0, math.log(classes))):
            value = float(np.interp(gamma, table["gamma"], table[name], left=math.nan, right=math.nan))
            row["noisy" if name == "norm" else name] = zero if gamma >= EXTINCTION else value / unit
        rows[gamma] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gamma")


def draw_parts(ax: Axes, parts: pd.DataFrame, *, group: str) -> Axes:
    """Draw the scale and shape parts of every architecture as stacked bars, and the total as a point.

    Parameters
    ----------
    ax
        Axes to draw on.
    parts
        Table from :func:`entropy_parts`; means over seeds are drawn, with the range of the seeds' totals.
    group
        Group of architectures, a key of :data:`BASELINES`.
    """
    if group not in BASELINES:
        raise unknown_name("group of equal width", group, BASELINES)
    own = parts[parts["group"] == group]
    names = [name for name in VARIANTS if (own["architecture"] == name).any()]
    grouped = own.groupby("architecture")[["scale", "shape", "total"]]
    mean = grouped.mean().reindex(names)
    least, largest = (part.reindex(names)["total"] for part in (grouped.min(), grouped.max()))
    place = np.arange(len(names))
    ends = {True: np.zeros(len(names)), False: np.zeros(len(names))}
    for part, (colour, hatch) in _PARTS.items():
        value = mean[part].to_numpy()
        start = np.where(value < 0, ends[True], ends[False])
        ax.barh(
            place, value, left=start, height=0.6, color=colour, hatch=hatch, edgecolor="white", label=part
        )
        for negative, end in ends.items():
            end += np.where((value < 0) == negative, value, 0.0)
    total = mean["total"]
    ax.errorbar(
        total, place, xerr=[total - least, largest - total], fmt="kD", markersize=4, capsize=3, label="both"
    )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(place, names)
    ax.invert_yaxis()
    ax.set_xlabel(f"entropy less {BASELINES[group]}'s (nats)")
    ax.grid(axis="x", alpha=0.3)
    return ax
