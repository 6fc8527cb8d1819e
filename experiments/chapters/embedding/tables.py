"""Tables and looks of the chapter on low-dimensional embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.reporting.tables import MISSING, NOT_RUN, number, over_seeds
from experiments.studies.recorded import Recorded
from experiments.studies.study import Study
from lpc.figures import Look
from lpc.schedules import gamma, learning_rate
from lpc.specs import EMBEDDINGS, TrainSpec

LPC = "LPC"
"""Suffix of the embeddings with the squared-norm penalty."""
METRIC_LEARNING = tuple(name for name, one in EMBEDDINGS.items() if one.objective != "decoder_cross_entropy")
"""The embeddings with a loss of metric learning."""
GRID = tuple(name for name in EMBEDDINGS if name not in METRIC_LEARNING)
"""The embeddings with cross-entropy: without a layer, or with a linear or nonlinear layer of three widths,
each with and without the penalty."""
WITHOUT: Mapping[str, str] = {
    name: "SupConCE" if name == "SupConLPC" else name.removesuffix(LPC)
    for name in EMBEDDINGS
    if name.endswith(LPC)
}
"""Each penalised embedding's counterpart without the penalty."""

_MARKERS = {"none": "D", 32: "^", 64: "o", 128: "s"}
_LAYERS = {
    ("none", False): "#000000",
    ("none", True): "#56B4E9",
    ("linear", False): "#D55E00",
    ("linear", True): "#0072B2",
    ("nonlinear", False): "#009E73",
    ("nonlinear", True): "#882255",
}
_LOSSES = {
    "SupCon": "#E69F00",
    "SupConCE": "#999933",
    "SupConLPC": "#661100",
    "ArcFace": "#CC79A7",
    "ArcFaceLPC": "#6A3D6A",
    "CosFace": "#44AA99",
    "CosFaceLPC": "#117733",
}


def _look(name: str) -> Look:
    variant, penalised = EMBEDDINGS[name], name in WITHOUT
    colour = _LOSSES.get(name) or _LAYERS[variant.penultimate, penalised]
    return Look(colour, "-" if penalised else "--", _MARKERS[variant.width])  # type: ignore[index]


LOOKS: Mapping[str, Look] = {name: _look(name) for name in EMBEDDINGS}
"""Looks: colours (Okabe and Ito's, and Tol's) by layer, loss and penalty; markers by width; solid lines with
the penalty. With cross-entropy, layers have the same colours as in the ablation (``lpc.figures.LOOKS``)."""


class Column(NamedTuple):
    """A column of the chapter's tables: its heading, and whether it is a share, shown in percent."""

    heading: str
    percent: bool = False


QUALITY: Mapping[str, Column] = {
    "test_accuracy": Column("accuracy (%)", percent=True),
    "test_deepfool_relative_norm": Column("DeepFool / image"),
    "trace_ratio": Column("tr Σ_W / tr Σ_B"),
    "margins_train_median": Column("distance margin, train"),
    "margins_test_median": Column("distance margin, test"),
    "margins_entropy_unit_rms_node": Column("entropy per node at unit rms"),
    "margins_distance_median": Column("logit margin / gradient"),
}
"""Columns that do not change when latents or logits are rescaled."""
SIZES: Mapping[str, Column] = {
    "rms": Column("rms of the latents"),
    "trace_within": Column("tr Σ_W"),
    "margins_entropy_node": Column("entropy per node"),
    "margins_gradient_max": Column("largest gradient"),
    "margins_gradient_mean": Column("mean gradient"),
}
"""Columns that change if latents merely shrink or logits are scaled down."""
DIRECTIONS: Mapping[str, Column] = {
    "rms": Column("rms of the latents"),
    "coefficient_of_variation": Column("variation of their norms"),
    "margins_test_median": Column("margin, test"),
    "margins_directions_test_median": Column("margin of directions, test"),
    "margins_directions_train_median": Column("margin of directions, train"),
    "test_nearest_mean_accuracy": Column("nearest mean (%)", percent=True),
}
"""Columns on directions, which a loss of directions sees, and on norms, which it does not."""


def table(
    study: Study | Recorded, names: Sequence[str], columns: Mapping[str, Column], *, digits: int = 3
) -> pd.DataFrame:
    """Return one row per embedding with the values of its seeds, as text.

    Parameters
    ----------
    study
        Study with live or recorded runs of an embedding profile.
    names
        Embeddings, from top to bottom.
    columns
        Headings by column of ``study.selected``. A column that no run has is shown as missing, since recorded
        results may lack probes.
    digits
        Significant digits of the means.
    """
    rows = {}
    for name in names:
        own = study.selected[study.selected["architecture"] == name]
        rows[name] = {
            column.heading: NOT_RUN
            if own.empty
            else over_seeds(pd.to_numeric(own[key]) * (100 if column.percent else 1), digits=digits)
            if key in own
            else MISSING
            for key, column in columns.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("embedding")


class Gain(NamedTuple):
    """Effect of the penalty on a column: with over without, or with minus without, times a factor."""

    heading: str
    inverse: bool = False
    times: float | None = None


GAINS: Mapping[str, Gain] = {
    "test_accuracy": Gain("accuracy (points)", times=100),
    "test_deepfool_relative_norm": Gain("DeepFool"),
    "trace_ratio": Gain("1 / trace ratio", inverse=True),
    "margins_train_median": Gain("margin, train"),
    "margins_test_median": Gain("margin, test"),
    "margins_distance_median": Gain("logit margin / gradient"),
    "margins_entropy_unit_rms_node": Gain("entropy per node at unit rms (nats)", times=1),
}
"""Effects of the penalty, seed by seed: a ratio above 1, or a difference above 0, is an increase."""


def gains(study: Study | Recorded, names: Sequence[str] = tuple(WITHOUT)) -> pd.DataFrame:
    """Return the effect of the penalty on each embedding: one value per seed, as text.

    Parameters
    ----------
    study
        Study with the runs of an embedding profile.
    names
        Penalised embeddings, keys of :data:`WITHOUT`.
    """
    rows: dict[str, dict[str, str]] = {}
    for name in names:
        rows[f"{name} / {WITHOUT[name]}"] = {
            gain.heading: MISSING if change is None else over_seeds(change)
            for key, gain in GAINS.items()
            for change in (_change(study.selected, key, name, gain),)
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("with / without")


def _change(selected: pd.DataFrame, key: str, name: str, gain: Gain) -> pd.Series | None:
    if key not in selected:
        return None
    values = selected.assign(value=pd.to_numeric(selected[key], errors="coerce"))
    by_seed = values.pivot_table(index="seed", columns="architecture", values="value", dropna=False)
    pair = by_seed.reindex(columns=[name, WITHOUT[name]])
    ours, base = pair[name], pair[WITHOUT[name]]
    if gain.times is not None:
        return (gain.times * (ours - base)).round(9)  # equal values differ by no more
    return base / ours if gain.inverse else ours / base


def entropy_table(study: Study | Recorded, names: Sequence[str]) -> pd.DataFrame:
    """Return the entropy per node: raw, at unit rms, by the 2025 release's convention, and by its correction.

    Parameters
    ----------
    study, names
        Arguments of :func:`table`.
    """
    columns = {
        "margins_entropy_node": Column("all points"),
        "margins_entropy_unit_rms_node": Column("all points, at unit rms"),
        "margins_entropy_released_node": Column("a fifth, ψ of all (2025 release)"),
        "margins_entropy_part_node": Column("a fifth, ψ of a fifth"),
    }
    found = table(study, names, columns)
    chosen = study.selected
    gap = "release's convention is too large by"
    found[gap] = MISSING
    if {"margins_entropy_released_node", "margins_entropy_part_node"} <= set(chosen):
        excess = chosen["margins_entropy_released_node"] - chosen["margins_entropy_part_node"]
        mean = pd.to_numeric(excess).groupby(chosen["architecture"]).mean()
        found[gap] = [number(float(mean.get(name, float("nan")))) for name in found.index]
    return found


def draw_schedules(axes: Sequence[Axes] | np.ndarray, schedules: Mapping[str, TrainSpec]) -> None:
    """Draw gamma, and the learning rate over that of the first epoch, against the share of training done.

    Parameters
    ----------
    axes
        Axes for gamma and for the learning rate.
    schedules
        Schedules by name. Gamma is drawn even if the penalty is not on the latent.
    """
    looks = [("#0072B2", "-"), ("#D55E00", "--"), ("#000000", ":"), ("#009E73", "-.")]
    for (name, train), (colour, line) in zip(schedules.items(), looks, strict=False):
        penalised = TrainSpec(**{**vars(train), "penalty": "squared_norm"})
        epochs = np.arange(train.epochs)
        weights = [gamma(int(epoch), penalised) for epoch in epochs]
        rates = [learning_rate(int(epoch), train) / train.learning_rate for epoch in epochs]
        for ax, values in zip(axes, (weights, rates), strict=True):
            ax.plot(epochs / train.epochs, values, line, color=colour, label=name, drawstyle="steps-post")
    axes[0].set(yscale="log", xlabel="share of training", ylabel="γ")
    axes[1].set(xlabel="share of training", ylabel="learning rate / first")
    for ax in axes:
        ax.grid(alpha=0.3)


def _reach(values: np.ndarray) -> list[list[float]]:
    """Return the distances of the smallest and the largest value from the mean, for error bars."""
    mean = np.nanmean(values)
    return [[float(mean - np.nanmin(values))], [float(np.nanmax(values) - mean)]]


def scatter(ax: Axes, study: Study | Recorded, x: str, y: str, names: Sequence[str]) -> Axes:
    """Draw one point per embedding, filled if it has the penalty: means over seeds, and bars for their range.

    Parameters
    ----------
    ax
        Axes to draw on.
    study
        Study with the runs of an embedding profile.
    x, y
        Columns of ``study.selected``; an embedding without both is left out.
    names
        Embeddings, in the order of the legend.
    """
    for name in names:
        own = study.selected[study.selected["architecture"] == name]
        if own.empty or x not in own or y not in own:
            continue
        across, up = (pd.to_numeric(own[key], errors="coerce").to_numpy(dtype=float) for key in (x, y))
        if not (np.isfinite(across).any() and np.isfinite(up).any()):
            continue
        look = LOOKS[name]
        ax.errorbar(
            np.nanmean(across),
            np.nanmean(up),
            xerr=_reach(across),
            yerr=_reach(up),
            fmt=look.marker,
            color=look.colour,
            markersize=8,
            markerfacecolor=look.colour if name in WITHOUT else "none",
            markeredgewidth=1.5,
            elinewidth=0.9,
            label=name,
        )
    ax.grid(alpha=0.3)
    return ax
