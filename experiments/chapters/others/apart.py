"""Collapse against DeepFool's perturbation: whether tighter networks are harder to fool."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import spearmanr

from experiments.chapters.others.ways import LOOKS, NAMES
from experiments.reporting.tables import number
from experiments.studies.recorded import Recorded

CLASSIFIES = 0.5
"""Training accuracy below which a network is left out of the figure: it has lost classes."""


def points(search: Recorded, classifies: float = CLASSIFIES) -> pd.DataFrame:
    """Return the networks of a search that classify well: ``way``, ``strength``, ``collapse``, ``factor``.

    Parameters
    ----------
    search
        Recorded runs of a profile of strengths.
    classifies
        Training accuracy below which a network is left out because it has lost classes.

    Returns
    -------
    pandas.DataFrame
        One row per way and strength: ``collapse`` is the train trace ratio, and ``factor`` the mean over test
        images of the norm of DeepFool's perturbation, divided by the image's.
    """
    rows = search.selected
    rows = rows[rows["accuracy"] >= classifies]
    names = rows["architecture"].str.split("-", n=1, expand=True)
    return pd.DataFrame(
        {
            "way": names[0],
            "strength": names[1].astype(float),
            "collapse": rows["trace_ratio"].astype(float),
            "factor": rows["test_deepfool_relative_norm"].astype(float),
        }
    ).sort_values(["way", "strength"], ignore_index=True)


def draw(ax: Axes, shown: pd.DataFrame) -> None:
    """Draw DeepFool's perturbation against collapse, one line per way, starting at its weakest strength.

    Parameters
    ----------
    ax
        Axes to draw on.
    shown
        Table from :func:`points`.
    """
    for way in shown["way"].unique():
        own, look = shown[shown["way"] == way], LOOKS[way]
        ax.plot(own["collapse"], own["factor"], look.line, color=look.colour, linewidth=1, alpha=0.6)
        sizes = 20 + 25 * np.arange(len(own))
        ax.scatter(
            own["collapse"],
            own["factor"],
            s=sizes,
            color=look.colour,
            marker=look.marker,
            label=NAMES[way],
        )
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_xlabel("tr Σ_W / tr Σ_B on train (tighter →)")


def agreement(shown: pd.DataFrame) -> str:
    """Return a sentence on whether tighter networks have larger DeepFool perturbations (Spearman).

    Parameters
    ----------
    shown
        Table from :func:`points`.
    """
    rho = rank_correlation(shown)
    half = rank_correlation(shown[shown["collapse"] <= shown["collapse"].median()])
    tight = shown.iloc[int(shown["collapse"].argmin())]
    rank = int((shown["factor"] > tight["factor"]).sum()) + 1
    return (
        f"{len(shown)} networks: rank correlation of tightness and perturbation {number(rho, 2)}, "
        f"{number(half, 2)} among the tighter half; the tightest ({NAMES[tight['way']]} at "
        f"{tight['strength']:g}) is number {rank} by perturbation"
    )


def rank_correlation(shown: pd.DataFrame) -> float:
    """Return Spearman's correlation of tightness and DeepFool's perturbation.

    Parameters
    ----------
    shown
        Table from :func:`points`.
    """
    return float(spearmanr(-shown["collapse"], shown["factor"]).statistic)
