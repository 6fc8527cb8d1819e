"""The picture of the first page and of the README: a run's latents stage by stage while gamma grows.

The README's is made by::

    .venv/bin/python -c "from experiments.collapse_stages import write_picture; write_picture()"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.ablation import study
from experiments.collapse_frames import Frames, plane, rms, trained_again
from experiments.tables import number
from lpc import figures

STAGES: Mapping[str, int] = {"growing": 4, "after": 1}
"""Stages of the picture: while gamma grows, and after."""
PICTURE = Path(__file__).parents[1] / "book" / "_static" / "latents.png"
"""The picture in the README."""


def draw(frames: Frames) -> Figure:
    """Draw the first network stage by stage, and the last stage of the second beside it as the control.

    Each in the plane of its own last class means (:func:`~experiments.collapse_frames.plane`). Above at true
    scale: one scale for all stages of the first, another for the control. Below each panel divided by its
    own rms. Points are rasterised.

    Parameters
    ----------
    frames
        Of two networks.
    """
    (name, control), stages = frames.names, len(frames.epochs)
    table, label = frames.table(), frames.label
    flat = [own[-1] for own in frames.latent]
    directions = [plane(last, label) for last in flat]
    panels = [(0, step) for step in range(stages)] + [(1, stages - 1)]
    points = [frames.latent[place, step] @ directions[place] for place, step in panels]
    sizes = [rms(frames.latent[place, step]) for place, step in panels]
    fig = Figure(figsize=(2.0 * len(panels), 5.0), dpi=110, layout="constrained")
    grid = fig.subplots(2, len(panels))
    true = [1.05 * max(np.abs(one).max() for one in points[:-1]), 1.05 * np.abs(points[-1]).max()]
    unit = 1.05 * max(np.abs(one / size).max() for one, size in zip(points, sizes, strict=True))
    for (place, step), column, flat_points, size in zip(panels, grid.T, points, sizes, strict=True):
        row = table.loc[(frames.names[place], frames.epochs[step])]
        _scatter(column[0], flat_points, label, reach=true[place])
        _scatter(column[1], flat_points / size, label, reach=unit, named=True)
        weight = "no penalty" if row["gamma"] == 0 else f"γ = {number(row['gamma'], 2)}"
        title = f"{frames.names[place]}, epoch {frames.epochs[step]}\n{weight}\nrms {number(size, 2)}"
        column[0].set_title(title, fontsize=10)
        column[1].set_title(f"tr Σ_W / tr Σ_B\n{number(row['trace_ratio'], 2)}", fontsize=10)
    for axes, words in zip(grid, ("true scale", "divided by its rms"), strict=True):
        axes[0].set_ylabel(words, fontsize=11)
    for axes in grid:
        axes[-1].set_facecolor("#f3f3f3")
    fig.suptitle(f"{name} while γ grows; right, {control}, the same layer without the penalty", fontsize=11)
    return fig


def _scatter(ax: Axes, points: np.ndarray, label: np.ndarray, *, reach: float, named: bool = False) -> None:
    """Draw points of a plane about the origin, coloured by class, each class's name at its mean."""
    classes = np.unique(label)
    for one, colour in zip(classes, figures.class_colours(len(classes)), strict=True):
        own = points[label == one]
        ax.plot(*own.T, ".", color=colour, markersize=2, markeredgewidth=0, rasterized=True)
        if named:
            middle = own.mean(axis=0)
            ax.annotate(
                str(one), middle, xytext=(4, 4), textcoords="offset points", fontsize=8, color="black"
            )
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", yticks=[])
    ax.set_xticks([-reach / 1.3, 0, reach / 1.3], [number(-reach / 1.3, 1), "0", number(reach / 1.3, 1)])
    ax.tick_params(labelsize=8)


def write_picture(path: Path = PICTURE, *, profile: str = "laptop", store: str | Path = "runs") -> Path:
    """Draw IB stage by stage, and LinPen's end beside it, and write the picture as PNG.

    Parameters
    ----------
    path
        Where to.
    profile, store
        Whose runs; what is missing is trained.
    """
    torch.set_num_threads(1)
    runs = study(profile, store=store, progress=False)
    draw(trained_again(runs, ("IB", "LinPen"), **STAGES)).savefig(path, dpi=100)
    return path
