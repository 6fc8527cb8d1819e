"""The picture of the first page and of the README: a run's latents stage by stage while gamma grows.

To make the README's::

    .venv/bin/python -c "from experiments.chapters.index import write_picture; write_picture()"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.chapters.explore.frames import Frames, plane, rms, trained_again
from experiments.paths import PICTURE
from experiments.reporting.tables import number
from experiments.studies.ablation import study
from lpc import figures

STAGES: Mapping[str, int] = {"growing": 2, "after": 1}
"""Stages on the first page: gamma's first value, its last, and the end; the control is drawn beside them."""
SIZE = (6.2, 3.7)
"""Size of the first page's picture, in inches: still readable when scaled to a telephone's width."""
LONG_STAGES: Mapping[str, int] = {"growing": 4, "after": 1}
"""Stages of the README's picture."""
LONG_SIZE = (9.0, 4.2)
"""Size of the README's picture, in inches."""


def draw(fig: Figure, frames: Frames) -> None:
    """Draw the first network stage by stage and, beside it as the control, the last stage of the second.

    Each network is drawn in the plane of its own last class means
    (:func:`~experiments.chapters.explore.frames.plane`). The upper row is at true scale, one for all stages
    of the first network and another for the control; in the lower row, each panel is divided by its own rms.
    Points are rasterised.

    Parameters
    ----------
    fig
        Figure to draw on, of about :data:`SIZE` or :data:`LONG_SIZE`.
    frames
        Frames of the two networks.
    """
    stages = len(frames.epochs)
    label, shape = frames.label, frames.gamma.shape
    ratio = frames.table()["trace_ratio"].to_numpy().reshape(shape)
    flat = [own[-1] for own in frames.latent]
    directions = [plane(last, label) for last in flat]
    panels = [(0, step) for step in range(stages)] + [(1, stages - 1)]
    points = [frames.latent[place, step] @ directions[place] for place, step in panels]
    sizes = [rms(frames.latent[place, step]) for place, step in panels]
    grid = fig.subplots(2, len(panels))
    true = [1.05 * max(np.abs(one).max() for one in points[:-1]), 1.05 * np.abs(points[-1]).max()]
    unit = 1.05 * max(np.abs(one / size).max() for one, size in zip(points, sizes, strict=True))
    for (place, step), column, own, size in zip(panels, grid.T, points, sizes, strict=True):
        figures.class_plane(column[0], own, label, reach=true[place])
        figures.class_plane(column[1], own / size, label, reach=unit, named=True)
        gamma = float(frames.gamma[place, step])
        weight = f"γ = {number(gamma, 2)}" if gamma else "no penalty"
        epoch = f"epoch {frames.epochs[step]}"
        column[0].set_title(f"{epoch}\n{weight}\nrms {number(size, 2)}", fontsize=9)
        column[1].set_xlabel(f"within / between\n{number(ratio[place, step], 2)}", fontsize=9)
    for axes, words in zip(grid, ("true scale", "divided by rms"), strict=True):
        axes[0].set_ylabel(words, fontsize=10)
        axes[-1].set_facecolor("#f0f0f0")


def write_picture(path: Path = PICTURE, *, profile: str = "laptop", store: str | Path = "runs") -> Path:
    """Draw IB stage by stage with LinPen's end beside it, and write the picture as PNG.

    Parameters
    ----------
    path
        Path of the picture.
    profile, store
        Profile and store of the runs; missing runs are trained.
    """
    torch.set_num_threads(1)
    runs = study(profile, store=store, progress=False)
    fig = Figure(figsize=LONG_SIZE, layout="constrained")
    draw(fig, trained_again(runs, ("IB", "LinPen"), **LONG_STAGES))
    fig.savefig(path, dpi=130)
    return path
