"""Decoder uncertainty: Figure 3's curves and tables, the bounds of Section 5, and forces on held points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from experiments.chapters.decoder_uncertainty.networks import Encoded, shared_classes
from experiments.reporting.tables import MISSING, number
from experiments.studies.bottlenecks import OBJECTIVES
from lpc.errors import unknown_name
from lpc.figures import Look
from lpc.objectives import decoder_cross_entropy, prediction_cross_entropy

LOOKS: Mapping[str, Look] = {
    "uncertainty": Look("#009E73", "-", "o"),
    "decoder": Look("#0072B2", "--", "s"),
    "prediction": Look("#D55E00", "-.", "^"),
}
"""Looks of the minimised and measured quantities, by the names of the objectives."""
METRICS: Mapping[str, str] = {
    "uncertainty": "decoder_uncertainty",
    "decoder": "decoder_cross_entropy",
    "prediction": "prediction_cross_entropy",
}
"""Columns of the three quantities, by the name of the objective that minimises it."""
SYMBOLS: Mapping[str, str] = {
    "uncertainty": "$H[Y|Z]$",
    "decoder": r"$H_\Theta[Y|Z]$",
    "prediction": r"$H_\Theta[Y|X]$",
}
PLACES: Mapping[str, str] = {"permuted": "permuted pixels", "images": "images"}
"""Inputs of Figure 3's encoders, by the first part of a run's name."""
ROUNDING = 1e-6
"""Largest violation of an inequality that rounding can explain: p(z | x) is stored in float32."""


def settings() -> list[str]:
    """Return the names of Figure 3's runs: the encoder's input, then the minimised quantity."""
    return [f"{place}-{objective}" for place in PLACES for objective in OBJECTIVES]


def heading(name: str) -> str:
    """Return a setting's name as tables show it."""
    place, _, objective = name.partition("-")
    if place not in PLACES or objective not in METRICS:
        raise unknown_name("setting of Figure 3", name, settings())
    minimised = METRICS[objective].replace("cross_", "cross-").replace("_", " ")
    return f"{PLACES[place]}, {minimised}"


def draw_trials(ax: Axes, history: pd.DataFrame, name: str) -> None:
    """Draw the three quantities of a setting over epochs: the median over trials, and a band of quartiles.

    Parameters
    ----------
    ax
        Axes to draw on; the y axis becomes logarithmic.
    history
        Table with one row per run and recorded epoch: ``architecture``, ``epoch`` and the columns of
        :data:`METRICS`.
    name
        Name of the setting.
    """
    rows = history[history["architecture"] == name]
    if rows.empty:
        raise unknown_name("setting with recorded epochs", name, history["architecture"].unique())
    for objective, column in METRICS.items():
        grouped = rows.groupby("epoch")[column]
        low, middle, high = (grouped.quantile(level) for level in (0.25, 0.5, 0.75))
        look, epochs = LOOKS[objective], middle.index.to_numpy()
        every = max(1, len(epochs) // 6)
        style = {"color": look.colour, "marker": look.marker, "markersize": 4, "markevery": every}
        ax.plot(epochs, middle, look.line, label=SYMBOLS[objective], **style)
        ax.fill_between(epochs, low, high, color=look.colour, alpha=0.15, linewidth=0)
    ax.set_yscale("log")
    ax.grid(alpha=0.3)


def kinds(history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of runs with a categorical latent, and of those with a noisy one.

    The information of a noisy latent is an estimate with a standard error; that of a categorical one is
    exact and has none.
    """
    measured = history[history["decoder_uncertainty"].notna()]
    noisy = measured["decoder_uncertainty_error"].notna()
    return {"categorical": measured[~noisy], "with noise": measured[noisy]}


def inequality_checks(history: pd.DataFrame) -> pd.DataFrame:
    """Check the inequalities of Section 5 on every row; return one row per statement and kind of latent.

    Parameters
    ----------
    history
        Table with one row per run and recorded epoch, for all runs.

    Returns
    -------
    DataFrame
        Columns ``statement``, ``latent``, ``runs``, ``checks``, ``least`` (the smallest value of the right
        side minus the left) and ``fails``, the number of rows where that is below minus :data:`ROUNDING`.

    References
    ----------
    Kirsch et al. 2020, Eqs. 4 and 5, Observation 3.
    """
    rows = []
    for latent, found in kinds(history).items():
        decoder, prediction = found["decoder_cross_entropy"], found["prediction_cross_entropy"]
        accuracy = found["accuracy"] if latent == "categorical" else found["noisy_accuracy"]
        of_decoder, of_prediction = 1 - np.exp(-decoder), 1 - np.exp(-prediction)
        slack = {
            "Eq. 4: H_Θ[Y|X] ≤ H_Θ[Y|Z]": decoder - prediction,
            "Eq. 5: H[Y|Z] ≤ H_Θ[Y|Z]": decoder - found["decoder_uncertainty"],
            "Obs. 3: P(drawn class wrong) ≤ 1 - exp(-H_Θ[Y|Z])": of_decoder - found["stochastic_error"],
            "footnote 11: the same ≤ 1 - exp(-H_Θ[Y|X])": of_prediction - found["stochastic_error"],
            "P(likeliest class wrong) ≤ 1 - exp(-H_Θ[Y|Z])": of_decoder - (1 - accuracy),
            "P(likeliest class wrong) ≤ H_Θ[Y|X] / ln 2": prediction / math.log(2) - (1 - accuracy),
        }
        for statement, value in slack.items():
            rows.append(
                {
                    "statement": statement,
                    "latent": latent,
                    "runs": found["key"].nunique(),
                    "checks": int(value.notna().sum()),
                    "least": float(value.min()),
                    "fails": int((value < -ROUNDING).sum()),
                }
            )
    return pd.DataFrame(rows)


def draw_error_bound(ax: Axes, history: pd.DataFrame) -> None:
    """Draw the probability that a drawn class is wrong against its bound, one point per run and epoch.

    Parameters
    ----------
    ax
        Axes to draw on.
    history
        Table with one row per run and recorded epoch, as in :func:`inequality_checks`.
    """
    parts = kinds(history)
    noisy = parts["with noise"]
    style = {"color": "#888888", "markersize": 3, "label": "noisy latents", "rasterized": True}
    ax.plot(1 - np.exp(-noisy["decoder_cross_entropy"]), noisy["stochastic_error"], "x", **style)
    categorical = parts["categorical"]
    for name in [one for one in settings() if (categorical["architecture"] == one).any()]:
        own = categorical[categorical["architecture"] == name]
        place, _, objective = name.partition("-")
        look = LOOKS[objective]
        fill = look.colour if place == "images" else "none"
        style = {"color": look.colour, "markerfacecolor": fill, "markersize": 4, "label": heading(name)}
        ax.plot(1 - np.exp(-own["decoder_cross_entropy"]), own["stochastic_error"], look.marker, **style)
    ax.plot([0, 1], [0, 1], color="black", linewidth=1, label="equal")
    ax.set(xlabel=r"$1 - \exp(-H_\Theta[Y|Z])$", ylabel="probability of a wrong class")
    ax.grid(alpha=0.3)


def median_quartiles(values: Sequence[float] | pd.Series, *, digits: int = 3) -> str:
    """Return ``median (lower quartile to upper)`` of the values that are not missing."""
    there = pd.to_numeric(pd.Series(values), errors="coerce").dropna()
    if there.empty:
        return MISSING
    low, middle, high = (number(float(there.quantile(q)), digits) for q in (0.25, 0.5, 0.75))
    return f"{middle} ({low} to {high})"


def results(frame: pd.DataFrame, columns: Mapping[str, str], *, digits: int = 3) -> pd.DataFrame:
    """Return, as text, medians and quartiles of some columns over finished trials, one row per setting.

    Parameters
    ----------
    frame
        Table with one row per run.
    columns
        Headings by column.
    digits
        Significant digits.
    """
    finished = frame[frame["status"] == "finished"]
    rows = {}
    for name in settings():
        own = finished[finished["architecture"] == name]
        shown = {title: median_quartiles(own[column], digits=digits) for column, title in columns.items()}
        rows[heading(name)] = {"trials": str(len(own)), **shown}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("seen, minimised")


class HeldPoints(NamedTuple):
    """Points of classes that share a category, and the forces that could still move them.

    Attributes
    ----------
    share
        Share of all points.
    loss
        Mean loss of these points in nats.
    outside
        Median probability of any category except the point's likeliest.
    slope
        Median length of the gradient of a point's loss with respect to the encoder's scores, in nats per unit
        of score.
    """

    share: float
    loss: float
    outside: float
    slope: float


def held_points(one: Encoded, *, objective: str) -> HeldPoints | None:
    """Return the forces on points of classes that share a category; None if no classes do.

    Parameters
    ----------
    one
        Train set of a run, with its latents.
    objective
        Name of the loss, a key of :data:`METRICS`. The decoder uncertainty has the decoder cross-entropy's
        gradient, because its decoder is the optimal one (Appendix A.3).
    """
    if objective not in METRICS:
        raise unknown_name("objective", objective, METRICS)
    groups = shared_classes(one.weight, one.label)
    held = torch.isin(
        one.label, torch.tensor([value for group in groups for value in group], dtype=torch.int64)
    )
    if not bool(held.any()):
        return None
    scores = one.weight[held].clamp(min=torch.finfo(torch.float32).tiny).log().requires_grad_()
    weight, label = scores.softmax(dim=1), one.label[held]
    loss = prediction_cross_entropy if objective == "prediction" else decoder_cross_entropy
    mean = loss(weight, one.log_decoder[None], label)
    slope = torch.autograd.grad(mean * len(label), scores)[0].norm(dim=1)
    outside = 1 - weight.detach().max(dim=1).values
    return HeldPoints(
        float(held.double().mean()),
        float(mean.detach()),
        float(outside.quantile(0.5)),
        float(slope.quantile(0.5)),
    )
