"""Slips within the papers that arithmetic can show."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from experiments.reporting import paper
from lpc.evaluation.information import decoder_uncertainty
from lpc.specs import VARIANTS, latent_nodes

CLASSES = {"SVHN": 10, "CIFAR10": 10, "CIFAR100": 100}
FEATURES = {"SVHN": 512, "CIFAR10": 512, "CIFAR100": 2048}
"""Width of the features of ResNet-18 and ResNet-50, and so of a wide layer (LPC Appendix C)."""


def repeated_sds(metric: str = "sigma_w") -> pd.DataFrame:
    """Return the printed rows of a metric with exactly the sd of the row above, for the same data set.

    Returns
    -------
    DataFrame
        Columns ``dataset``, ``architecture``, ``mean``, ``std``, and ``above``, the architecture of the row
        above.
    """
    table = paper.reported()
    table = table[table["metric"] == metric]
    grouped = table.groupby("dataset", sort=False)
    same = (table["std"] == grouped["std"].shift()) & (table["std"] > 0)
    found = table.assign(above=grouped["architecture"].shift())[same]
    return found[["dataset", "architecture", "mean", "std", "above"]].reset_index(drop=True)


def marked(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that has the paper's Σ_W with ``[sic]`` after each impossible printed sd.

    The sd of five numbers that are not negative is at most the square root of five times their mean.

    Parameters
    ----------
    table
        Table from :func:`experiments.reporting.tables.beside_paper`: the paper's columns are (heading, data
        set).
    """
    shown = table.copy()
    places = {name[1]: name for name in table.columns if name[1] in paper.DATASETS}
    for row in repeated_sds().to_dict("records"):
        if row["std"] > 5**0.5 * row["mean"] and row["architecture"] in shown.index:
            shown.loc[row["architecture"], [places[row["dataset"]]]] += " [sic]"
    return shown


def dimensions() -> pd.DataFrame:
    """Return what two of the paper's remarks on width mean for its penalised layers.

    Returns
    -------
    DataFrame
        Columns ``dataset``, ``architecture``, ``nodes`` P, ``classes`` K; ``below_frame``: P < K - 1
        (Appendix D: "always met"); ``least``: the nodes that a binary code needs, ``ceil(log2 K)`` (Section
        3: NarrowIB has "the lowest possible dimensionality").
    """
    rows = []
    for dataset, classes in CLASSES.items():
        for name in ("IB", "WideIB", "NarrowIB"):
            nodes = latent_nodes(VARIANTS[name], dataset.lower()) or FEATURES[dataset]
            rows.append(
                {
                    "dataset": dataset,
                    "architecture": name,
                    "nodes": nodes,
                    "classes": classes,
                    "below_frame": nodes < classes - 1,
                    "least": math.ceil(math.log2(classes)),
                }
            )
    return pd.DataFrame(rows)


def cross_entropies(*, points: int = 12, categories: int = 4, classes: int = 3, seed: int = 0) -> pd.Series:
    """Return H(y|z) of a random categorical z, and Eq. 21's cross-entropy for three decoders, in nats.

    The decoders are the true p(y|z), a softmax of random logits, and a uniform one. For the last two, the
    cross-entropy exceeds H(y|z) by the mean Kullback-Leibler divergence from the true p(y|z).

    Parameters
    ----------
    points, categories, classes
        Numbers of values of x, z and y.
    seed
        Seed of the encoder and the random decoder.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(points, categories, generator=generator, dtype=torch.float64).mul(3).softmax(1)
    label = torch.arange(points) % classes
    joint = torch.stack([encoder[label == value].sum(dim=0) for value in range(classes)], dim=1) / points
    decoders = {
        "true p(y|z)": joint / joint.sum(dim=1, keepdim=True),
        "random softmax": torch.randn(categories, classes, generator=generator, dtype=torch.float64).softmax(
            1
        ),
        "uniform": torch.full((categories, classes), 1 / classes, dtype=torch.float64),
    }
    values = {name: -float((joint * decoder.log()).sum()) for name, decoder in decoders.items()}
    return pd.Series({"H(y|z)": decoder_uncertainty(encoder, label), **values})


class Identity(NamedTuple):
    """Both sides of Kirsch et al.'s Eq. 10, in nats: as printed, and conditioned on Y."""

    left: float
    printed: float
    corrected: float


def equation_10(*, seed: int = 0) -> Identity:
    """Evaluate H[X|Y] = H[X|Y,Z] + I[X;Z] and the same with I[X;Z|Y] on a random joint distribution.

    Parameters
    ----------
    seed
        Seed of a joint distribution of X, Y and Z in which Y - X - Z is a Markov chain, as in the paper.
    """
    rng = np.random.default_rng(seed)
    x, y, z = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(3), 6), rng.dirichlet(np.ones(4), 6)
    joint = torch.from_numpy(x[:, None, None] * y[:, :, None] * z[:, None, :])

    def entropy(*kept: int) -> float:
        summed = [axis for axis in range(3) if axis not in kept]
        return _entropy(joint.sum(dim=summed) if summed else joint)

    given_both = entropy(0, 1, 2) - entropy(1, 2)
    return Identity(
        left=entropy(0, 1) - entropy(1),
        printed=given_both + entropy(0) + entropy(2) - entropy(0, 2),
        corrected=given_both + entropy(0, 1) + entropy(1, 2) - entropy(0, 1, 2) - entropy(1),
    )


def _entropy(probability: Float64[Tensor, ...]) -> float:
    return -float(torch.special.xlogy(probability, probability).sum())
