"""Draws surrogate regularizers: entropies against gamma, the information plane, and paths through it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm

from experiments.chapters.surrogates.estimator_bias import Bias
from experiments.chapters.surrogates.tables import PRESERVED, RESIDUAL, medians


class Look(NamedTuple):
    """Name and look of a regularizer."""

    title: str
    colour: str
    marker: str


LOOKS: Mapping[str, Look] = {
    "norm": Look("squared norm", "#0072B2", "o"),
    "variance": Look("log-variance", "#E69F00", "s"),
    "conditional": Look("conditional log-variance", "#CC79A7", "^"),
}
"""Looks by the names of Observation 8's regularizers; colours are Okabe and Ito's."""
OFFSETS: Mapping[str, tuple[int, int]] = {"norm": (7, 7), "variance": (26, 3), "conditional": (7, 7)}
"""Offset, in points, of a gamma's text from its dot; where two regularizers end alike, both stay readable."""
BLACK, GREY = "#000000", "#888888"
TICKS = (0.0, 0.5, 1.0, 3.0, 10.0, 30.0)
"""Scale of entropies: linear up to 1 nat, and logarithmic above."""


def over_gamma(
    ax: Axes,
    table: pd.DataFrame,
    column: str,
    *,
    regularizer: str,
    label: str,
    line: str = "-",
    colour: str | None = None,
) -> Axes:
    """Draw a quantity of one regularizer's runs against gamma: median and quartiles over trials.

    Parameters
    ----------
    ax
        Axes to draw on; gamma's axis becomes logarithmic.
    table
        Table from :func:`experiments.chapters.surrogates.tables.of_surrogates`.
    column
        Column to draw.
    regularizer
        Regularizer of the runs.
    label, line, colour
        Label, style and colour of the line; None: the regularizer's colour.
    """
    of_gamma = table[table["regularizer"] == regularizer].groupby("weight")[column]
    low, middle, high = (of_gamma.quantile(share).to_numpy(float) for share in (0.25, 0.5, 0.75))
    look, gamma = LOOKS[regularizer], [float(str(key)) for key in of_gamma.groups]
    shade = colour or look.colour
    ax.plot(gamma, middle, line, color=shade, marker=look.marker, markersize=4, label=label)
    ax.fill_between(gamma, low, high, color=shade, alpha=0.2, linewidth=0)
    ax.set_xscale("log")
    ax.grid(alpha=0.3)
    return ax


def draw_entropies(
    ax: Axes, table: pd.DataFrame, *, regularizer: str, columns: tuple[str, str, str], ceiling: float
) -> Axes:
    """Draw an entropy against gamma, with an estimate of it and a bound on it.

    Parameters
    ----------
    ax
        Axes to draw on; the scale is linear up to 1 nat and logarithmic above.
    table
        Table from :func:`experiments.chapters.surrogates.tables.of_surrogates`.
    regularizer
        Regularizer of the runs.
    columns
        Columns with the exact entropy, the estimate by nearest neighbours, and the Gaussian bound.
    ceiling
        Upper limit of the exact entropy, in nats.
    """
    exact, estimate, bound = columns
    shown = {"regularizer": regularizer}
    over_gamma(ax, table, bound, **shown, label="Gaussian bound", line="-.", colour=GREY)
    over_gamma(ax, table, estimate, **shown, label="nearest neighbours", line="--", colour=BLACK)
    over_gamma(ax, table, exact, **shown, label="exact")
    ax.axhline(ceiling, color=BLACK, linewidth=1, linestyle=":")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    return ax


def draw_errors(
    ax: Axes, table: pd.DataFrame, errors: Mapping[float, Bias], *, regularizer: str, seed: int
) -> Axes:
    """Draw the errors of nearest-neighbour entropies on matched mixtures and on the runs.

    Parameters
    ----------
    ax
        Axes to draw on.
    table
        Table from :func:`experiments.chapters.surrogates.tables.of_surrogates`.
    errors
        Errors on mixtures that resemble the latents, by gamma; bars are two standard errors.
    regularizer, seed
        Regularizer of the runs, and the trial whose error, estimate minus exact entropy, is also drawn.
    """
    own = table[(table["regularizer"] == regularizer) & (table["seed"] == seed)].sort_values("weight")
    over = own["knn_entropy"] - own["encoding_entropy"]
    ax.plot(own["weight"], over, ":", color=BLACK, label="H[Z], the runs")
    lines = (
        ("isotropic", "H[Z], round Gaussian", GREY, "-"),
        ("encoding_entropy", "H[Z], matched", BLACK, "-"),
        ("reverse_decoder_uncertainty", "H[Z|Y], matched", LOOKS[regularizer].colour, "--"),
    )
    for name, label, colour, line in lines:
        found = [getattr(error, name) for error in errors.values()]
        bars = [2 * one.standard_error for one in found]
        off = [one.bias for one in found]
        ax.errorbar(list(errors), off, bars, color=colour, linestyle=line, marker=".", label=label)
    ax.set(xlabel="γ", xscale="log")
    ax.grid(alpha=0.3)
    return ax


def least_residual(preserved: np.ndarray, label_entropy: float) -> np.ndarray:
    r"""Return the smallest residual information that preserved information allows if labels are certain.

    Notes
    -----
    If :math:`H[Y|X] = 0`, then :math:`I[X;Y|Z] = H[Y] - I[Y;Z] \ge \max(0, H[Y] - I[X;Z])`, because
    :math:`I[Y;Z] \le I[X;Z]`. An encoder's excess over this minimum is :math:`I[X;Z|Y]` where
    :math:`I[X;Z] \le H[Y]`, and :math:`H[Y|Z]` beyond.
    """
    return np.maximum(0.0, label_entropy - np.asarray(preserved, dtype=float))


def draw_limits(ax: Axes, *, label_entropy: float, points: int) -> Axes:
    """Draw the plane's limits for certain labels and a number of training points, and label its axes.

    Parameters
    ----------
    ax
        Axes to draw on.
    label_entropy
        Entropy H[Y] in nats.
    points
        Number N of training points: no latent of N points preserves more than log N nats.
    """
    ceiling = math.log(points)
    corners = np.array([0.0, label_entropy, ceiling])
    ax.plot(corners, least_residual(corners, label_entropy), "-", color=BLACK, linewidth=1, label="least")
    ax.axvline(ceiling, color=BLACK, linewidth=1, linestyle=":", label=f"ln {points:,}")
    ax.set(xlabel="preserved information I[X;Z] (nats)", ylabel="residual information I[X;Y|Z] (nats)")
    ax.grid(alpha=0.3)
    return ax


def gamma_colours(gammas: Sequence[float]) -> ScalarMappable:
    """Return the colours of gamma: viridis without its lightest end, on a logarithmic scale."""
    low, high = min(gammas), max(gammas)
    if not 0 < low < high:
        raise ValueError(f"gammas from {low} to {high}; expected two different ones above 0")
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.93, 256))
    return ScalarMappable(LogNorm(low, high), ListedColormap(shades))


def _shade(colours: ScalarMappable, gamma: float) -> tuple[float, ...]:
    return tuple(colours.to_rgba(np.array([gamma]))[0])


def draw_saturation(
    ax: Axes, table: pd.DataFrame, *, regularizer: str, colours: ScalarMappable, annotate: bool = False
) -> Axes:
    """Draw where one regularizer's runs end in the plane: medians over trials, joined in order of gamma.

    Parameters
    ----------
    ax
        Axes to draw on.
    table
        Table from :func:`experiments.chapters.surrogates.tables.of_surrogates`, with the two informations in
        nats.
    regularizer
        Regularizer of the runs.
    colours
        Colours by gamma.
    annotate
        Whether to write gamma beside the dots that are inside the axes.
    """
    middle, look = medians(table, regularizer), LOOKS[regularizer]
    ax.plot(middle[PRESERVED], middle[RESIDUAL], "--", color=look.colour, label=look.title)
    names: dict[tuple[float, float], list[str]] = {}
    for gamma, row in middle.iterrows():
        weight = float(str(gamma))
        place = (float(row[PRESERVED]), float(row[RESIDUAL]))
        ax.plot(*place, look.marker, color=_shade(colours, weight), markeredgecolor=look.colour, markersize=8)
        names.setdefault((round(place[0], 1), round(place[1], 1)), []).append(f"{weight:g}")
    style = {"textcoords": "offset points", "fontsize": 8, "annotation_clip": True, "color": look.colour}
    for place, found in names.items() if annotate else ():
        ax.annotate(", ".join(found), place, xytext=OFFSETS[regularizer], **style)
    return ax


def draw_trajectories(ax: Axes, history: pd.DataFrame, *, x: str, y: str, colours: ScalarMappable) -> Axes:
    """Draw two columns against each other over epochs, one line per gamma: medians over trials.

    Parameters
    ----------
    ax
        Axes to draw on.
    history
        Table with one row per run and recorded epoch of one regularizer, from
        :func:`experiments.chapters.surrogates.tables.of_surrogates`.
    x, y
        Columns; ``epoch`` may be one.
    colours
        Colours by gamma; dots grow with the epoch.
    """
    if (found := history["regularizer"].nunique()) != 1:
        raise ValueError(f"history has {found} regularizers; expected one")
    for gamma, rows in history.groupby("weight"):
        middle = rows.groupby("epoch")[[name for name in (x, y) if name != "epoch"]].median().reset_index()
        shade = _shade(colours, float(str(gamma)))
        ax.plot(middle[x], middle[y], "-", color=shade, linewidth=1, label=f"γ = {gamma:g}")
        size = 4 + 30 * middle["epoch"] / middle["epoch"].max()
        ax.scatter(middle[x], middle[y], s=size, color=shade, linewidth=0, rasterized=True)  # there are many
    ax.grid(alpha=0.3)
    return ax
