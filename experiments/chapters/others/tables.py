"""Tables of recorded networks: one row per way to pull classes together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from experiments.chapters.others.ways import NAMES, SOURCES, Source
from experiments.reporting.tables import MISSING, number, over_seeds
from experiments.studies.other_profiles import FROZEN_STRENGTHS
from experiments.studies.recorded import recorded

GEOMETRY: Mapping[str, str] = {
    "trace_ratio": "trace ratio, train",
    "test_trace_ratio": "test",
    "test_accuracy": "accuracy (%)",
    "test_deepfool_relative_norm": "DeepFool",
    "attacks_box_smallest_median": "smallest attack (pixels)",
}
CONFIDENCE: Mapping[str, str] = {
    "test_ece": "calibration error",
    "outside_ece_scaled": "after one temperature",
    "outside_errors": "errors, AUROC",
    "outside_fashion_mnist_softmax": "Fashion-MNIST, softmax",
    "outside_fashion_mnist_mahalanobis": "Mahalanobis",
}
NEW_CLASSES: Mapping[str, str] = {
    "transfer_accuracy_1": "one image of each (%)",
    "transfer_accuracy_5": "five (%)",
    "transfer_trace_ratio": "trace ratio",
    "transfer_occupied": "signs of an old class (%)",
}
CONTROLS: Mapping[str, str] = {"untrained": "the bare layer before training", "pixels": "pixels, no network"}
"""Rows below the networks' rows, by what follows the probe's name in their columns."""
PERCENT = ("test_accuracy", "transfer_accuracy_1", "transfer_accuracy_5", "transfer_occupied")


class Networks(NamedTuple):
    """The networks of one data set, for the tables.

    Attributes
    ----------
    rows
        Table with one row per run; ``architecture`` is a way, a key of :data:`NAMES`.
    told
        Phrase that names the profile of the runs and their number of seeds.
    """

    rows: pd.DataFrame
    told: str


def networks(source: Source) -> Networks | None:
    """Return the judged runs or, if none are recorded, the search's runs at the chosen strengths.

    Parameters
    ----------
    source
        Profiles of a data set, from :data:`SOURCES`.
    """
    found = recorded(source.judged)
    if found is not None:
        seeds = found.selected["seed"].nunique()
        return Networks(found.selected, f"profile {source.judged}, {seeds} seed{'s' * (seeds > 1)}")
    search = recorded(source.search)
    if search is None:
        return None
    chosen = {f"{way}-{value:g}": way for way, value in FROZEN_STRENGTHS[source.strengths].items()}
    rows = search.selected[search.selected["architecture"].isin(chosen)]
    rows = rows.assign(architecture=rows["architecture"].map(chosen))
    return Networks(rows, f"profile {source.search}: one seed, on which the strengths were chosen")


def table(found: Networks, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per way with the values of its runs; columns that no run has are left out.

    Parameters
    ----------
    found
        Networks of a data set.
    columns
        Headings by column of the runs.
    """
    there = {name: heading for name, heading in columns.items() if _has(found.rows, name)}
    rows = {
        words: {heading: _cell(found.rows, way, name) for name, heading in there.items()}
        for way, words in NAMES.items()
    }
    made = pd.DataFrame.from_dict(rows, orient="index", columns=list(there.values()))
    made.index.name = "added to the layer"
    return made


def new_classes(name: str) -> pd.DataFrame | None:
    """Return, one row per way, how well its latents separate new classes, with the controls below.

    Parameters
    ----------
    name
        Name of a profile that leaves classes out; if it is not recorded, the result is None.
    """
    found = recorded(name)
    if found is None:
        return None
    rows = found.selected
    there = [way for way in NAMES if way in set(rows["architecture"])]
    made = {
        NAMES[way]: {heading: _cell(rows, way, column) for column, heading in NEW_CLASSES.items()}
        for way in there
    }
    for control, words in CONTROLS.items():
        names = {column.replace("_", f"_{control}_", 1): column for column in NEW_CLASSES}
        own = rows.drop(columns=list(NEW_CLASSES)).rename(columns=names)
        made[words] = {heading: _cell(own, "LinPen", column) for column, heading in NEW_CLASSES.items()}
    table = pd.DataFrame.from_dict(made, orient="index", columns=list(NEW_CLASSES.values()))
    table.index.name = "trained on seven classes"
    return table


def _has(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and bool(pd.to_numeric(rows[column], errors="coerce").notna().any())


def _cell(rows: pd.DataFrame, way: str, column: str) -> str:
    own = rows.loc[rows["architecture"] == way]
    if own.empty or column not in own:
        return MISSING
    return over_seeds(pd.to_numeric(own[column]) * (100 if column in PERCENT else 1))


def missing(sources: Iterable[Source] = SOURCES.values()) -> list[str]:
    """Return the commands that train the profiles that are not recorded yet, in order."""
    return [
        f"python -m experiments train --profile {name}"
        for one in sources
        for name in (one.judged, one.new_classes)
        if recorded(name) is None
    ]


def cost(sources: Iterable[Source] = SOURCES.values()) -> list[str]:
    """Return one line per recorded profile on how long its runs trained."""
    lines = []
    for name in (name for one in sources for name in (one.judged, one.new_classes)):
        found = recorded(name)
        if found is not None:
            seconds = number(found.provenance["run_seconds"])
            lines.append(f"{name}: {len(found.frame)} runs, {seconds} s of training beside other work")
    return lines
