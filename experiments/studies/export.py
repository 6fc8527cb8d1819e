"""Tables of runs for other programs: all runs, selected ones (the releases' best results), their epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.studies.study import Study, titles
from lpc.store.atomic import write_file

FORMATS = ("csv", "parquet")


def every_run(found: Study) -> pd.DataFrame:
    """Return all runs; in a study that selects, with a column that says which were selected and tested."""
    rows = found.runs
    if not found.kind.selects:
        return rows
    return rows.assign(selected=rows["key"].isin(found.selected["key"]))


def best_results(found: Study) -> pd.DataFrame:
    """Return the selected runs; the first columns identify them and say how their rate was selected.

    Raises
    ------
    ValueError
        If this kind of study selects no rate.
    """
    if not found.kind.selects:
        raise ValueError(f"the {found.kind.name} runs have no learning rate to select")
    rows = found.selected
    if rows.empty:
        return rows
    if not found.profile.retrain:
        rows = rows.assign(selected_validation_accuracy=rows["validation_accuracy"])
    first = ["data.name", "architecture", "seed", "train.learning_rate", "selected_validation_accuracy"]
    return rows[[*first, *rows.columns.drop(first)]]


def open_ends(found: Sequence[Study]) -> list[str]:
    """Return lines on the missing runs that may still change the best results of some profiles."""
    lines = []
    pairs = sum(len({(spec.architecture, spec.seed) for spec in one.specs}) for one in found)
    if absent := pairs - sum(len(one.selected) for one in found):
        lines.append(f"{absent} of {pairs} architectures and seeds have no selected run yet")
    runs = sum(len(one.specs) for one in found)
    if still := runs - sum(int((one.frame["status"] != "training").sum()) for one in found):
        missing = [spec for one in found for spec in one.missing]
        lines.append(f"{still} of {runs} runs to select from have not ended: {titles(missing)}")
    return lines


def format_of(path: Path, given: str | None) -> str:
    """Return the format of a table's file, ``csv`` or ``parquet``: the given one, or that of its name.

    Raises
    ------
    ValueError
        If no format is given and the name ends otherwise, or its ending contradicts the given format.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending in FORMATS and given not in (None, ending):
        raise ValueError(
            f"--output is {str(path)!r}, but --format is {given}; expected the same format in both"
        )
    if ending not in FORMATS and given is None:
        raise ValueError(f"--output is {str(path)!r}; expected an ending, .csv or .parquet, or --format")
    return given or ending


def write(tables: Sequence[pd.DataFrame], path: Path, *, file_format: str = "csv") -> pd.DataFrame:
    """Join tables, write them as ``csv`` or ``parquet``, whole or not at all, and return the joint table."""
    table = pd.concat([one for one in tables if len(one)]).drop(columns="missing", errors="ignore")
    save = table.to_csv if file_format == "csv" else table.to_parquet
    write_file(path, lambda temporary: save(temporary, index=False))
    return table


def write_all(found: Study, folder: Path) -> list[Path]:
    """Write ``runs.csv``, ``best_results.csv`` and ``epochs.csv`` of a profile; skip tables without rows."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"runs": every_run(found), "epochs": found.history}
    if found.kind.selects:
        tables["best_results"] = best_results(found)
    paths = {folder / f"{name}.csv": table for name, table in tables.items() if len(table)}
    for path, table in paths.items():
        write([table], path)
    return list(paths)
