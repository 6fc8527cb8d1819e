"""I-diagrams, drawn from the table of quantities and their atoms."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from matplotlib.text import Text

from experiments.chapters.quantities.atoms import ATOMS, NAMED, Named, atomic, in_a_chain
from lpc.errors import unknown_name

CIRCLES = {"X": (0.0, -1.17, 3.1), "Y": (-1.9, 0.0, 2.65), "Z": (1.9, 0.0, 2.65)}
"""Centre and radius of each set. Y and Z overlap only within X: there is no region for I[Y; Z | X]."""
COLOURS = {
    "X": "#E4E4E4",
    "Y": "#F6D6C2",
    "Z": "#CFE6F5",
    "XY": "#EFA77F",
    "XZ": "#8CC3E6",
    "XYZ": "#8FD3B6",
}
"""Fill of each region, a tint of Okabe and Ito's colours, light enough for black text."""
_LETTERS = {"X": (0.0, -4.7), "Y": (-4.25, 2.1), "Z": (4.25, 2.1)}
_GRID = 200


def canvas() -> tuple[Float64[np.ndarray, "y x"], Float64[np.ndarray, "y x"]]:
    """Return the coordinates of a grid of points that covers the circles, in their unit."""
    x, y = (
        np.linspace(
            min(circle[axis] - circle[2] for circle in CIRCLES.values()),
            max(circle[axis] + circle[2] for circle in CIRCLES.values()),
            _GRID,
        )
        for axis in (0, 1)
    )
    across, up = np.meshgrid(x, y)
    return across, up


def outside(atom: str, x: Float64[np.ndarray, ...], y: Float64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
    """Return points' distances from an atom's region: negative inside, and smallest where it is widest.

    Raises
    ------
    ValueError
        If the atom is unknown.
    """
    if atom not in ATOMS:
        raise unknown_name("atom", atom, ATOMS)
    return np.max(
        [
            (np.hypot(x - across, y - up) - radius) * (1 if name in atom else -1)
            for name, (across, up, radius) in CIRCLES.items()
        ],
        axis=0,
    )


def draw_regions(ax: Axes, shaded: Collection[str]) -> None:
    """Draw the three sets, and fill the regions of the given atoms, each in its colour."""
    x, y = canvas()
    for atom in shaded:
        ax.contourf(x, y, outside(atom, x, y), levels=[-np.inf, 0.0], colors=[COLOURS[atom]])
    for name, (across, up, radius) in CIRCLES.items():
        ax.add_patch(Circle((across, up), radius, fill=False, linewidth=1.2))
        ax.text(*_LETTERS[name], name, ha="center", va="center", fontstyle="italic", fontsize=11)
    ax.set(aspect="equal", xlim=(-4.65, 4.65), ylim=(-5.1, 2.75))
    ax.set_axis_off()


def draw_atoms(ax: Axes, *, fontsize: float = 9.5) -> dict[str, Text]:
    """Draw the diagram with the quantity of each region written into it, and return the texts by atom.

    A region's text, at its widest point, is the quantity's symbol and its name without "Information".

    Parameters
    ----------
    ax
        Axes to draw on.
    fontsize
        Size of the text in points.
    """
    draw_regions(ax, list(COLOURS))
    x, y = canvas()
    texts = {}
    for atom, one in atomic().items():
        depth = outside(atom, x, y)
        widest = depth < depth.min() + 0.01
        label = "\n".join([*one.name.replace(" Information", "").split(), one.symbol])
        place = float(x[widest].mean()), float(y[widest].mean())
        texts[atom] = ax.text(*place, label, ha="center", va="center", fontsize=fontsize)
    return texts


def composites() -> list[Named]:
    """Return the named quantities that have several atoms, in the order of their table."""
    return [one for one in NAMED if len(in_a_chain(one.symbol)) > 1]


def draw_quantity(ax: Axes, quantity: Named) -> None:
    """Draw the diagram with the atoms of one quantity filled, under its name and symbol."""
    draw_regions(ax, in_a_chain(quantity.symbol))
    ax.set_title(f"{quantity.name}\n{quantity.symbol}", fontsize=9.5)


def draw_key(ax: Axes) -> None:
    """Draw the key of colours and atoms into a panel that is left over."""
    for row, (atom, one) in enumerate(atomic().items()):
        ax.add_patch(Circle((0.0, -row), 0.3, facecolor=COLOURS[atom], edgecolor="black", linewidth=0.8))
        ax.text(0.6, -row, one.symbol, va="center", fontsize=9.5)
    ax.set(aspect="equal", xlim=(-1.5, 5.0), ylim=(-6.0, 1.0))
    ax.set_axis_off()
