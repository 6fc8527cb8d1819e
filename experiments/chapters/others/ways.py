"""Names and looks of the ways to pull classes together, and the profiles with their recorded networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lpc.figures import Look


class Source(NamedTuple):
    """The profiles with a data set's recorded networks.

    Attributes
    ----------
    judged
        Profile whose seeds judge the claims.
    search
        Profile with one seed in which strengths were chosen.
    strengths
        Name of the strengths, a key of :data:`~experiments.studies.other_profiles.FROZEN_STRENGTHS`.
    new_classes
        Profile that leaves three classes out.
    """

    judged: str
    search: str
    strengths: str
    new_classes: str


SOURCES: Mapping[str, Source] = {
    "digits": Source("others", "others-strengths", "digits", "others-new-classes"),
    "MNIST subset": Source(
        "others-mnist", "others-mnist-strengths", "mnist_subset", "others-mnist-new-classes"
    ),
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
"""Names of the ways in words, in the order of tables."""
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
