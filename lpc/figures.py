"""Figures: DataFrame -> matplotlib Axes, with the same look for an architecture everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes


class Look(NamedTuple):
    """Colour, line style and marker of an architecture.

    Attributes
    ----------
    colour, line, marker
        The values that matplotlib takes for them.
    """

    colour: str
    line: str
    marker: str


LOOKS: Mapping[str, Look] = {
    "IB": Look("#0072B2", "-", "o"),
    "WideIB": Look("#56B4E9", "-", "s"),
    "NarrowIB": Look("#1B2A6B", "-", "^"),
    "NonLinIB": Look("#882255", "-", "v"),
    "NoPen": Look("#000000", "--", "D"),
    "NoPenDropout": Look("#888888", "--", "P"),
    "LinPen": Look("#D55E00", "-.", "X"),
    "LinPenDropout": Look("#E69F00", "-.", "*"),
    "NonLinPen": Look("#009E73", ":", "<"),
    "NonLinPenL1": Look("#CC79A7", ":", ">"),
}
"""Looks with Okabe and Ito's colours and three more; lines and markers work without colour."""


_CLASS_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7",
    "#56B4E9", "#888888", "#F0E442", "#882255", "#000000",
)  # fmt: skip


def class_colours(classes: int) -> list[str]:
    """Return a colour for every class; beyond ten they repeat.

    Parameters
    ----------
    classes
        Number of classes.
    """
    return [_CLASS_COLOURS[place % len(_CLASS_COLOURS)] for place in range(classes)]


def name_rows(grid: np.ndarray, names: Sequence[str]) -> None:
    """Write the row's name above the first panel of each row; a single row needs no name.

    Parameters
    ----------
    grid
        Axes of the figure, shape (rows, columns).
    names
        One name per row.
    """
    if len(names) != len(grid):
        raise ValueError(f"name_rows: {len(names)} names for {len(grid)} rows of panels; expected one each")
    if len(names) > 1:
        for axes, name in zip(grid, names, strict=True):
            axes[0].set_title(name, loc="left", fontweight="bold")


def over_epochs(
    ax: Axes,
    history: pd.DataFrame,
    column: str,
    *,
    architectures: Sequence[str],
    label: str,
    log: bool = False,
    looks: Mapping[str, Look] = LOOKS,
) -> Axes:
    """Draw a metric over epochs: mean over seeds, and a band from the smallest to the largest.

    Parameters
    ----------
    ax
        Axes to draw on.
    history
        Table with the columns ``architecture``, ``seed``, ``epoch`` and ``column``; missing values are left
        out.
    column
        Column of the metric.
    architectures
        Architectures in the order of the legend.
    label
        Label of the y axis, with the unit.
    log
        Whether the y axis is logarithmic; the mean is then that of the logarithms.
    looks
        Colours, lines and markers by architecture; needed for architectures outside the ablation.
    """
    for name in architectures:
        rows = history[(history["architecture"] == name) & history[column].notna()]
        if rows.empty:
            continue
        values = rows.assign(value=np.log(rows[column]) if log else rows[column])
        grouped = values.groupby("epoch")["value"].agg(["mean", "min", "max"])
        middle, lower, upper = (grouped[part].to_numpy() for part in ("mean", "min", "max"))
        if log:
            middle, lower, upper = np.exp(middle), np.exp(lower), np.exp(upper)
        look = looks[name]
        epochs = grouped.index.to_numpy()
        ax.plot(epochs, middle, look.line, color=look.colour, marker=look.marker, markersize=4, label=name)
        ax.fill_between(epochs, lower, upper, color=look.colour, alpha=0.15, linewidth=0)
    if log:
        ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel(label)
    ax.grid(alpha=0.3)
    return ax


def mark_terminal_phase(ax: Axes, selected: pd.DataFrame, *, architectures: Sequence[str]) -> Axes:
    """Draw a dashed line where an architecture's train accuracy passes 99.9 %, averaged over seeds.

    Parameters
    ----------
    ax
        Axes to draw on.
    selected
        Table with ``architecture`` and ``terminal_epoch``. An architecture gets no line if one of its runs
        never passed the threshold.
    architectures
        Architectures to mark.
    """
    for name in architectures:
        epochs = selected.loc[selected["architecture"] == name, "terminal_epoch"]
        if len(epochs) and epochs.notna().all():
            ax.axvline(
                epochs.mean(), color=LOOKS[name].colour, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.7
            )
    return ax


def by_architecture(
    ax: Axes, frame: pd.DataFrame, column: str, *, architectures: Sequence[str], label: str, log: bool = False
) -> Axes:
    """Draw one point per run, and a bar at the mean, for every architecture.

    Parameters
    ----------
    ax
        Axes to draw on.
    frame
        Table with the columns ``architecture`` and ``column``.
    column
        Column of the metric; missing values are left out.
    architectures
        Architectures from left to right.
    label
        Label of the y axis, with the unit.
    log
        Whether the y axis is logarithmic.
    """
    for place, name in enumerate(architectures):
        values = frame.loc[frame["architecture"] == name, column].dropna().to_numpy(dtype=float)
        look = LOOKS[name]
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
        ax.plot(place + spread, values, look.marker, color=look.colour, markersize=6)
        if len(values):
            ax.hlines(values.mean(), place - 0.3, place + 0.3, color=look.colour)
    if log:
        ax.set_yscale("log")
    ax.set_xticks(range(len(architectures)), architectures, rotation=35, ha="right")
    ax.set_ylabel(label)
    ax.grid(axis="y", alpha=0.3)
    return ax


def cumulative(
    ax: Axes,
    values: np.ndarray,
    *,
    architecture: str | None = None,
    label: str | None = None,
    looks: Mapping[str, Look] = LOOKS,
) -> Axes:
    """Draw the share of values at or below each value, as steps.

    Parameters
    ----------
    ax
        Axes to draw on.
    values
        Values, shape (points,).
    architecture
        Architecture whose colour and line are used; None: a thick grey line.
    label
        Entry in the legend; None: the architecture's name.
    looks
        Colours, lines and markers by architecture; needed for architectures outside the ablation.
    """
    ordered = np.sort(values)
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    look = Look("#AAAAAA", "-", "") if architecture is None else looks[architecture]
    ax.plot(
        ordered,
        share,
        look.line,
        color=look.colour,
        marker=look.marker,
        markevery=max(1, len(ordered) // 6),
        markersize=4,
        linewidth=3 if architecture is None else 1.5,
        drawstyle="steps-post",
        label=label or architecture,
    )
    return ax


def quartiles(
    ax: Axes,
    x: np.ndarray,
    values: np.ndarray,
    *,
    architecture: str,
    label: str | None = None,
    looks: Mapping[str, Look] = LOOKS,
) -> Axes:
    """Draw the median of rows over x, with a band from the lower to the upper quartile.

    Parameters
    ----------
    ax
        Axes to draw on.
    x
        Position of each column of ``values``, shape (steps,).
    values
        Values, shape (rows, steps).
    architecture
        Architecture whose colour and line are used.
    label
        Entry in the legend; None: no entry.
    looks
        Colours, lines and markers by architecture; needed for architectures outside the ablation.
    """
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    look = looks[architecture]
    every = max(1, len(x) // 8)
    style = {"color": look.colour, "marker": look.marker, "markevery": every, "markersize": 4}
    ax.plot(x, middle, look.line, label=label, **style)
    ax.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
    return ax


def node_histograms(
    axes: Sequence[Axes] | np.ndarray,
    latent: np.ndarray,
    label: np.ndarray,
    *,
    nodes: Sequence[int],
    bins: int = 60,
) -> None:
    """Draw the histogram of latent values at some nodes, stacked by class (LPC Figure 1).

    Parameters
    ----------
    axes
        One pair of axes per node.
    latent
        Latents, shape (points, width).
    label
        Class of each point, shape (points,).
    nodes
        Indices of the nodes to draw.
    bins
        Number of bins of each histogram, over the node's own range.
    """
    classes = np.unique(label)
    colours = class_colours(len(classes))
    for ax, node in zip(axes, nodes, strict=True):
        values = [latent[label == value, node] for value in classes]
        ax.hist(
            values,
            bins=bins,
            stacked=True,
            histtype="stepfilled",
            color=colours,
            label=[str(value) for value in classes],
        )
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        ax.set_xlabel(f"node {node}")


def class_plane(
    ax: Axes, points: np.ndarray, label: np.ndarray, *, reach: float, named: bool = False
) -> None:
    """Draw points of a plane about the origin, coloured by class.

    Parameters
    ----------
    ax
        Axes to draw on; the points are rasterised.
    points
        Points of the plane, shape (points, 2).
    label
        Class of each point, shape (points,).
    reach
        Limit of both axes, which go from ``-reach`` to ``reach``.
    named
        Whether the class's name is written at its mean.
    """
    classes = np.unique(label)
    for one, colour in zip(classes, class_colours(len(classes)), strict=True):
        own = points[label == one]
        ax.plot(own[:, 0], own[:, 1], ".", color=colour, markersize=2.5, markeredgewidth=0, rasterized=True)
        if named:
            where = (float(own[:, 0].mean()), float(own[:, 1].mean()))
            ax.annotate(str(one), where, (3, 3), textcoords="offset points", fontsize=8)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", yticks=[])
    end = float(f"{0.7 * reach:.0e}")
    ax.set_xticks([-end, 0, end], [f"{-end:g}", "0", f"{end:g}"])
    ax.tick_params(labelsize=8)


def class_means_map(ax: Axes, latent: np.ndarray, label: np.ndarray) -> None:
    """Draw class means, node by node, in units of the node's mean absolute coordinate: a cube is all ±1.

    Parameters
    ----------
    ax
        Axes to draw on: classes from top to bottom, nodes from left to right, each value written out.
    latent
        Latents, shape (points, width).
    label
        Class of each point, shape (points,).
    """
    classes = np.unique(label)
    means = np.stack([latent[label == value].mean(axis=0) for value in classes])
    means = means / np.abs(means).mean(axis=0)
    ax.imshow(means, cmap="PuOr", vmin=-2.5, vmax=2.5, aspect="auto")
    for row, column in np.ndindex(means.shape):
        value = means[row, column]
        shade = "white" if abs(value) > 1.6 else "black"
        ax.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=8, color=shade)
    ax.set_xticks(range(means.shape[1]))
    ax.set_yticks(range(len(classes)), [str(value) for value in classes])
    ax.set_xlabel("node")
