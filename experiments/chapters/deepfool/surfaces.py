"""The margin around attacked images, which shows whether gradients lead to the boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from torch import Tensor

from experiments.probes.attacks import in_parts, target
from experiments.probes.image_functions import Logits
from experiments.probes.perturbations import margin
from experiments.studies.study import Study
from lpc.runs import load_model


class Surface(NamedTuple):
    """The margin of an image's decision in a plane of pixel space, in units of the smallest perturbation.

    Attributes
    ----------
    along, across
        Steps along the attack's perturbation and along a random direction at right angles to it, divided by
        the perturbation's norm.
    margin
        Logit of the decision minus the largest other one, divided by its value at the image, shape (across,
        along); negative where the decision has changed.
    norm
        Norm of the perturbation, in pixel units.
    """

    along: Float64[np.ndarray, " along"]
    across: Float64[np.ndarray, " across"]
    margin: Float64[np.ndarray, "across along"]
    norm: float


def surface(
    logits: Logits,
    image: Float[Tensor, "1 channel row column"],
    perturbation: Float[Tensor, "1 channel row column"],
    *,
    reach: float = 1.5,
    points: int = 61,
    seed: int = 0,
) -> Surface:
    """Return the margin around an image, in the plane of a perturbation and a random direction.

    Parameters
    ----------
    logits
        Function from images to logits, which must also take images outside the pixel box.
    image, perturbation
        One image, and a nonzero perturbation of it.
    reach, points
        Extent of the plane in units of the perturbation's norm, and number of points, in both directions.
    seed
        Seed of the random direction: Gaussian, made orthogonal to the perturbation, and of its length.
    """
    size = torch.linalg.vector_norm(perturbation)
    if float(size) == 0:
        raise ValueError("perturbation is zero: it has no direction")
    first = perturbation / size
    draw = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draw = draw.to(image)
    second = draw - (draw * first).sum() * first
    second = second / torch.linalg.vector_norm(second)
    steps = torch.linspace(-reach, reach, points, dtype=image.dtype, device=image.device)
    across, along = torch.meshgrid(steps, steps, indexing="ij")
    moved = (
        along.flatten()[:, None, None, None] * first + across.flatten()[:, None, None, None] * second
    ) * size
    with torch.no_grad():
        decision = logits(image).argmax(dim=1)
        start = margin(logits(image), decision)
        found = torch.cat(
            [margin(logits(image + part), decision.expand(len(part))) for part in moved.split(1000)]
        )
    values = (found / start).reshape(points, points).double().cpu().numpy()
    line = steps.double().cpu().numpy()
    return Surface(line, line, values, float(size))


def median_surface(study: Study, architecture: str, seed: int, **options: int | float) -> Surface:
    """Return the surface around the attacked image whose SuperDeepFool perturbation has the median norm."""
    splits = study.images_at_hand
    model = load_model(study.spec(architecture, seed), study.store, splits.test)
    aim = target(model, splits)
    found = in_parts("superdeepfool", aim.logits, aim.image)
    order = torch.argsort(found.norm)[: int(found.fooled.sum())]
    if len(order) == 0:
        raise ValueError(f"no image of {architecture}, seed {seed}, is fooled: there is no direction to show")
    place = order[len(order) // 2][None]
    return surface(aim.logits, aim.image[place], found.perturbation[place], **options)  # type: ignore[arg-type]


def draw(ax: Axes, found: Surface, *, levels: Sequence[float] = tuple(np.linspace(-1, 2, 25))) -> None:
    """Draw a surface: shades of the margin, and the boundary as a line.

    Parameters
    ----------
    ax
        Axes to draw on.
    found
        Surface to draw, with axes in pixel units.
    levels
        Levels of the margin, divided by its value at the image.
    """
    x, y = found.norm * found.along, found.norm * found.across
    shades = ax.contourf(x, y, found.margin, levels=list(levels), cmap="PuOr", extend="both")
    ax.contour(x, y, found.margin, levels=[0.0], colors="black", linewidths=1.5)
    ax.plot([0, found.norm], [0, 0], color="black", linestyle=":", linewidth=1)
    ax.plot([0], [0], "o", color="black", markersize=4)
    ax.set_aspect("equal")
    ax.set(xlabel="along the perturbation (pixel units)", ylabel="along a random direction")
    ax.figure.colorbar(shades, ax=ax, label="margin / margin at the image", ticks=[-1, 0, 1, 2])
