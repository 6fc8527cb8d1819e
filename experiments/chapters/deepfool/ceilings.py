"""Upper limits on robustness by data set, beside the paper's relative perturbations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.paths import CEILINGS
from experiments.reporting import paper
from experiments.reporting.tables import number
from experiments.studies import ceilings

NAMES: Mapping[str, str] = {
    "digits": "digits",
    "mnist_subset": "MNIST, 5,000 images",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR10",
    "svhn": "SVHN",
}
"""Data sets of the table; the last two are the paper's."""
NOT_MEASURED = "not measured"


def recorded_ceilings() -> dict[str, dict[str, Any]]:
    """Return the recorded ceilings by data set; empty if there is no table."""
    if not CEILINGS.exists():
        return {}
    return ceilings.recorded().set_index("data").to_dict(orient="index")


def printed_perturbation(dataset: str, architecture: str) -> float | None:
    """Return the paper's relative perturbation for an architecture, or None for one of our data sets.

    Parameters
    ----------
    dataset
        Name of the data set, a key of :data:`NAMES`.
    architecture
        Architecture of the paper's Table 2.
    """
    name = dataset.upper()
    return paper.value(name, architecture, "deepfool_relative_norm")[0] if name in paper.DATASETS else None


def ceiling_table(found: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per data set: three ceilings, one of them also in pixels, and the paper's values.

    Parameters
    ----------
    found
        Table from :func:`recorded_ceilings`; a missing data set is shown as not measured.
    """
    rows = {}
    for name, title in NAMES.items():
        row = found.get(name)
        cells = dict.fromkeys(
            ("one image", "both ends", "mean over images", "one image, pixels"), NOT_MEASURED
        )
        if row is not None:
            cells = {
                "one image": f"{number(row['single'])} ± {number(1.96 * row['single_error'], 2)}",
                "both ends": f"{number(row['both'])} ± {number(1.96 * row['both_error'], 2)}",
                "mean over images": number(row["mean_assigned"]),
                "one image, pixels": number(row["single_pixels"]),
            }
        values = {f"paper, {one}": printed_perturbation(name, one) for one in ("NoPen", "IB")}
        images = NOT_MEASURED if row is None else f"{int(row['images']):,}"
        shown = {head: "–" if value is None else number(value) for head, value in values.items()}
        rows[title] = {"n": images} | cells | shown
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("data set")


def equal_norm_ceiling(classes: int) -> float:
    r"""Return the ceiling of the mean over images of equal norm: :math:`\tfrac12\sqrt{2K/(K-1)}`.

    Parameters
    ----------
    classes
        Number of classes K, equally large.
    """
    return math.sqrt(2 * classes / (classes - 1)) / 2


def cosine_needed(relative: float) -> float:
    r"""Return the cosine of an image with the nearest one of another class that allows a mean perturbation.

    Parameters
    ----------
    relative
        Mean, over both images, of the distance to the boundary divided by the norm, for images of equal norm.

    Notes
    -----
    :math:`d = 2\rho\lVert x\rVert` and :math:`d^2 = 2\lVert x\rVert^2(1 - \cos)`: :math:`\cos = 1 - 2\rho^2`.
    """
    return 1 - 2 * relative**2
