"""The factor between perturbations as a product: what each link between two lengths adds as gamma grows."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from experiments.tables import mean_sd
from lpc.specs import GAMMAS, unknown_name

BASE = "gamma0"
"""The layer without penalty, with which the others are compared."""

LINKS: Mapping[str, tuple[str, str | None]] = {
    "smallest found, median": ("smallest_median", None),
    "mean for median": ("smallest", "smallest_median"),
    "longer direction": ("own_line", "smallest"),
    "beyond the boundary": ("deepfool_fooled", "own_line"),
    "images not fooled": ("deepfool", "deepfool_fooled"),
    "float32": ("deepfool_float32", "deepfool"),
    "released step": ("deepfool_released", "deepfool_float32"),
}
"""From the smallest perturbation to what the release averages: each link is one value over the one before."""


def gamma_of(name: str) -> float:
    """Return the last gamma of a row of :data:`lpc.specs.GAMMAS`; 0 for the one without penalty."""
    if name not in GAMMAS:
        raise unknown_name("row of the gamma sweep", name, GAMMAS)
    return GAMMAS[name].gamma_maximum or 0.0


def _values(selected: pd.DataFrame, column: str) -> pd.Series:
    """Return a value of the probe by (seed, architecture), missing where there is none."""
    index = pd.MultiIndex.from_frame(selected[["seed", "architecture"]])
    return pd.Series(pd.to_numeric(selected[f"factor_{column}"], errors="coerce").to_numpy(), index=index)


def grown(selected: pd.DataFrame, column: str, *, base: str = BASE) -> pd.DataFrame:
    """Return a probe's value over the base's of the same seed.

    Parameters
    ----------
    selected
        One row a run, with ``architecture``, ``seed`` and ``factor_<column>``.
    column
        A name in :func:`summary`.
    base
        The architecture to divide by.

    Returns
    -------
    DataFrame
        ``seed``, ``architecture``, ``gamma``, ``ratio``.

    Raises
    ------
    ValueError
        No run of the base.
    """
    table = _growth(_values(selected, column), base).rename("ratio").reset_index()
    return table.assign(gamma=table["architecture"].map(gamma_of))


def _growth(value: pd.Series, base: str) -> pd.Series:
    if base not in value.index.get_level_values("architecture"):
        raise ValueError(f"no selected run of {base}, by which the others are divided")
    return value / value.xs(base, level="architecture").reindex(value.index, level="seed")


def decomposition(selected: pd.DataFrame, *, base: str = BASE) -> pd.DataFrame:
    """Return every link's growth against the base's of the same seed.

    Parameters
    ----------
    selected, base
        As in :func:`grown`.

    Returns
    -------
    DataFrame
        By (seed, architecture), a column a link of :data:`LINKS`, and ``product``: the growth of what the
        release averages, which is their product.
    """
    links = {
        name: _values(selected, above) / (1.0 if below is None else _values(selected, below))
        for name, (above, below) in LINKS.items()
    }
    links["product"] = _values(selected, "deepfool_released")
    return pd.DataFrame({name: _growth(value, base) for name, value in links.items()})


def by_gamma(table: pd.DataFrame, *, digits: int = 3) -> pd.DataFrame:
    """Return a table by (seed, architecture) as the book shows it: mean ± sd over seeds, a row a gamma."""
    rows = {}
    for name in GAMMAS:
        part = table[table.index.get_level_values("architecture") == name]
        if len(part):
            rows[f"{gamma_of(name):g}"] = {c: mean_sd(part[c], digits=digits) for c in table}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gamma")
