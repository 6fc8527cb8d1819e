"""Negative and positive controls of binarity: what its measures give on points of known shape."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from lpc.computing.sampling import random_turn
from lpc.evaluation.binarity import binarity, hypercube

TIGHTNESS = 0.05
"""The sd within a class, in controls with classes, whose class means have rms 1."""


def control_points(
    *, points: int, width: int, classes: int, seed: int
) -> dict[str, tuple[Float64[Tensor, "points width"], Integer[Tensor, " points"]]]:
    """Return, by name, sets of points that are not binary, and one that is.

    Parameters
    ----------
    points, width
        Shape of each set.
    classes
        Number of classes, which are assigned to points in turn and so are balanced.
    seed
        Seed of all draws.

    Returns
    -------
    dict
        Sets as (points, label) by name. The first two have no classes, so their labels mean nothing. The
        simplex is regular and randomly oriented; if it needs more than ``width`` dimensions, it is projected.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    label = torch.arange(points) % classes
    noise = TIGHTNESS * normal(points, width)
    size = max(classes, width)
    turned = torch.linalg.qr(normal(size, size)).Q[:classes, :width]
    simplex = turned - turned.mean(dim=0)
    simplex = simplex / simplex.square().mean().sqrt()
    uniform = torch.rand(points, width, generator=generator, dtype=torch.float64)
    return {
        "one Gaussian per node": (normal(points, width), label),
        "uniform between -1 and 1": (2 * uniform - 1, label),
        f"{classes} tight classes at random places": (normal(classes, width)[label] + noise, label),
        f"{classes} tight classes on a simplex": (simplex[label] + noise, label),
        f"{classes} tight classes on a cube": (normal(classes, width).sign()[label] + noise, label),
    }


def control_table(*, points: int, width: int, classes: int, seed: int) -> pd.DataFrame:
    """Return the measures of binarity for :func:`control_points`, one row per set.

    Returns
    -------
    DataFrame
        Columns ``mu``; ``sigma`` over rms; ``log_likelihood`` at unit rms; ``spread`` and ``patterns`` of the
        class means, missing if there are no classes.
    """
    rows = {}
    for name, (latent, label) in control_points(
        points=points, width=width, classes=classes, seed=seed
    ).items():
        found, rms = binarity(latent), float(latent.square().mean().sqrt())
        grouped = "classes" in name
        cube = hypercube(latent, label) if grouped else None
        rows[name] = {
            "mu": found.mu,
            "sigma": found.sigma / rms,
            "log_likelihood": found.log_likelihood + math.log(rms),
            "spread": cube.mean_variation if cube else math.nan,
            "patterns": cube.patterns if cube else math.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def distinct_patterns(*, classes: int, width: int) -> float:
    """Return the expected number of distinct patterns among ``classes`` random signs of ``width`` nodes."""
    return 2.0**width * -math.expm1(classes * math.log1p(-(2.0**-width)))


def rotated_spread(
    latent: Float[Tensor, "points width"], label: Integer[Tensor, " points"], *, rotations: int, seed: int
) -> Float64[np.ndarray, " rotations"]:
    """Return the cube spread after random rotations of the latents, which leave the network's loss unchanged.

    Parameters
    ----------
    latent, label
        Latents and labels of a trained network.
    rotations
        Number of orthogonal matrices, drawn uniformly (Haar).
    seed
        Seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = label.unique()
    means = torch.stack([latent[label == value].double().mean(dim=0) for value in classes])
    width = means.shape[1]
    found = []
    for _ in range(rotations):
        turn = random_turn(width, generator)
        found.append(hypercube(means @ turn, torch.arange(len(classes))).mean_variation)
    return np.array(found)
