"""The factor between perturbations as a product of links: how much each link grows as gamma grows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.reporting.tables import over_seeds
from lpc.errors import unknown_name
from lpc.figures import Look
from lpc.specs import GAMMAS

BASE = "gamma0"
"""The architecture without penalty, with which the others are compared."""

LINKS: Mapping[str, tuple[str, str | None]] = {
    "smallest found, median": ("smallest_median", None),
    "mean for median": ("smallest", "smallest_median"),
    "longer direction": ("own_line", "smallest"),
    "beyond the boundary": ("deepfool_fooled", "own_line"),
    "images not fooled": ("deepfool", "deepfool_fooled"),
    "float32": ("deepfool_float32", "deepfool"),
    "released step": ("deepfool_released", "deepfool_float32"),
}
"""From the smallest perturbation to the release's average: each link is a value divided by the one before."""


def gamma_of(name: str) -> float:
    """Return the last gamma of an architecture in :data:`lpc.architectures.GAMMAS`; 0 without a penalty."""
    if name not in GAMMAS:
        raise unknown_name("row of the gamma sweep", name, GAMMAS)
    return GAMMAS[name].gamma_maximum or 0.0


def values(selected: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return columns of the selected runs as numbers, by (seed, architecture); missing values stay missing.

    Parameters
    ----------
    selected
        Table with one row per run, with ``architecture`` and ``seed``.
    columns
        Headings by column.

    Raises
    ------
    ValueError
        If no run has a column.
    """
    for name in columns:
        if name not in selected:
            raise unknown_name("column", name, map(str, selected.columns))
    table = pd.DataFrame(
        {heading: pd.to_numeric(selected[name], errors="coerce") for name, heading in columns.items()}
    )
    table.index = pd.MultiIndex.from_frame(selected[["seed", "architecture"]])
    return table


def grown(table: pd.DataFrame, *, base: str = BASE) -> pd.DataFrame:
    """Divide a table by (seed, architecture) by the base's row with the same seed.

    Raises
    ------
    ValueError
        If there is no row of the base.
    """
    if base not in table.index.get_level_values("architecture"):
        raise ValueError(f"there is no selected run of {base} to divide the others by")
    return table / table.xs(base, level="architecture").reindex(table.index, level="seed")


def decomposition(selected: pd.DataFrame, *, base: str = BASE) -> pd.DataFrame:
    """Return how much every link has grown relative to the base with the same seed.

    Parameters
    ----------
    selected
        Table with one row per run and the columns of the probe ``factor``
        (``experiments.probes.factor.summary``).
    base
        Architecture to divide by.

    Returns
    -------
    DataFrame
        Table by (seed, architecture), with one column per link in :data:`LINKS`, and ``product``, their
        product, which is the growth of the release's average.
    """
    names = {f"factor_{name}": name for pair in LINKS.values() for name in pair if name is not None}
    found = values(selected, names)
    links = {
        link: found[above] / (1.0 if below is None else found[below])
        for link, (above, below) in LINKS.items()
    }
    return grown(pd.DataFrame({**links, "product": found["deepfool_released"]}), base=base)


def shares(links: pd.DataFrame, architecture: str) -> dict[str, float]:
    """Return each link's share of the product's logarithm, averaged over seeds; the shares add up to 1.

    Parameters
    ----------
    links
        Table from :func:`decomposition`.
    architecture
        Architecture of one of its rows.
    """
    means = np.log(links.xs(architecture, level="architecture")).mean()
    return {
        str(name): float(value) for name, value in (means / means["product"]).items() if name != "product"
    }


def by_gamma(table: pd.DataFrame, *, digits: int = 3) -> pd.DataFrame:
    """Return a table by (seed, architecture) as the book shows it: one value per seed, gammas as rows."""
    rows = {}
    for name in GAMMAS:
        part = table[table.index.get_level_values("architecture") == name]
        if len(part):
            rows[f"{gamma_of(name):g}"] = {c: over_seeds(part[c], digits=digits) for c in table}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gamma")


def draw(ax: Axes, table: pd.DataFrame, looks: Mapping[str, Look]) -> Axes:
    """Draw columns over gamma: one point per run, a line through the means over seeds.

    Parameters
    ----------
    ax
        Axes to draw on; the gammas of :data:`lpc.architectures.GAMMAS` are equally spaced, a decade apart
        except from 0.
    table
        Table by (seed, architecture).
    looks
        Colours, lines and markers of its columns.
    """
    names = [name for name in GAMMAS if name in table.index.get_level_values("architecture")]
    place = {name: position for position, name in enumerate(names)}
    at = table.index.get_level_values("architecture").map(place)
    for column, look in looks.items():
        means = table[column].groupby(level="architecture").mean().reindex(names)
        ax.plot(at, table[column], look.marker, color=look.colour, markersize=4, alpha=0.6)
        ax.plot(range(len(names)), means, look.line, color=look.colour, marker=look.marker, label=column)
    ax.set_xticks(range(len(names)), [f"{gamma_of(name):g}" for name in names])
    ax.set_xlabel("last gamma")
    ax.grid(alpha=0.3)
    return ax
