"""Tables of the errata chapter: numbers by two conventions, and runs trained in two ways."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from experiments.chapters.errata.paired_values import difference
from experiments.chapters.errata.released_training import SWITCHES
from experiments.reporting.tables import MISSING, number, over_seeds

_SAME = 1e-9
"""Largest relative change, or difference, that counts as rounding."""


def effect(values: pd.Series, quantity: str) -> str:
    """Return an effect as text, one per seed: a signed difference, a change in percent, or a factor.

    Parameters
    ----------
    values
        Values of ``effect`` from :func:`experiments.chapters.errata.paired_values.evaluate`, one per seed.
    quantity
        Quantity to which the values belong.
    """
    there = values.dropna()
    if there.empty:
        return MISSING
    change = there if difference(quantity) else there - 1
    if bool((change.abs() <= _SAME).all()):
        return "none"
    if not difference(quantity) and not 0.5 < there.mean() < 2:
        return f"× {over_seeds(values)}"
    shown = values if difference(quantity) else 100 * (values - 1)
    return over_seeds(shown, digits=2, signed=True) + ("" if difference(quantity) else " %")


def comparison_table(comparisons: pd.DataFrame, numbers: Sequence[int]) -> pd.DataFrame:
    """Return the comparisons of some lines as text, one column per architecture.

    For every quantity there is a row with the values of all seeds as measured here, followed by one row per
    switch with the switched mean and, below it in brackets, the :func:`effect`.

    Parameters
    ----------
    comparisons
        Table from :func:`experiments.chapters.errata.conventions.comparisons`.
    numbers
        Lines to show.
    """
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for quantity, same in comparisons[comparisons["line"].isin(numbers)].groupby("quantity", sort=False):
        first = same.drop_duplicates(["architecture", "seed"]).groupby("architecture", sort=False)
        rows[str(quantity), MISSING, "here"] = {
            str(name): over_seeds(values) for name, values in first["here"]
        }
        for (line, switch), alike in same.groupby(["line", "switch"], sort=False):
            rows[str(quantity), str(line), str(switch)] = {
                str(name): _switched(group, str(quantity))
                for name, group in alike.groupby("architecture", sort=False)
            }
    index = pd.MultiIndex.from_tuples(list(rows), names=["quantity", "line", "switch"])
    return pd.DataFrame(list(rows.values()), index=index).fillna(MISSING)


def _switched(group: pd.DataFrame, quantity: str) -> str:
    if group["switched"].isna().all():
        return MISSING
    return f"{number(group['switched'].mean())}\n({effect(group['effect'], quantity)})"


def reasons(comparisons: pd.DataFrame, numbers: Sequence[int]) -> list[str]:
    """Return a phrase for every reason why numbers of some lines are missing, and where."""
    chosen = comparisons[comparisons["line"].isin(numbers) & (comparisons["missing"] != "")]
    first = chosen.assign(why=chosen["missing"].str.split(";").str[0])
    return [
        f"{quantity}, {', '.join(dict.fromkeys(same['architecture']))}: {why}"
        for (quantity, why), same in first.groupby(["quantity", "why"], sort=False)
    ]


def listed(reasons: Sequence[str], *more: str) -> Markdown | None:
    """Return sentences as a list on the page, or None, which a cell does not show, if there are none."""
    sentences = [*reasons, *more]
    return Markdown("\n".join(f"- {one}" for one in sentences)) if sentences else None


def ratios(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the effects that are ratios, averaged over seeds; rows are switches, columns architectures."""
    chosen = comparisons[~comparisons["quantity"].map(difference)]
    label = chosen["quantity"] + ": " + chosen["switch"]
    table = chosen.assign(label=label).pivot_table(
        index="label", columns="architecture", values="effect", sort=False
    )
    return table.dropna(how="all")


def training_table(trained: pd.DataFrame) -> pd.DataFrame:
    """Return the results of runs trained as here and with each of the release's switches, as text.

    Parameters
    ----------
    trained
        Table from :func:`experiments.chapters.errata.released_training.trained`.
    """
    columns = {
        "trace_ratio": ("tr Σ_W / tr Σ_B", 1),
        "trace_within": ("tr Σ_W", 1),
        "accuracy": ("train (%)", 100),
        "test_accuracy": ("test (%)", 100),
        "test_deepfool_relative_norm": ("DeepFool norm", 1),
        "test_auroc_odin": ("AUROC, ODIN", 1),
    }
    rows = {
        (name, switch): {"line": _line(str(switch)), "last γ": number(group["gamma"].mean(), 4)}
        | {heading: over_seeds(group[column] * scale) for column, (heading, scale) in columns.items()}
        for name, same in trained.groupby("architecture", sort=False)
        for switch, group in same.groupby("switch", sort=False)
    }
    index = pd.MultiIndex.from_tuples(list(rows), names=["architecture", "switch"])
    return pd.DataFrame(list(rows.values()), index=index)


def _line(switch: str) -> str:
    return str(SWITCHES[switch].line or MISSING) if switch in SWITCHES else MISSING


def selections_table(selections: pd.DataFrame) -> pd.DataFrame:
    """Return the test accuracy, in percent and by seed, that each way of selecting would report."""
    headings = {
        "validation": "validation, every rate (here)",
        "test": "test, every rate",
        "validation_few": "validation, first two",
        "test_few": "test, first two (release)",
    }
    rows = {
        name: {heading: over_seeds(100 * group[column], digits=4) for column, heading in headings.items()}
        for name, group in selections.groupby("architecture", sort=False)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("architecture")
