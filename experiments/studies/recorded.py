"""Results of runs that were trained elsewhere, kept as small files in ``results/`` and read back as a study.

Layout::

    results/<profile>/runs.csv         one row per run that finished or failed; which were selected
    results/<profile>/history.csv      one row per selected run and epoch at which metrics were recorded
    results/<profile>/provenance.json  commits, devices, versions, data and hours of these runs
    results/<profile>/<probe>.csv      tables of a probe of selected runs that pages show, to six digits
    results/<profile>/bottlenecks/     the same for the runs of Kirsch et al.'s figures
"""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.paths import RESULTS
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.learning_rates import retrained
from experiments.studies.probing import PROBES, versions
from experiments.studies.profiles import PROFILES, profile
from experiments.studies.selection import kind_of
from experiments.studies.study import Kind, Study
from lpc.specs import run_key
from lpc.store import RunStore
from lpc.store.reading import damaged, read_object, read_table
from lpc.store.writers import folder_prefix

_DISTINCT: Mapping[str, tuple[str, ...]] = {
    "code": ("commit", "dirty"),
    "machine": ("device", "threads"),
    "software": ("python", "versions"),
    "data": ("data_checksum",),
}
"""Groups of fields of a run's provenance; each distinct combination of their values is listed once."""
_PROVENANCE = {
    "profile": str,
    "trained_until": str,
    "run_seconds": (int, float),
    "code": list,
    "machine": list,
}
_WORDS: Mapping[str, object] = {"": None, "True": True, "False": False}


@dataclass(frozen=True)
class Recorded:
    """Recorded runs of a profile, with those fields of a study that tables, figures and claims read.

    Attributes
    ----------
    kind, profile
        Kind of study and name of its profile.
    frame
        Table with one row per run that finished or failed, in declared order, like ``Study.frame``.
    selected
        Table of the selected runs, like ``Study.selected``.
    history
        Table with one row per selected run and epoch at which metrics were recorded.
    provenance
        Commits, devices, versions, data and hours of these runs.
    """

    kind: Kind[Any]
    profile: Any
    frame: pd.DataFrame
    selected: pd.DataFrame
    history: pd.DataFrame
    provenance: dict[str, Any]

    def probe_table(self, name: str) -> pd.DataFrame | None:
        """Return the recorded table of a probe, like ``Study.probe_table``; None if there is none."""
        path, column = RESULTS / self.profile.name / f"{name}.csv", f"{name}_version"
        if not path.exists() or column not in self.selected:
            return None
        rows = read_table(path, columns=("key",), mend=_cure(path))
        probed = self.selected.loc[self.selected[column].notna(), "key"]
        return rows[rows["key"].isin(probed)].reset_index(drop=True)


def record(found: Study, *, partial: bool = False) -> Path:
    """Write the finished and failed runs of a study to ``results/<profile>/``, replacing its content.

    Nothing is trained.

    Parameters
    ----------
    found
        Study to record.
    partial
        Whether to record a study even if runs are missing.

    Returns
    -------
    Path
        Folder with the records.

    Raises
    ------
    ValueError
        If no run has finished, or runs are missing; the message names them.
    """
    name, rows = found.profile.name, found.frame
    if rows.empty or not (rows["status"] == "finished").any():
        raise ValueError(
            f"no run of profile {name} has finished in {found.store.root} (study {found.kind.name}): "
            "train it before you record it"
        )
    if not partial:
        found.check_ended()
    if found.kind.selects:
        keys = list(dict.fromkeys([*rows["key"], *found.selected["key"]]))  # trained again: last
        both = pd.concat([found.selected, rows]).drop_duplicates("key")
        rows = both.set_index("key").loc[keys].reset_index()
        rows = rows.assign(selected=rows["key"].isin(found.selected["key"]))
    rows = rows[rows["status"].isin(["finished", "failed"])]
    history = found.history
    history = history[history["key"].isin(rows["key"]) & history[found.kind.recorded_with].notna()]
    if found.kind.selects:
        history = history.sort_values(["key", "epoch"])
    probes = PROBES if found.kind.selects else {}
    tables = {
        probe: None if kind.tabled == () else kind.to_record(found.probe_table(probe))
        for probe, kind in probes.items()
    }
    return _write(_folder(name, found.kind), rows, history, _provenance(name, found.store, rows), tables)


def _folder(name: str, kind: Kind[Any]) -> Path:
    return RESULTS / name / ("" if kind.selects else kind.name)


def _write(
    target: Path,
    rows: pd.DataFrame,
    history: pd.DataFrame,
    provenance: dict[str, Any],
    tables: Mapping[str, pd.DataFrame | None],
) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS, prefix=folder_prefix("recording")) as folder:
        made = Path(folder)
        for table, file in ((rows, "runs.csv"), (history, "history.csv")):
            table.drop(columns="missing", errors="ignore").to_csv(made / file, index=False)
        (made / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
        target.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            if table is None:
                (target / f"{name}.csv").unlink(missing_ok=True)
            else:
                table.to_csv(made / f"{name}.csv", index=False, float_format="%.6g")
        for path in sorted(made.iterdir()):
            path.replace(target / path.name)
    return target


def _provenance(name: str, store: RunStore, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the runs' provenance: every distinct value, with the number of runs that have it."""
    paths = [store.directory(str(key)) / "provenance.json" for key in rows["key"]]
    runs = [store.provenance(store.spec(str(key))) for key in rows["key"]]
    counted = {title: _distinct(runs, names) for title, names in _DISTINCT.items()}
    made = {
        probe: [store.probe(str(key), probe, version=kind.version) for key in rows["key"]]
        for probe, kind in PROBES.items()
    }
    probes = {
        probe: _distinct([one for one in found if one is not None], ("commit", "dirty", "device", "versions"))
        for probe, found in made.items()
        if any(one is not None for one in found)
    }
    last = max(path.stat().st_mtime for path in paths)
    return {
        "profile": name,
        "trained_until": datetime.fromtimestamp(last, timezone.utc).date().isoformat(),
        "runs": len(runs),
        "run_seconds": round(sum(run["cohort_seconds"] / run["cohort_runs"] for run in runs), 1),
        **counted,
        **({"probes": probes} if probes else {}),
    }


def _distinct(made: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return every distinct combination of some fields' values, with the number of runs that have it."""
    values = [json.dumps({name: one.get(name) for name in names}, sort_keys=True) for one in made]
    return [{**json.loads(one), "runs": values.count(one)} for one in sorted(set(values))]


def recorded(name: str, *, study: str = "ablation") -> Recorded | None:
    """Return the recorded runs of a profile, or None if there are none.

    Parameters
    ----------
    name
        Name of the profile.
    study
        Kind of its runs: ``ablation`` or ``bottlenecks``.

    Raises
    ------
    ValueError
        If the profile is unknown, or no longer declares some of the recorded runs.
    """
    kind = kind_of(study)
    folder = _folder(name, kind)
    if name in kind.profiles and not (folder / "runs.csv").exists():  # declaring thousands of runs takes time
        return None
    state = _state(folder, kind.profiles.get(name))
    if state is None or (study, name) not in _READ or _READ[study, name][0] != state:
        _READ[study, name] = state, _read_whole(name, kind, folder)
    found = _READ[study, name][1]
    tables = {part: getattr(found, part).copy() for part in ("frame", "selected", "history")}
    return replace(found, **tables, provenance=copy.deepcopy(found.provenance))


_READ: dict[tuple[str, str], tuple[object, Recorded]] = {}
"""Cache of recorded runs by study and profile, each with the state in which it was read."""


def _state(folder: Path, declared: object) -> object:
    """Return a value that changes with a record's files, declared runs or probes; None: a file is missing."""
    try:
        files = [(folder / name).stat() for name in ("runs.csv", "history.csv", "provenance.json")]
    except OSError:
        return None
    states = [(one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) for one in files]
    return folder, states, declared, versions()


def _read_whole(name: str, kind: Kind[Any], folder: Path) -> Recorded:
    runs, chosen = kind.declared(name), kind.profiles[name]
    marked = ("key", "status", "architecture", "seed", *(("selected",) if kind.selects else ()))
    rows, history = _read(folder / "runs.csv", marked), _read(folder / "history.csv", ("key", "epoch"))
    keys = set(map(run_key, runs))
    again = map(retrained, runs) if chosen.retrain else ()
    _check_declared(rows, keys | set(map(run_key, again)), name, folder)
    rows = _without_old_probes(rows)
    selected = rows[rows.pop("selected")].reset_index(drop=True) if kind.selects else rows
    if set(history["key"]) - set(selected["key"]):
        raise ValueError(
            f"{folder}/history.csv and runs.csv belong to different runs: record the profile again"
        )
    return Recorded(
        kind=kind,
        profile=chosen,
        frame=rows[rows["key"].isin(keys)].reset_index(drop=True),
        selected=selected,
        history=history,
        provenance=read_object(
            folder / "provenance.json", fields=_PROVENANCE, mend=_cure(folder / "provenance.json")
        ),
    )


def _without_old_probes(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out the results of outdated versions of probes, as if the runs had not been probed."""
    for name, version in versions().items():
        column = f"{name}_version"
        if column in rows and (rows[column].dropna() != version).any():
            rows = rows.drop(columns=[one for one in rows if str(one).startswith(f"{name}_")])
    return rows


def _check_declared(rows: pd.DataFrame, keys: set[str], name: str, folder: Path) -> None:
    strange = sorted(set(rows["key"]) - keys)
    if strange:
        raise ValueError(
            f"{len(strange)} of {len(rows)} recorded runs of profile {name} are not among those that it "
            f"declares now (the first: {strange[0][:12]}), because protocol or specs have changed: train "
            f"the profile and record it again, or remove {folder}"
        )


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return a table as the run store would: every number to the bit, and only empty cells missing.

    Raises
    ------
    lpc.store.reading.Damaged
        If the file is missing, is not a complete table, or lacks one of the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *lines = csv.reader(stream, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise damaged(path, f"is not a complete table ({error})", mend=_cure(path)) from error
    if absent := [name for name in columns if name not in header]:
        raise damaged(path, f"has no column {', '.join(absent)}", mend=_cure(path))
    for place, line in enumerate(lines, 1):
        if len(line) != len(header):
            what = f"has {len(line)} cells in row {place}, expected {len(header)}"
            raise damaged(path, what, mend=_cure(path))
    rows = [
        {name: text if name == "key" else _value(text) for name, text in zip(header, line, strict=True)}
        for line in lines
    ]
    return pd.DataFrame(rows, columns=header)


def _cure(path: Path) -> str:
    return f"record the profile again, or remove {path.parent}"


def _value(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def all_recorded(*, beside: str | None = None) -> list[Recorded]:
    """Return all recorded runs, in the order of the profiles.

    Parameters
    ----------
    beside
        Profile whose runs are at hand: it is left out, and so are profiles with other tables of
        architectures, which cannot be compared with it. None: nothing is left out.
    """
    if beside is None:
        return _recorded(PROFILES)
    table = profile(beside).variants
    return _recorded(name for name, one in PROFILES.items() if name != beside and one.variants == table)


def all_probed(probe: str, *, beside: str) -> list[Recorded]:
    """Return the recorded runs of all profiles in which a selected run was probed, in the profiles' order.

    Parameters
    ----------
    probe
        Name of the probe.
    beside
        Profile whose runs are at hand: it is left out, and so are profiles with architectures that it does
        not have. Profiles with only some of its architectures stay, such as those of the attacked networks.
    """
    table = profile(beside).variants.items()
    found = _recorded(
        name for name, one in PROFILES.items() if name != beside and one.variants.items() <= table
    )
    return [one for one in found if f"{probe}_version" in one.selected]


def _recorded(names: Iterable[str], *, study: str = "ablation") -> list[Recorded]:
    """Return the recorded runs of the named profiles, in the given order."""
    found = (recorded(name, study=study) for name in names)
    return [one for one in found if one is not None]


def all_recorded_bottlenecks(*, beside: str | None = None) -> list[Recorded]:
    """Return all recorded runs for Kirsch et al.'s figures, in the order of the profiles.

    Parameters
    ----------
    beside
        Profile whose runs are at hand, which is left out; None: nothing is left out.
    """
    return _recorded((name for name in BOTTLENECK_PROFILES if name != beside), study="bottlenecks")


def summary() -> pd.DataFrame:
    """Return one row per recorded profile: how much was run, where, when and with which code."""
    rows = {}
    for one in (*all_recorded(), *all_recorded_bottlenecks()):
        name, what = one.profile.name, one.profile.summary
        if not one.kind.selects:
            name, what = f"{name}, {one.kind.name}", f"Kirsch et al.'s figures: {what}"
        made = one.provenance
        finished = int((one.frame["status"] == "finished").sum())
        rows[name] = {
            "what": what,
            "runs finished": f"{finished} of {len(one.kind.declared(made['profile']))}",
            "device": ", ".join(sorted({entry["device"] for entry in made["machine"]})),
            "until": made["trained_until"],
            "code": ", ".join(_commit(entry) for entry in made["code"]),
            "run-hours": f"{made['run_seconds'] / 3600:.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("profile")


def _commit(entry: Mapping[str, Any]) -> str:
    short = "unknown" if entry["commit"] is None else entry["commit"][:8]
    return f"{short} with local changes" if entry["dirty"] else short
