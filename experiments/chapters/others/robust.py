"""Robust accuracy against the size of a perturbation, for runs with a record of every image."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.chapters.others.ways import LOOKS, NAMES
from experiments.chapters.robustness.attacks import Norms, robust_accuracy


def draw(ax: Axes, table: pd.DataFrame, *, largest: float, sizes: int = 100) -> list[str]:
    """Draw one line per way, its mean over seeds; return the ways.

    Parameters
    ----------
    ax
        Axes to draw on.
    table
        Table of the probe ``attacks``: one row per network and image.
    largest, sizes
        Largest perturbation in pixel units, and number of sizes to draw, from 0.
    """
    found, size = Norms(table), np.linspace(0, largest, sizes)
    ways = [way for way in NAMES if way in found.architectures]
    for way in ways:
        share, look = robust_accuracy(found, way, size).mean(axis=0), LOOKS[way]
        style = {"color": look.colour, "marker": look.marker, "markersize": 4, "markevery": sizes // 10}
        ax.plot(size, 100 * share, look.line, label=NAMES[way], **style)
    ax.set_xlabel("perturbation (pixel units)")
    ax.set_ylim(0, 100)
    return ways
