"""What else collapses: what is recorded of other ways to pull classes together, as tables and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import spearmanr

from experiments.reporting.tables import MISSING, number, over_seeds
from experiments.studies.other_profiles import FROZEN_STRENGTHS
from experiments.studies.recorded import Recorded, recorded
from lpc.figures import Look


class Source(NamedTuple):
    """Where a data set's networks are recorded.

    Attributes
    ----------
    judged
        The profile whose seeds judge the claims.
    search
        The profile in which strengths were chosen: one seed.
    strengths
        Key of :data:`~experiments.studies.other_profiles.FROZEN_STRENGTHS`.
    """

    judged: str
    search: str
    strengths: str


SOURCES: Mapping[str, Source] = {
    "digits": Source("others", "others-strengths", "digits"),
    "MNIST subset": Source("others-mnist", "others-mnist-strengths", "mnist_subset"),
}
NAMES: Mapping[str, str] = {
    "IB": "squared norm (IB)",
    "Norm": "norm",
    "CubedNorm": "cube of the norm",
    "CentreLoss": "centre loss",
    "LogitSqueezing": "logit squeezing",
    "LabelSmoothing": "label smoothing",
    "VIB": "VIB, learnt variance",
    "Cosine": "cosine classifier",
    "Temperature": "temperature",
    "SpectralNorm": "spectral norm",
    "DecayAdamW": "decay, AdamW",
    "DecayAdam": "decay, Adam (coupled)",
    "DecaySGD": "decay, SGD",
    "LinPen": "the bare layer (LinPen)",
    "NoPen": "no layer (NoPen)",
}
"""Ways in the order of tables, in words."""
LOOKS: Mapping[str, Look] = {
    "IB": Look("#0072B2", "-", "o"),
    "Norm": Look("#56B4E9", "-", "v"),
    "CubedNorm": Look("#1B2A6B", "-", "^"),
    "CentreLoss": Look("#D55E00", "-", "s"),
    "LogitSqueezing": Look("#009E73", "--", "<"),
    "LabelSmoothing": Look("#CC79A7", "--", ">"),
    "VIB": Look("#882255", "--", "P"),
    "Cosine": Look("#882255", ":", "X"),
    "Temperature": Look("#E69F00", ":", "*"),
    "SpectralNorm": Look("#E69F00", ":", "h"),
    "DecayAdamW": Look("#888888", ":", "D"),
    "DecayAdam": Look("#888888", ":", "p"),
    "DecaySGD": Look("#888888", ":", "d"),
    "LinPen": Look("#000000", ":", "x"),
    "NoPen": Look("#000000", ":", "+"),
}
GEOMETRY: Mapping[str, str] = {
    "trace_ratio": "trace ratio, train",
    "test_trace_ratio": "test",
    "test_accuracy": "accuracy (%)",
    "test_deepfool_relative_norm": "DeepFool",
    "attacks_box_smallest_median": "smallest of all attacks",
}
CONFIDENCE: Mapping[str, str] = {
    "test_ece": "calibration error",
    "outside_ece_scaled": "after one temperature",
    "outside_errors": "errors, AUROC",
    "outside_fashion_mnist_softmax": "Fashion-MNIST, softmax",
    "outside_fashion_mnist_mahalanobis": "Mahalanobis",
}
PERCENT = ("test_accuracy",)
CLASSIFIES = 0.5
"""Training accuracy below which a network is left out of the figure: it has lost classes."""


class Networks(NamedTuple):
    """One data set's networks as tables show them.

    Attributes
    ----------
    rows
        One per run, ``architecture`` a way of :data:`NAMES`.
    told
        Whose runs they are, and how many seeds.
    """

    rows: pd.DataFrame
    told: str


def networks(source: Source) -> Networks | None:
    """Return the judged runs; where none are recorded, the search's at the strengths that it chose.

    Parameters
    ----------
    source
        Of :data:`SOURCES`.
    """
    found = recorded(source.judged)
    if found is not None:
        seeds = found.selected["seed"].nunique()
        return Networks(found.selected, f"profile {source.judged}, {seeds} seed{'s' * (seeds > 1)}")
    search = recorded(source.search)
    if search is None:
        return None
    chosen = {f"{way}-{value:g}": way for way, value in FROZEN_STRENGTHS[source.strengths].items()}
    rows = search.selected[search.selected["architecture"].isin(chosen)]
    rows = rows.assign(architecture=rows["architecture"].map(chosen))
    return Networks(rows, f"profile {source.search}: one seed, on which the strengths were chosen")


def table(found: Networks, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per way with what its runs gave; columns that no run has are left out.

    Parameters
    ----------
    found
        A data set's.
    columns
        Column of the runs -> heading.
    """
    there = {name: heading for name, heading in columns.items() if _has(found.rows, name)}
    rows = {
        words: {heading: _cell(found.rows, way, name) for name, heading in there.items()}
        for way, words in NAMES.items()
    }
    made = pd.DataFrame.from_dict(rows, orient="index", columns=list(there.values()))
    made.index.name = "what is added to the layer"
    return made


def _has(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and bool(pd.to_numeric(rows[column], errors="coerce").notna().any())


def _cell(rows: pd.DataFrame, way: str, column: str) -> str:
    own = rows.loc[rows["architecture"] == way, column]
    if own.empty:
        return MISSING
    return over_seeds(pd.to_numeric(own) * (100 if column in PERCENT else 1))


def points(search: Recorded, classifies: float = CLASSIFIES) -> pd.DataFrame:
    """Return the search's networks that classify: ``way``, ``strength``, ``collapse``, ``factor``.

    Parameters
    ----------
    search
        Recorded runs of a profile of strengths.
    classifies
        Training accuracy below which a network is left out: it has lost classes.

    Returns
    -------
    pandas.DataFrame
        Rows by way and strength; ``collapse`` is the train trace ratio, ``factor`` the mean over test images
        of DeepFool's perturbation over the image.
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
    """Draw collapse against DeepFool's perturbation: one line per way, from its weakest strength on.

    Parameters
    ----------
    ax
        Where to.
    shown
        Of :func:`points`.
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
    """Return in one sentence whether tighter networks have the larger DeepFool perturbations (Spearman).

    Parameters
    ----------
    shown
        Of :func:`points`.
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
        Of :func:`points`.
    """
    return float(spearmanr(-shown["collapse"], shown["factor"]).statistic)


def missing(sources: Iterable[Source] = SOURCES.values()) -> list[str]:
    """Return the commands that train what is not recorded yet, in order."""
    return [
        f"python -m experiments train --profile {one.judged}"
        for one in sources
        if recorded(one.judged) is None
    ]
