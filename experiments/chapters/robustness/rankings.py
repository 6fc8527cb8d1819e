"""The rankings that LPC's Section 3.2 claims, checked on the paper's printed numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from experiments.reporting import paper
from experiments.reporting.tables import number

ACCURACY = "test_accuracy_percent"
ROBUSTNESS = "deepfool_relative_norm"
AUROCS = ("auroc_mahalanobis", "auroc_odin")
_ROUNDING = 1e-9
"""Printed values closer than this count as equal."""


def leaders(dataset: str, metric: str) -> list[str]:
    """Return the architectures with the highest printed mean, more than one if they tie.

    Parameters
    ----------
    dataset, metric
        Data set and metric, as in the paper's tables.
    """
    table = paper.reported()
    rows = table[(table["dataset"] == dataset) & (table["metric"] == metric)]
    top = rows["mean"].max()
    return rows["architecture"][rows["mean"] > top - _ROUNDING].tolist()


def difference(dataset: str, metric: str, of: str, over: str) -> tuple[float, float]:
    """Return the printed difference of two architectures, and Welch's two-sided p (NaN without spread).

    Parameters
    ----------
    dataset, metric
        Data set and metric, as in the paper's tables.
    of, over
        Architectures: the result is ``of`` - ``over``.
    """
    table = paper.welch(dataset, metric, baseline=over).set_index("architecture")
    return float(table["difference"][of]), float(table["p"][of])


def _leads(statement: str, metric: str, architecture: str) -> list[dict[str, str]]:
    rows = []
    for dataset in paper.DATASETS:
        first = leaders(dataset, metric)
        holds = "yes" if first == [architecture] else "tied" if architecture in first else "no"
        rivals = [name for name in _architectures() if name != architecture]
        rival = max(rivals, key=lambda name: paper.value(dataset, name, metric)[0])
        lead, p = difference(dataset, metric, architecture, rival)
        rows.append(_row(statement, dataset, f"{_signed(lead)} over {rival}, p = {number(p, 2)}", holds))
    return rows


def _below(statement: str, pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return rows on whether ``of`` is less accurate than ``over``."""
    rows = []
    for dataset in paper.DATASETS:
        found = {pair: difference(dataset, ACCURACY, *pair) for pair in pairs}
        text = "; ".join(f"{of} {_signed(d)}, p = {number(p, 2)}" for (of, _), (d, p) in found.items())
        holds = "yes" if all(d < 0 for d, _ in found.values()) else "no"
        rows.append(_row(statement, dataset, text, holds))
    return rows


def _no_gain(statement: str, pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return rows on whether ``of`` has no significant gain in accuracy over ``over``."""
    rows = []
    for dataset in paper.DATASETS:
        found = {pair: difference(dataset, ACCURACY, *pair) for pair in pairs}
        text = "; ".join(f"{of} {_signed(d)}, p = {number(p, 2)}" for (of, _), (d, p) in found.items())
        gains = any(d > 0 and p < 0.05 for d, p in found.values())
        rows.append(_row(statement, dataset, text, "no" if gains else "yes"))
    return rows


def _row(statement: str, dataset: str, printed: str, holds: str) -> dict[str, str]:
    return {"statement": statement, "data set": dataset, "printed": printed, "holds": holds}


def _architectures() -> list[str]:
    return paper.reported()["architecture"].drop_duplicates().tolist()


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def largest_gain(metric: str, *, baseline: str = "NoPen") -> tuple[str, str, float]:
    """Return the data set, penalised architecture and size of the largest printed gain over a baseline.

    Parameters
    ----------
    metric
        Metric, as in the paper's tables.
    baseline
        Architecture to compare the others with.
    """
    gains = {
        (dataset, name): difference(dataset, metric, name, baseline)[0]
        for dataset in paper.DATASETS
        for name in ("IB", "WideIB", "NarrowIB")
    }
    (dataset, name), gain = max(gains.items(), key=lambda item: item[1])
    return dataset, name, gain


def section_3_2() -> pd.DataFrame:
    """Return Section 3.2's statements on the ranking of architectures, and whether the printed numbers agree.

    Returns
    -------
    DataFrame
        Columns ``statement``, ``data set``, ``printed`` (differences with Welch's p, 5 experiments each) and
        ``holds``: yes, tied or no, by the printed means (for "no significant gain": p below 0.05).
    """
    rows = _leads("IB is the most accurate", ACCURACY, "IB")
    rows += _below(
        "LinPen and NonLinPen are less accurate than NoPen", [("LinPen", "NoPen"), ("NonLinPen", "NoPen")]
    )
    rows += _no_gain(
        "dropout and L1 bring no significant accuracy over NoPen",
        [("NoPenDropout", "NoPen"), ("NonLinPenL1", "NoPen")],
    )
    rows += _no_gain("(ours) nor does L1 over the same network without it", [("NonLinPenL1", "NonLinPen")])
    rows += _leads("IB is the most robust", ROBUSTNESS, "IB")
    for metric, name in zip(AUROCS, ("Mahalanobis", "ODIN"), strict=True):
        rows += _leads(f"WideIB has the best AUROC ({name})", metric, "WideIB")
    for metric, name in zip(AUROCS, ("Mahalanobis", "ODIN"), strict=True):
        dataset, architecture, gain = largest_gain(metric)
        holds = "yes" if gain <= 0.1 + _ROUNDING else "no"
        text = f"{architecture} {_signed(gain)} over NoPen"
        rows.append(_row(f"AUROC gains of up to 10 % over NoPen ({name})", dataset, text, holds))
    return pd.DataFrame(rows)
