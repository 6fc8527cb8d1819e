"""The disagreements between the paper and its released code, our choices, and what difference they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.chapters.errata import inconsistencies
from experiments.chapters.errata.released_training import HERE
from experiments.chapters.errata.tables import effect
from experiments.paths import ERRATA, read_toml
from experiments.reporting.tables import MISSING, number
from experiments.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class Line:
    """One disagreement; the fields are explained at the head of ``errata.toml``."""

    line: int
    subject: str
    paper: str
    release: str
    here: str
    quantity: str | None = None
    switch: str | None = None


class Evidence(NamedTuple):
    """The data from which effects are computed.

    Attributes
    ----------
    study
        Study with the runs of a profile.
    comparisons
        Table from :func:`experiments.chapters.errata.conventions.comparisons`.
    trained, selections
        Tables from :mod:`experiments.chapters.errata.released_training`.
    """

    study: Study
    comparisons: pd.DataFrame
    trained: pd.DataFrame
    selections: pd.DataFrame


def read(path: Path = ERRATA) -> list[Line]:
    """Return the lines in order; a line that does not follow the rules at the file's head is a ValueError."""
    entries = read_toml(path)["line"]
    try:
        lines = [Line(**entry) for entry in entries]
    except TypeError as error:
        raise ValueError(f"{path.name} has a line that cannot be read: {error}") from error
    if [line.line for line in lines] != list(range(1, len(lines) + 1)):
        raise ValueError(f"{path.name} numbers its lines {[line.line for line in lines]}; expected 1, 2, ...")
    return lines


def overview(numbers: Sequence[int] | None = None, *, path: Path = ERRATA) -> pd.DataFrame:
    """Return the paper's, the release's and our choices, for the given lines or for all."""
    rows = {
        line.line: {
            "subject": line.subject,
            "paper": line.paper,
            "released code": line.release,
            "here": line.here,
        }
        for line in read(path)
        if numbers is None or line.line in numbers
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("line")


def summary(evidence: Evidence, *, path: Path = ERRATA) -> pd.DataFrame:
    """Return one row per line: its subject, our choice, and the effect of the release's choice on the runs.

    Parameters
    ----------
    evidence
        Evidence from a profile.
    path
        Path of the file with the lines.
    """
    rows = {
        line.line: {"subject": line.subject, "here": line.here, "effect": phrase(line, evidence)}
        for line in read(path)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("line")


def phrase(line: Line, evidence: Evidence) -> str:
    """Return a phrase on how the release's choice in one line affects a profile's runs."""
    if line.quantity is not None:
        return _read(line, evidence.comparisons)
    if line.switch is not None:
        return _trained(line.switch, evidence.trained)
    return _OTHERS[line.line](evidence)


def _read(line: Line, comparisons: pd.DataFrame) -> str:
    """Return the range, over architectures, of the effect averaged over seeds."""
    same = (comparisons["line"] == line.line) & (comparisons["quantity"] == line.quantity)
    chosen = comparisons[same & (comparisons["switch"] == line.switch) if line.switch else same]
    means = chosen.groupby("architecture", sort=False)["effect"].mean().dropna()
    if means.empty:
        why = chosen.loc[chosen["missing"] != "", "missing"]
        return f"no number: {why.iloc[0].split(';')[0]}" if len(why) else MISSING
    ends = [effect(pd.Series([end]), str(line.quantity)) for end in (means.min(), means.max())]
    what = f"{line.quantity}, {line.switch}" if line.switch else line.quantity
    text = f"{what}: {' to '.join(dict.fromkeys(ends))}"
    only = chosen["here"].isna() & chosen["switched"].notna()
    gained = ", ".join(dict.fromkeys(chosen.loc[only, "architecture"]))
    return f"{text}; a number for {gained}, missing here" if gained else text


def _trained(switch: str, trained: pd.DataFrame) -> str:
    """Return a switch's effect on collapse and accuracy: means of the seeds' ratios and differences."""
    parts = []
    for name, rows in trained.groupby("architecture", sort=False):
        here, there = (rows[rows["switch"] == which].set_index("seed") for which in (HERE, switch))
        if len(there):
            ratio = (there["trace_ratio"] / here["trace_ratio"]).mean()
            gain = (there["test_accuracy"] - here["test_accuracy"]).mean()
            parts.append(f"{name}: tr Σ_W / tr Σ_B × {number(ratio)}, test accuracy {_points(gain)}")
    return "; ".join(parts) or MISSING


def _points(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:+.2f} points"


def _few_rates(evidence: Evidence) -> str:
    return _selected(evidence.selections, "validation_few")


def _on_test(evidence: Evidence) -> str:
    return _selected(evidence.selections, "test")


def _selected(selections: pd.DataFrame, column: str) -> str:
    gain = (selections[column] - selections["validation"]).groupby(selections["architecture"]).mean()
    gain = gain.dropna()
    if gain.empty:
        return MISSING  # none of these learning rates was trained
    if bool((gain == 0).all()):
        return "test accuracy: none"
    ends = f"{_points(gain.min())} ({gain.idxmin()}) to {_points(gain.max())} ({gain.idxmax()})"
    return f"test accuracy {_points(gain.mean())}, mean over architectures; {ends}"


def _one_seed(evidence: Evidence) -> str:
    chosen = evidence.study.selected
    spread = chosen.groupby("architecture")["test_accuracy"].agg(lambda values: values.max() - values.min())
    return (
        f"test accuracy differs between {chosen['seed'].nunique()} seeds by {100 * spread.mean():.2f} "
        f"points, mean over architectures; at most {100 * spread.max():.2f} ({spread.idxmax()})"
    )


def _dropout_for_l1(evidence: Evidence) -> str:
    grouped = evidence.study.selected.groupby("architecture")[["trace_ratio", "test_accuracy"]].mean()
    if not {"LinPenDropout", "NonLinPenL1"} <= set(grouped.index):
        return MISSING
    ratio, right = grouped["trace_ratio"], grouped["test_accuracy"]
    return (
        "LinPenDropout against NonLinPenL1: tr Σ_W / tr Σ_B × "
        f"{number(float(ratio['LinPenDropout'] / ratio['NonLinPenL1']))}, "
        f"test accuracy {_points(float(right['LinPenDropout'] - right['NonLinPenL1']))}"
    )


def _typing_error(evidence: Evidence) -> str:
    del evidence
    found = inconsistencies.repeated_sds()
    row = found[(found["dataset"] == "CIFAR10") & (found["architecture"] == "NonLinPenL1")].iloc[0]
    times = number(row["std"] / row["mean"])
    return f"the printed sd is {times} times the mean, and {row['above']}'s to the digit"


_OTHERS: Mapping[int, Callable[[Evidence], str]] = {
    5: _few_rates,
    6: _on_test,
    7: _one_seed,
    18: _dropout_for_l1,
    19: _typing_error,
}
