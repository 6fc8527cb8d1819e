"""Where a shrinking latent ends in floating point: what each format does to it and to its decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int
from matplotlib.axes import Axes
from torch import Tensor

from lpc.data import Splits
from lpc.heads import CategoricalHead, Classifier
from lpc.latents import collect

FORMATS: Mapping[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
UNHARMED = 0.01
"""How much more error than at the largest sd makes a latent count as harmed."""


class Limits(NamedTuple):
    """Limits of a floating-point format: its largest, smallest normal and smallest subnormal number."""

    largest: float
    normal: float
    subnormal: float


def limits(dtype: torch.dtype) -> Limits:
    """Return the limits of a format."""
    info = torch.finfo(dtype)
    return Limits(info.max, info.smallest_normal, info.smallest_normal * info.eps)


class Readout(NamedTuple):
    """Latents scaled to mean 0 and sd 1 at each node of the train set, and the decoder that matches.

    Attributes
    ----------
    latent, label
        Latents and labels of the test set.
    train_latent, train_label
        Latents and labels of the train set.
    weight, bias
        Weight and bias of the decoder.
    """

    latent: Float64[Tensor, "points width"]
    label: Int[Tensor, " points"]
    train_latent: Float64[Tensor, "train_points width"]
    train_label: Int[Tensor, " train_points"]
    weight: Float64[Tensor, "classes width"]
    bias: Float64[Tensor, " classes"]


@torch.no_grad()
def unit_readout(classifier: Classifier, splits: Splits) -> Readout:
    """Return a classifier's latents, scaled to sd 1, and its decoder, adapted to match, in float64.

    Raises
    ------
    ValueError
        If the latent is categorical and so has no scale.
    """
    if isinstance(classifier.head, CategoricalHead):
        raise ValueError("the classifier's latent is categorical: it has no scale; expected a continuous one")
    train, test = collect(classifier, splits.train), collect(classifier, splits.test)
    mean, sd = train.latent.double().mean(dim=0), train.latent.double().std(dim=0)
    decoder = classifier.head.classifier
    weight, bias = decoder.weight.double(), decoder.bias.double() + decoder.weight.double() @ mean
    at_test, at_train = ((one.latent.double() - mean) / sd for one in (test, train))
    return Readout(at_test, test.label, at_train, train.label, weight * sd, bias)


def _times(value: Tensor, log10_factor: float) -> Tensor:
    """Return a tensor times a power of ten that may itself lie beyond float64."""
    half = log10_factor / 2
    return value * 10.0**half * 10.0**half


def error_in_format(
    readout: Readout, *, log10_sd: float, dtype: torch.dtype, exact_decoder: bool = False
) -> float:
    """Return the test error if a latent of the given sd is stored in a floating-point format.

    Parameters
    ----------
    readout
        Latents at sd 1 and their decoder.
    log10_sd
        Logarithm (base 10) of the sd to which the latents are scaled.
    dtype
        Format to which the latents, and the decoder divided by the sd, are rounded. Products are summed in
        float64 and the logits rounded, so that the error is due to storage alone, on any machine.
    exact_decoder
        Whether to round only the latents, which are then scaled back to sd 1 and decoded in float64.

    Returns
    -------
    float
        Share of test images whose class is wrong, or whose logits are not all finite.
    """
    stored = _times(readout.latent, log10_sd).to(dtype).double()
    if exact_decoder:
        logits = _times(stored, -log10_sd) @ readout.weight.T + readout.bias
    else:
        weight = _times(readout.weight, -log10_sd).to(dtype).double()
        logits = (stored @ weight.T + readout.bias.to(dtype).double()).to(dtype).double()
    right = (logits.argmax(dim=1) == readout.label) & logits.isfinite().all(dim=1)
    return 1 - float(right.double().mean())


def errors_in_formats(readout: Readout, *, a_decade: int = 4) -> pd.DataFrame:
    """Return test errors around the end of every format's range, at several sds per decade.

    Returns
    -------
    DataFrame
        Columns ``format``, ``log10_sd``, ``stored`` (latents and decoder in the format) and ``latent`` (only
        the latents).
    """
    rows = []
    for name, dtype in FORMATS.items():
        of = limits(dtype)
        last, first = math.floor(math.log10(of.subnormal)) - 2, math.ceil(math.log10(of.normal)) + 3
        for log10_sd in np.linspace(first, last, (first - last) * a_decade + 1).tolist():
            at = {"log10_sd": log10_sd, "dtype": dtype}
            stored, latent = (error_in_format(readout, **at, exact_decoder=exact) for exact in (False, True))
            rows.append({"format": name, "log10_sd": log10_sd, "stored": stored, "latent": latent})
    return pd.DataFrame(rows)


def ends(errors: pd.DataFrame, readout: Readout) -> pd.DataFrame:
    """Return, for every format, log10 of the smallest sds that should be and that are harmless.

    Returns
    -------
    DataFrame
        One row per format. Columns ``decoder_predicted``, where the decoder's largest weight is the format's
        largest number; ``decoder_measured``; ``latent_predicted``, the smallest subnormal number;
        ``latent_measured``. Measured values are the smallest sds down to which no error is more than a point
        above that at the largest sd.
    """
    rows = {}
    for name, own in errors.sort_values("log10_sd", ascending=False).groupby("format", sort=False):
        of = limits(FORMATS[str(name)])
        found = {}
        for column in ("stored", "latent"):
            harmed = (own[column] > own[column].iloc[0] + UNHARMED).to_numpy()
            until = int(harmed.argmax()) if harmed.any() else len(own)
            found[column] = float(own["log10_sd"].iloc[until - 1])
        rows[name] = {
            "decoder_predicted": math.log10(float(readout.weight.abs().max())) - math.log10(of.largest),
            "decoder_measured": found["stored"],
            "latent_predicted": math.log10(of.subnormal),
            "latent_measured": found["latent"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("format")


def draw_ends(ax: Axes, errors: pd.DataFrame, end: pd.Series) -> Axes:
    """Draw one format's errors against the sd, with its predicted ends.

    Parameters
    ----------
    ax
        Axes to draw on.
    errors
        Rows of one format from :func:`errors_in_formats`.
    end
        Row of the format from :func:`ends`.
    """
    name = str(errors["format"].iloc[0])
    of = limits(FORMATS[name])
    ax.axvspan(math.log10(of.subnormal), math.log10(of.normal), color="#56B4E9", alpha=0.25, linewidth=0)
    ax.axvline(end["decoder_predicted"], color="#D55E00", linestyle=":", linewidth=1.2)
    ax.plot(errors["log10_sd"], errors["stored"], "-", color="#D55E00", label="latent and decoder")
    ax.plot(errors["log10_sd"], errors["latent"], "--", color="#000000", label="latent alone")
    ax.set(title=name, ylim=(-0.05, 1.05))
    ax.invert_xaxis()
    ax.grid(alpha=0.3)
    return ax
