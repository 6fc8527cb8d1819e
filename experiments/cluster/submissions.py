"""Records of submissions to a cluster: one small JSON file per submission, in the run store.

Layout::

    submissions/<id>.json    the request, the code's fingerprint, and the runs of each task of each job
    submissions/<id>/        logs of the jobs, submitit's files for them, the last job's report

The folder is closed to others (mode 0700): submitit hands over pickles, which run code when they are read.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from experiments.paths import ROOT
from experiments.studies.selection import Selection
from lpc.computing.provenance import provenance
from lpc.errors import unknown_name
from lpc.store.atomic import write_json
from lpc.store.reading import Damaged, damaged, read_object

Kind = Literal["train", "retrain", "finish"]
_OF_SELECTION = tuple(item.name for item in fields(Selection))


@dataclass(frozen=True, kw_only=True)
class Request:
    """A user's request.

    Attributes
    ----------
    profile, dataset, seeds, only, study
        Runs to train, as for the verb ``train``.
    store
        Folder of the run store, as an absolute path.
    resources
        Absolute path of the profile file; empty: the runs are trained on this machine.
    beside
        Profile of the pages whose runs were not requested.
    pages
        Whether the last job executes the chapters and builds the book.
    turn
        Number of the turn, from 1: when the last job submits missing runs again, the next turn begins.
    since
        Time at which the first turn was submitted (UTC, ISO 8601). Failures before it do not count.
    """

    profile: str
    dataset: str | None = None
    seeds: int | None = None
    only: tuple[str, ...] | None = None
    study: str = "ablation"
    store: str = "runs"
    resources: str = ""
    beside: str = "laptop"
    pages: bool = True
    turn: int = 1
    since: str = ""

    @property
    def selection(self) -> Selection:
        """The requested runs."""
        return Selection(**{name: getattr(self, name) for name in _OF_SELECTION})

    @classmethod
    def of(cls, selection: Selection, **more: Any) -> Request:
        """Return the request for the runs of a selection; the path of its store becomes absolute."""
        asked = {name: getattr(selection, name) for name in _OF_SELECTION}
        return cls(**{**asked, "store": str(Path(selection.store).absolute()), **more})


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job or job array, as it was submitted.

    Attributes
    ----------
    kind
        Kind of job: ``train``; ``retrain``, which retrains the selected learning rates; or ``finish``, which
        makes tables, chapters and book.
    profile
        Profile of its runs; for the last job, profile of the request.
    tasks
        Runs of each task, by the task's id at the scheduler: keys, or ``architecture/seed`` of runs that are
        retrained.
    """

    kind: Kind
    profile: str
    tasks: dict[str, list[str]]

    @property
    def id(self) -> str:
        """The id of the whole job or array."""
        return next(iter(self.tasks)).split("_")[0]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission: the request, the code, and its jobs."""

    id: str
    created: str
    request: Request
    code: dict[str, Any]
    jobs: tuple[SubmittedJob, ...] = field(default=())

    @property
    def folder(self) -> Path:
        """The folder of logs and reports."""
        return Path(self.request.store) / "submissions" / self.id

    def make_folder(self) -> None:
        """Make the folder of logs and of submitit's files, closed to other users.

        The nodes run submitit's pickles as code: anyone who may write there can run code as this user.

        Raises
        ------
        ValueError
            If the folder belongs to another user.
        """
        _close_to_others(self.folder.parent)
        _close_to_others(self.folder)

    def with_job(self, job: SubmittedJob) -> Submission:
        """Return the submission with one more job."""
        return replace(self, jobs=(*self.jobs, job))

    def write(self) -> None:
        """Write the record; a reader sees either the old one or all of the new one."""
        _close_to_others(self.folder.parent)
        write_json(self.folder.with_suffix(".json"), asdict(self))


def _close_to_others(folder: Path) -> None:
    """Make a folder that only this user may enter."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ValueError(
            f"{folder} belongs to another user, who could run code as you on the nodes; use a store "
            "of your own"
        )
    folder.chmod(0o700)


def begin(request: Request) -> Submission:
    """Return a new submission without jobs; nothing is written yet."""
    now = datetime.now(timezone.utc)
    name = f"{now:%Y%m%d-%H%M%S-%f}"  # to the microsecond, so that names sort by time
    created = now.isoformat(timespec="seconds")
    return Submission(
        id=name, created=created, request=replace(request, since=request.since or created), code=code()
    )


def read(store: str | Path, name: str) -> Submission:
    """Return a submission by id.

    Raises
    ------
    ValueError
        If the id is unknown, or the record is damaged.
    """
    path = Path(store) / "submissions" / f"{name}.json"
    if not path.exists():
        known = sorted(one.stem for one in path.parent.glob("*.json"))
        if not known:
            raise ValueError(f"there is no submission {name!r}: {path.parent} has no submissions")
        raise unknown_name(f"submission in {path.parent}:", name, known)
    mend = "remove it once none of its jobs is in the queue"
    values = read_object(path, mend=mend)
    try:
        return rebuild(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is not the record of a submission of this version ({error})"
        raise damaged(path, what, mend=mend) from error


def damages(store: str | Path) -> list[Damaged]:
    """Return one error for each damaged record of a store's submissions."""
    found = []
    for path in sorted((Path(store) / "submissions").glob("*.json")):
        try:
            read(store, path.stem)
        except Damaged as error:
            found.append(error)
    return found


def rebuild(values: Mapping[str, Any]) -> Submission:
    """Return the submission that was turned into a dictionary (``asdict``) or JSON."""
    request = dict(values["request"])
    only = request.pop("only")
    return Submission(
        **{
            **values,
            "request": Request(**request, only=None if only is None else tuple(only)),
            "jobs": tuple(SubmittedJob(**job) for job in values["jobs"]),
        }
    )


def every(store: str | Path) -> Iterator[Submission]:
    """Yield the submissions of a store, the oldest first."""
    for path in sorted((Path(store) / "submissions").glob("*.json")):
        yield read(store, path.stem)


@cache
def code() -> dict[str, Any]:
    """Return the fingerprint of this machine's code: its text, and the versions of its libraries."""
    digest = hashlib.sha256()
    for folder in ("lpc", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return {
        "digest": digest.hexdigest(),
        "commit": provenance(folders=("lpc", "experiments"))["commit"],
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "pandas")},
    }


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return a description of how the code here differs from a submission's; None if it does not."""
    here, there = ({**one["versions"], "Python": one["python"]} for one in (ours, theirs))
    differing = [
        f"{name} {here.get(name)} here, {version} there"
        for name, version in there.items()
        if here.get(name) != version
    ]
    if ours["digest"] != theirs["digest"]:
        short = [(one["commit"] or "unknown")[:8] for one in (ours, theirs)]
        differing.insert(
            0,
            f"lpc and experiments are at commit {short[0]} here, at {short[1]} there"
            + (", with other local changes" if short[0] == short[1] else ""),
        )
    return "; ".join(differing) or None
