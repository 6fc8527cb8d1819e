"""What noise on the latent does to collapse, and latent point collapse trained with noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from scipy.optimize import brentq

from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.bottleneck_summaries import KEPT
from experiments.studies.bottlenecks import MEETING
from experiments.studies.bottlenecks import study as bottleneck_study
from experiments.studies.study import Study
from lpc.arrays import Array, as_points, centre
from lpc.evaluation.quantities import gaussian_quantities
from lpc.figures import LOOKS, Look

LOSS_OF_LABEL = 0.1
"""Decoder uncertainty, in nats, up to which a latent counts as keeping the label, as in the ledger."""
DRAWN_AT = 2048
"""Largest number of latents at which noise is drawn; time is proportional to it times all latents."""
_QUANTITIES: Mapping[str, tuple[str, Look]] = {
    "preserved_information": ("I[X;Z]", Look("#0072B2", "-", "o")),
    "redundant_information": ("I[X;Z|Y]", Look("#CC79A7", "--", "s")),
    "decoder_uncertainty": ("H[Y|Z]", Look("#D55E00", "-.", "^")),
}
_FREE, _MEAN = Look("#000000", "--", "D"), Look("#E69F00", ":", "s")


def drawn_at(total: int) -> int | None:
    """Return at how many of a number of latents noise is drawn; None: at all of them."""
    return None if total <= DRAWN_AT else DRAWN_AT


def through_noise(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    noises: Sequence[float],
    generator: torch.Generator,
) -> pd.DataFrame:
    r"""Return the quantities of latents with Gaussian noise, by the noise's relative size.

    Parameters
    ----------
    latent, label
        Latents and labels. If there are more than :data:`DRAWN_AT` points, noise is drawn at only this many,
        but all of them make up the density.
    noises
        Standard deviations of the noise at a node, divided by the latents' spread (the square root of their
        total variance).
    generator
        Generator of the noise and of the points.

    Returns
    -------
    DataFrame
        One row per noise: ``noise`` and the fields of :class:`lpc.evaluation.quantities.Quantities`, in nats.

    Notes
    -----
    A shift, a factor, a rotation or additional nodes that are always zero change no mutual information, so
    latents of any width can be compared. At noise s, all of them have
    :math:`I[X;Z] \le \min(\ln N, 1/2s^2)`.
    """
    points = centre(as_points(latent))
    spread = points.square().sum(dim=1).mean().sqrt()
    if float(spread) == 0.0:
        raise ValueError("all latents coincide: noise has no size relative to their spread")
    rows, some = [], drawn_at(len(points))
    for noise in noises:
        found = gaussian_quantities(
            points / spread, label, variance=noise**2, generator=generator, points=some
        )
        rows.append({"noise": noise, **found.quantities._asdict()})
    return pd.DataFrame(rows)


def noise_curves(
    runs: Study, architectures: Sequence[str], *, noises: Sequence[float], seed: int = 0
) -> pd.DataFrame:
    """Return :func:`through_noise` for the latents of all seeds, with ``architecture`` and ``seed``."""
    parts = []
    for row in runs.selected[runs.selected["architecture"].isin(architectures)].itertuples():
        latents = runs.latents(str(row.architecture), int(row.seed))  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        curve = through_noise(latents.latent, latents.label, noises=noises, generator=generator)
        parts.append(curve.assign(architecture=row.architecture, seed=row.seed))
    return pd.concat(parts, ignore_index=True)


class LossOfLabel(NamedTuple):
    """The noise at which the uncertainty about the label reaches a given level, and the information left.

    Attributes
    ----------
    noise
        Standard deviation at a node, divided by the latents' spread; NaN if even a thousandth of the spread
        is too much.
    redundant_information
        I[X;Z|Y] at this noise, in nats: the information that is carried beyond the label.
    """

    noise: float
    redundant_information: float


def loss_of_label(
    latent: Float[Array, "points width"],
    label: Integer[Array, " points"],
    *,
    allowed: float = LOSS_OF_LABEL,
    seed: int = 0,
) -> LossOfLabel:
    """Return the relative noise at which H[Y|Z] reaches a level, to 1 %, and the information left there.

    Parameters
    ----------
    latent, label
        Latents and labels.
    allowed
        Decoder uncertainty in nats, above 0 and below half the label's entropy. It is reached before the
        noise is ten times the spread, where I[X;Z] is at most 1/200.
    seed
        Seed of the noise; all sizes of noise use the same draws, so that the uncertainty varies smoothly.

    Raises
    ------
    ValueError
        If the level is out of range, or :func:`through_noise` refuses the input.
    """

    def at(log_noise: float) -> pd.Series:
        generator = torch.Generator().manual_seed(seed)
        return through_noise(latent, label, noises=[math.exp(log_noise)], generator=generator).iloc[0]

    smallest, bounds = at(math.log(1e-3)), (math.log(1e-3), math.log(10))
    if not 0 < allowed < 0.5 * smallest["label_entropy"]:
        raise ValueError(
            f"allowed is {allowed}; expected above 0 and below half of H[Y] = {smallest['label_entropy']}"
        )
    if smallest["decoder_uncertainty"] > allowed:
        return LossOfLabel(math.nan, math.nan)
    found = brentq(lambda x: float(at(x)["decoder_uncertainty"]) - allowed, *bounds, xtol=1e-2)
    return LossOfLabel(math.exp(found), float(at(found)["redundant_information"]))


def with_noise(name: str, *, seeds: int | None = None, store: str | Path = "runs") -> Study | None:
    """Return a profile's runs of latent point collapse with noise, or None if it declares none."""
    if name not in BOTTLENECK_PROFILES or not BOTTLENECK_PROFILES[name].meeting:
        return None
    only = [f"{architecture}-noise" for architecture in MEETING]
    return bottleneck_study(name, seeds=seeds, store=store, only=only)


def along_gamma(history: pd.DataFrame, *, width: int) -> pd.DataFrame:
    """Return the last recorded epoch of each gamma, for each run, with ``norm``, the rms norm of a latent."""
    rows = history[history["rms"].notna()].sort_values(["architecture", "seed", "epoch"])
    rows = rows.drop_duplicates(["architecture", "seed", "gamma"], keep="last")
    return rows.assign(norm=pd.to_numeric(rows["rms"]) * math.sqrt(width)).reset_index(drop=True)


def gamma_below(rows: pd.DataFrame, column: str, level: float) -> float:
    """Return the gamma at which one run's values fall below a level, interpolating logarithms.

    The result is NaN if they are below it from the beginning, or never.
    """
    rows = rows.sort_values("gamma")
    value, gamma = np.log(rows[column].to_numpy(dtype=float)), np.log(rows["gamma"].to_numpy(dtype=float))
    below = value < math.log(level)
    if not below.any() or below[0]:
        return math.nan
    last = int(below.argmax())
    share = (value[last - 1] - math.log(level)) / (value[last - 1] - value[last])
    return float(np.exp(gamma[last - 1] + share * (gamma[last] - gamma[last - 1])))


def milestones(rows: pd.DataFrame) -> pd.DataFrame:
    """Return three recorded epochs of every run with noise: the last with label, with accuracy, and the end.

    Parameters
    ----------
    rows
        Table from :func:`along_gamma`, with ``decoder_uncertainty`` and ``noisy_test_accuracy``.

    Returns
    -------
    DataFrame
        Rows with ``milestone``: ``label kept`` (the last epoch with a decoder uncertainty up to
        :data:`LOSS_OF_LABEL`), ``accuracy kept`` (the last with 90 % of the best test accuracy), ``end``.
    """
    found = []
    for _, run in rows.groupby(["architecture", "seed"], sort=False):
        accuracy = run["noisy_test_accuracy"]
        for name, chosen in {
            "label kept": run[run["decoder_uncertainty"] <= LOSS_OF_LABEL],
            "accuracy kept": run[accuracy >= KEPT * accuracy.max()],
            "end": run,
        }.items():
            found.append(chosen.sort_values("epoch").tail(1).assign(milestone=name))
    return pd.concat(found, ignore_index=True)


def draw_noise_curves(ax: Axes, curves: pd.DataFrame, quantity: str, *, against: str = "noise") -> Axes:
    """Draw one quantity against the noise or against another quantity, one line per run.

    Parameters
    ----------
    ax
        Axes to draw on.
    curves
        Table from :func:`noise_curves`.
    quantity, against
        Columns; the caller sets the axes' labels and scales.
    """
    for architecture in dict.fromkeys(curves["architecture"]):
        own, look = curves[curves["architecture"] == architecture], LOOKS[str(architecture)]
        for place, (_, run) in enumerate(own.groupby("seed")):
            run = run.sort_values("noise")
            name = None if place else str(architecture)
            ax.plot(run[against], run[quantity], look.line, color=look.colour, linewidth=1.2, label=name)
    ax.grid(alpha=0.3)
    return ax


def draw_along_gamma(ax: Axes, rows: pd.DataFrame, column: str, *, look: Look, label: str) -> Axes:
    """Draw a column of :func:`along_gamma`: mean over seeds, and a band from the smallest to the largest."""
    there = rows[rows[column].notna()]
    grouped = there.groupby("gamma")[column].agg(["mean", "min", "max"])
    gamma = grouped.index.to_numpy()
    ax.plot(
        gamma, grouped["mean"], look.line, color=look.colour, marker=look.marker, markersize=4, label=label
    )
    ax.fill_between(gamma, grouped["min"], grouped["max"], color=look.colour, alpha=0.15, linewidth=0)
    ax.set_xscale("log")
    ax.grid(alpha=0.3)
    return ax


def draw_training(
    grid: np.ndarray, noisy: pd.DataFrame, free: pd.DataFrame, simplex: pd.DataFrame, *, sd: float
) -> None:
    """Draw runs with noise against gamma, beside noise-free ones and the best simplex, in four panels.

    Parameters
    ----------
    grid
        Axes, shape (2, 2): mutual informations in nats, norm of a latent, accuracies, trace ratio.
    noisy, free
        Tables from :func:`along_gamma`.
    simplex
        Table from :func:`experiments.chapters.meeting.scale_and_shape.noisy_simplex`, drawn in grey.
    sd
        Standard deviation of the noise in latent units, drawn as a dotted line.
    """
    (information, size), (accuracy, ratio) = grid
    curve = simplex[simplex["gamma"] >= noisy["gamma"].min()]
    information.plot(curve["gamma"], curve["decoder_uncertainty"], color="grey", alpha=0.5, linewidth=3)
    size.plot(curve["gamma"], curve["norm"], color="grey", alpha=0.5, linewidth=3, label="best simplex")
    size.axhline(sd, color="black", linestyle=":", linewidth=0.9)
    for column, (label, look) in _QUANTITIES.items():
        draw_along_gamma(information, noisy, column, look=look, label=label)
    for ax, column in ((size, "norm"), (ratio, "trace_ratio")):
        draw_along_gamma(ax, free, column, look=_FREE, label="IB, noise-free")
        draw_along_gamma(ax, noisy, column, look=LOOKS["IB"], label="IB with noise")
        ax.set_yscale("log")
    draw_along_gamma(accuracy, noisy, "noisy_test_accuracy", look=LOOKS["IB"], label="test, with noise")
    draw_along_gamma(accuracy, noisy, "nearest_mean_accuracy", look=_MEAN, label="train, nearest mean")
    labels = ("nats", "rms norm of a latent", "accuracy", "tr Σ_W / tr Σ_B")
    for ax, label in zip(grid.flat, labels, strict=True):
        ax.set(xlabel="γ", ylabel=label)
        ax.legend(fontsize="small")
