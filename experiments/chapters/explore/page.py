"""Frames as data for the page on which readers move gamma and the epoch, even without a network connection.

The page holds the data itself, as JSON in a ``script`` element that is never executed; arrays are
little-endian numbers in base64. ``book/_static/explore.js`` decodes and draws them.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.chapters.explore.frames import Frames, class_means, plane, rms
from experiments.reporting.tables import number
from lpc import figures
from lpc.errors import unknown_name
from lpc.specs import GAMMAS

BINS = 48
"""Number of bins in a histogram, over the node's range in the frame."""
SHOWN = 40
"""Number of points per class that the plane shows, from the first."""
LEVELS = 2**16 - 1
"""Number of positions that a point can have in each direction, from one end of the plane to the other."""
ROOT = "lpc-explore"
"""The id of the page's HTML element."""


class Element(NamedTuple):
    """HTML that a notebook shows as it is."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def last_gamma(name: str) -> float:
    """Return the last gamma of an architecture in :data:`lpc.architectures.GAMMAS`; 0 without a penalty."""
    if name not in GAMMAS:
        raise unknown_name("row of the gamma sweep", name, GAMMAS)
    return GAMMAS[name].gamma_maximum or 0.0


def histograms(latent: np.ndarray, label: np.ndarray, *, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Return each node's range, and the number of points of each class in each of its bins.

    Parameters
    ----------
    latent, label
        Latents, shape (points, width), and labels, shape (points,).
    bins
        Number of equal parts of the range.

    Returns
    -------
    range, counts
        Lowest and highest value, shape (width, 2), float32; numbers of points, shape (width, classes, bins),
        integers.
    """
    classes = np.unique(label)
    ends = np.stack([latent.min(axis=0), latent.max(axis=0)], axis=1).astype(np.float32)
    counts = np.empty((latent.shape[1], len(classes), bins), dtype=np.int64)
    for node, (low, high) in enumerate(ends.astype(np.float64)):
        for place, one in enumerate(classes):
            own = latent[label == one, node].astype(np.float64)
            counts[node, place] = np.histogram(own, bins=bins, range=(low, high))[0]
    return ends, counts


def encode(frames: Frames, *, bins: int = BINS, shown: int = SHOWN) -> dict[str, Any]:
    """Return the data of frames that the page needs, in a form for JSON.

    Parameters
    ----------
    frames
        Frames of networks of :data:`lpc.architectures.GAMMAS`.
    bins
        Number of bins in a histogram.
    shown
        Number of points per class in the plane.

    Returns
    -------
    dict
        For each network and epoch, to six significant digits: ``gamma``, ``rms``, ``trace_ratio``,
        ``accuracy``, ``nearest_mean_accuracy``, ``reach`` (the largest coordinate in the plane).
        In base64, last axis fastest: ``ends`` (networks, epochs, nodes, 2) and ``means`` (networks, epochs,
        classes, nodes) in float32; ``plane`` (networks, epochs, classes, 2), the class means in the plane, in
        float32; ``counts`` (networks, epochs, nodes, classes, bins) in uint8; ``points`` (networks, epochs,
        points, 2) in uint16, where 0 stands for minus the reach and 65535 for the reach.

    Raises
    ------
    ValueError
        If a bin has more than 255 points of a class, which a byte cannot count.

    Notes
    -----
    A network's plane is that of its last class means (:func:`~experiments.chapters.explore.frames.plane`),
    for all epochs. float32 is off by at most 6e-8 of a value, and a point by at most reach / 65535 in each
    direction.
    """
    table, label = frames.table(), frames.label
    classes = np.unique(label)
    chosen = np.concatenate([np.flatnonzero(label == one)[:shown] for one in classes])
    parts: dict[str, list[np.ndarray]] = {"ends": [], "counts": [], "means": [], "plane": [], "points": []}
    reaches = []
    for latents in frames.latent:
        directions = plane(latents[-1], label)
        for latent in latents:
            ends, counts = histograms(latent, label, bins=bins)
            if counts.max() > 255:
                raise ValueError(
                    f"encode: a bin of {bins} holds {counts.max()} points of a class; a byte counts to 255. "
                    "Give more bins"
                )
            flat, means = latent[chosen] @ directions, class_means(latent, label)
            middle = means @ directions
            reach = float(f"{1.0001 * max(np.abs(flat).max(), np.abs(middle).max()):.6g}")
            reaches.append(reach)
            points = np.rint((flat / reach + 1) / 2 * LEVELS)
            for name, part in zip(parts, (ends, counts, means, middle, points), strict=True):
                parts[name].append(part)
    kinds = {"ends": "<f4", "counts": "u1", "means": "<f4", "plane": "<f4", "points": "<u2"}
    shape = frames.gamma.shape
    columns = ["gamma", "rms", "trace_ratio", "accuracy", "nearest_mean_accuracy"]
    numbers = {name: table[name].to_numpy().reshape(shape) for name in columns}
    return {
        "networks": [last_gamma(name) for name in frames.names],
        "epochs": list(frames.epochs),
        "classes": [str(one) for one in classes],
        "colours": figures.class_colours(len(classes)),
        "nodes": frames.latent.shape[-1],
        "bins": bins,
        "shown": np.searchsorted(classes, label[chosen]).tolist(),
        **{name: _rounded(values) for name, values in numbers.items()},
        "reach": _rounded(np.array(reaches).reshape(shape)),
        **{
            name: base64.b64encode(np.stack(found).astype(kinds[name]).tobytes()).decode()
            for name, found in parts.items()
        },
    }


def _rounded(values: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in values]


def element(frames: Frames) -> Element:
    """Return the HTML element on which readers move gamma and the epoch; without scripts it shows a hint."""
    data = json.dumps(encode(frames), separators=(",", ":"))
    return Element(
        f'<div id="{ROOT}">\n'
        "<noscript><p>The controls need JavaScript; the figure below shows the same.</p></noscript>\n"
        f'<script type="application/json" id="{ROOT}-data">{data}</script>\n</div>'
    )


def still(fig: Figure, frames: Frames, *, columns: int = 5) -> None:
    """Draw the page's content without scripts: gammas from top to bottom, epochs from left to right.

    Every panel shows a network's train set in the plane of the network's last class means, divided by its
    rms; each class's name stands at the class's mean.

    Parameters
    ----------
    fig
        Figure to draw on, about 1.7 inches wide per epoch and 1.7 inches high per network.
    frames
        Frames of networks of :data:`lpc.architectures.GAMMAS`.
    columns
        Number of epochs shown, spread evenly over those available, first and last included.
    """
    steps = np.unique(np.linspace(0, len(frames.epochs) - 1, columns).round().astype(int))
    grid = fig.subplots(len(frames.names), len(steps), squeeze=False)
    for place, (name, axes) in enumerate(zip(frames.names, grid, strict=True)):
        directions = plane(frames.latent[place, -1], frames.label)
        units = [latent / rms(latent) @ directions for latent in frames.latent[place, steps]]
        reach = 1.05 * max(np.abs(one).max() for one in units)
        for step, ax, unit in zip(steps, axes, units, strict=True):
            figures.class_plane(ax, unit, frames.label, reach=reach, named=True)
            ax.set_xticks([])
            ax.set_xlabel(f"rms {number(rms(frames.latent[place, step]), 2)}", fontsize=8)
        axes[0].set_ylabel(f"γ to {last_gamma(name):g}", fontsize=9)
    for step, ax in zip(steps, grid[0], strict=True):
        ax.set_title(f"epoch {frames.epochs[step]}", fontsize=9)
