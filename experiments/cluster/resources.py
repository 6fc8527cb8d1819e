"""The cluster's profile file: the resources that jobs request, by profile of the experiments."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from experiments.paths import CLUSTER_EXAMPLE, read_toml
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import GROUPS, PROFILES
from lpc.errors import unknown_name

ALL = "all"
"""The table that holds for every job."""
FINISH = "finish"
"""The table of the last job: test metrics, chapters, book."""

_TIME = re.compile(r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>s|min|h|d)", re.ASCII)
_CLOCK = re.compile(
    r"(?:(?P<days>\d+)-(?P<hour>[01]?\d|2[0-3])(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?"
    r"|(?P<hours>\d+):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d))",
    re.ASCII,
)
_MEMORY = re.compile(r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>MB?|GB?)", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_LONGEST_WARNING = 65_535  # seconds: sbatch's most

_SET_HERE = (
    *("array", "chdir", "dependency", "error", "job-name", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "parsable", "requeue", "signal", "test-only", "wait", "wrap"),
)
"""Options of sbatch that a submission sets itself, or that would change what sbatch does."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources that one task of a job requests from the scheduler, and settings of its job array.

    Attributes
    ----------
    time
        Time limit in whole minutes.
    partition, account, qos, constraint, gres
        SLURM's options of these names; None: the cluster's defaults.
    memory
        Memory of the node in SLURM's MB (1 GB is 1,024 MB); None: the cluster's default.
    cpus
        Number of cores; None: the cluster's default, usually one.
    runs_at_once
        Number of runs that one task trains side by side on its GPU.
    tasks_at_once
        Largest number of tasks of a job array that run at the same time.
    warning
        Seconds before the time limit at which SIGUSR1 asks the training to write a checkpoint. SLURM may
        send it a minute early.
    tries
        Number of failures after which a task is not retried.
    setup
        Shell commands that run on the node before Python starts.
    options
        Other options of sbatch, by their long names; True for one without a value.
    """

    time: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    memory: int | None = None
    cpus: int | None = None
    runs_at_once: int = 1
    tasks_at_once: int = 64
    warning: int = 300
    tries: int = 3
    setup: tuple[str, ...] = ()
    options: Mapping[str, str | bool] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """Return the requested resources by submitit's names; ``options`` are left out."""
        asked = {key.parameter: getattr(self, name) for name, key in _KEYS.items() if key.parameter}
        if self.memory is not None:
            asked[_KEYS["memory"].parameter] = f"{self.memory}M"
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class ClusterFile:
    """A profile file that was read and checked.

    Attributes
    ----------
    path
        Path of the file.
    tables
        Content of its tables, in the units of :class:`Resources` except for ``time``, which is in seconds.
    """

    path: Path
    tables: Mapping[str, Mapping[str, Any]]

    def of(self, name: str) -> Resources:
        """Return the resources that the jobs of a profile request.

        For each key, the table of the profile has precedence over that of its group (``paper`` for
        ``paper-svhn``), and both over ``all``.

        Parameters
        ----------
        name
            Name of a profile of either study, or ``finish`` for the last job.

        Raises
        ------
        ValueError
            If the name is unknown, the profile has no time limit, or the warning is not shorter than the
            limit.
        """
        if name not in _jobs():
            raise unknown_name("profile", name, _jobs())
        asked: dict[str, Any] = {}
        source: dict[str, str] = {}
        for table in _chain(name):
            found = self.tables.get(table, {})
            options = {**asked.get("options", {}), **found.get("options", {})}
            asked |= {**found, "options": options}
            source |= dict.fromkeys(found, table)
        if "time" not in asked:
            raise ValueError(
                f"{self.path} has no time for the jobs of {name!r}; write it below [{ALL}] or [{name}], "
                'as time = "12 h"'
            )
        seconds = asked["time"]
        resources = Resources(**{**asked, "time": math.ceil(seconds / 60)})
        if resources.warning >= seconds:
            place = f"[{source['warning']}]: " if "warning" in source else "by default, "
            raise ValueError(
                f"{self.path}, {place}warning is {resources.warning:,} s; expected less than "
                f"the time of [{source['time']}], {float(seconds):,.10g} s"
            )
        return resources


def read(path: str | Path) -> ClusterFile:
    """Return a profile file; ``cluster.example.toml`` explains its keys.

    Raises
    ------
    ValueError
        If the file is missing or not TOML, a table, key or unit is unknown, a value has the wrong type, a
        time or a memory has no unit, or an option of sbatch is set elsewhere.
    """
    path = Path(path)
    try:
        content = read_toml(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; copy {CLUSTER_EXAMPLE} to it and edit it") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    tables = {}
    for name, values in content.items():
        if not isinstance(values, dict):
            raise ValueError(
                f"{path}: {name} is {values!r}, outside any table; expected [{ALL}], [{FINISH}] or a "
                "profile's name in brackets above it"
            )
        if name not in (ALL, *GROUPS, *_jobs()):
            raise unknown_name(f"table in {path}:", name, [ALL, *GROUPS, *_jobs()])
        tables[name] = {key: _value(key, value, path, name) for key, value in values.items()}
    found = ClusterFile(path, tables)
    for job in _jobs():
        if any("time" in tables.get(table, {}) for table in _chain(job)):
            found.of(job)
    return found


def _jobs() -> list[str]:
    return list(dict.fromkeys([*PROFILES, *BOTTLENECK_PROFILES, FINISH]))


def _chain(name: str) -> list[str]:
    """Return the names of the tables that apply to a profile's jobs, the most general first."""
    return [ALL, *(group for group, members in GROUPS.items() if name in members), name]


def _value(key: str, value: object, path: Path, table: str) -> Any:
    """Return a key's value in the units of the tables, or raise a ValueError that names it."""
    if key not in _KEYS:
        raise unknown_name(f"key in {path}, [{table}]:", key, _KEYS)
    result = _KEYS[key].parse(value)
    if result is None:
        raise ValueError(f"{path}, [{table}]: {key} is {value!r}; expected {_KEYS[key].expected}")
    if table == FINISH and key in ("runs_at_once", "tasks_at_once"):
        raise ValueError(f"{path}, [{table}]: {key} has no meaning: the last job trains nothing")
    if key == "options":
        return {name: _option(name, given, path, table) for name, given in result.items()}
    return result


def _option(name: str, value: object, path: Path, table: str) -> str | bool:
    place = f"{path}, [{table}.options]: {name} is {value!r}"
    if not _OPTION.fullmatch(name):
        raise ValueError(f'{place}; expected the long name of an option of sbatch, such as "mail-type"')
    own = next((key for key, about in _KEYS.items() if name in about.options), None)
    if own is not None:
        raise ValueError(f"{place}; expected the key {own} of [{table}] instead")
    if name in _SET_HERE:
        raise ValueError(f"{place}; remove it: the submission sets this option itself")
    text = True if value is True else _text(str(value) if type(value) is int else value)
    if text is None:
        raise ValueError(f"{place}; expected text, a whole number, or true for an option without a value")
    return text


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value.isprintable() or value.strip() != value:
        return None
    return value or None


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _seconds(value: object) -> Fraction | None:
    if not isinstance(value, str):
        return None
    if match := _TIME.fullmatch(value):
        seconds = Fraction(match["amount"]) * _SECONDS[match["unit"]]
    elif match := _CLOCK.fullmatch(value):
        given = {name: int(number or 0) for name, number in match.groupdict().items()}
        hours = 24 * given["days"] + given["hour"] + given["hours"]
        minutes = 60 * hours + given["minute"] + given["minutes"]
        seconds = Fraction(60 * minutes + given["second"] + given["seconds"])
    else:
        return None
    return seconds if seconds > 0 else None


def _warning(value: object) -> int | None:
    seconds = _seconds(value)
    return None if seconds is None or seconds > _LONGEST_WARNING else math.ceil(seconds)


def _megabytes(value: object) -> int | None:
    match = _MEMORY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    return math.ceil(Fraction(match["amount"]) * (1_024 if match["unit"][0] == "G" else 1)) or None


def _lines(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    good = all(isinstance(line, str) and line.strip() and "\n" not in line for line in value)
    return tuple(value) if good else None


def _table(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


class _Key(NamedTuple):
    """A key of a table.

    Attributes
    ----------
    parse
        Function that returns the value in the units of :class:`Resources`, or None if it is invalid.
    expected
        Description of valid values.
    parameter
        Parameter of submitit that it sets; empty: none.
    options
        Options of sbatch that it replaces.
    """

    parse: Callable[[Any], Any]
    expected: str
    parameter: str = ""
    options: tuple[str, ...] = ()


_NUMBER = "a whole number above 0"
_LIMIT = 'a time in quotes with its unit, such as "12 h", "90 min", "2 d", "12:00:00" or "1-12:00:00"'
_SIZE = 'memory in quotes with its unit, MB or GB, such as "32 GB" or "500 MB"'
_KEYS: Mapping[str, _Key] = {
    "partition": _Key(_text, 'a name in quotes, such as "gpu"', "partition", ("partition",)),
    "account": _Key(_text, 'a name in quotes, such as "project42"', "account", ("account",)),
    "qos": _Key(_text, 'a name in quotes, such as "long"', "qos", ("qos",)),
    "constraint": _Key(
        _text, 'features of nodes in quotes, such as "a100|h100"', "constraint", ("constraint",)
    ),
    "gres": _Key(_text, 'generic resources in quotes, such as "gpu:1"', "gres", ("gres",)),
    "time": _Key(_seconds, _LIMIT, "time", ("time",)),
    "memory": _Key(_megabytes, _SIZE, "mem", ("mem", "mem-per-cpu", "mem-per-gpu")),
    "cpus": _Key(_count, _NUMBER, "cpus_per_task", ("cpus-per-task", "cpus-per-gpu")),
    "runs_at_once": _Key(_count, _NUMBER),
    "tasks_at_once": _Key(_count, _NUMBER, "array_parallelism"),
    "warning": _Key(_warning, f'{_LIMIT}, at most {_LONGEST_WARNING:,} s, such as "5 min"', "signal_delay_s"),
    "tries": _Key(_count, _NUMBER),
    "setup": _Key(_lines, 'a list of shell commands, none of them empty, such as ["module load cuda"]'),
    "options": _Key(_table, 'a table of its own, such as exclude = "node7" below [all.options]'),
}
"""Every key that a table may have: its values, and its names in submitit and sbatch."""
