"""The figure of a report: latents in a plane, distance to the second class mean, and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from lpc.arrays import group, group_means
from lpc.evaluation.calibration import reliability_diagram
from lpc.figures import class_plane
from lpc.reporting.points import Points

SHOWN = 3000
"""Largest number of drawn points."""


def draw(sets: Mapping[str, Points]) -> Figure:
    """Return the figure.

    Parameters
    ----------
    sets
        Points of a report by name; ``"train"`` is among them.
    """
    train, held = sets["train"], sets.get("test", sets["train"])
    logits = held.logits
    figure = Figure(figsize=(10.5 if logits is not None else 7, 3.3), layout="constrained")
    axes: Any = figure.subplots(1, 2 if logits is None else 3)
    mean = group_means(train.latent.double(), group(train.label))
    some = held.sample(SHOWN, 0)
    centre = mean.mean(dim=0)
    _, _, right = torch.linalg.svd(mean - centre, full_matrices=False)
    plane = (some.latent.double() - centre) @ right[:2].T
    if plane.shape[1] == 1:
        plane = torch.cat([plane, torch.zeros_like(plane)], dim=1)
    reach = 1.05 * float(plane.abs().max()) or 1.0
    class_plane(axes[0], plane.numpy(), some.label.numpy(), reach=reach, named=len(mean) <= 10)
    axes[0].set(title=f"{held.name}: directions of the class means", xlabel="latent units")
    near = torch.cdist(some.latent.double(), mean, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1)[0]
    if near.shape[1] > 1:
        ratio = (near[:, 0] / near[:, 1]).nan_to_num(1.0).numpy()
        axes[1].hist(ratio, bins=np.linspace(0, 1, 31).tolist(), color="#0072B2")
    axes[1].set(title="0: on a class mean, 1: between two", xlabel="nearest / second nearest mean")
    axes[1].set_ylabel("points")
    if logits is not None:
        shown = reliability_diagram(logits.double().softmax(dim=1), held.label)
        axes[2].plot([0, 1], [0, 1], color="#888888", linewidth=1)
        axes[2].plot(
            shown.confidence.cpu().numpy(), shown.accuracy.cpu().numpy(), "o-", color="#D55E00", markersize=4
        )
        axes[2].set(
            title=f"{held.name}: reliability", xlabel="confidence", ylabel="share of right predictions"
        )
        axes[2].set(xlim=(0, 1), ylim=(0, 1))
    for one in axes:
        one.title.set_fontsize(10)
    return figure
