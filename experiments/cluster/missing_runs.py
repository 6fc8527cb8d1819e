"""Missing runs of a request, and how the attempts at them ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.cluster.resources import read as read_resources
from experiments.cluster.submissions import Request, every
from experiments.studies.study import title
from lpc.specs import RunSpec, run_key
from lpc.store import RunStore


def again(request: Request, profile: str) -> dict[str, RunSpec | None]:
    """Return a profile's selected runs that still have to be retrained, by ``architecture/seed``.

    None stands for a run whose learning rate is not chosen yet.
    """
    found = request.selection.of(profile)
    if not found.profile.retrain:
        return {}
    pairs: dict[str, RunSpec | None] = dict.fromkeys(map(_pair, found.specs))
    pairs.update({_pair(spec): spec for spec in found.retrainings})
    return {pair: spec for pair, spec in pairs.items() if spec is None or not found.store.finished(spec)}


def _pair(spec: RunSpec) -> str:
    return f"{spec.architecture}/{spec.seed}"


class Missing(NamedTuple):
    """A run that has not ended.

    Attributes
    ----------
    profile, name
        Profile of the run, and its key or ``architecture/seed``, as in ``SubmittedJob.tasks``.
    title
        Readable name of the run.
    failures
        Attempts of this request that did not end well: where and how.
    tasks
        Failed tasks of this request that had the run, even if they failed before its turn, and their logs.
    given_up
        Whether the run has failed as often as the profile file allows.
    """

    profile: str
    name: str
    title: str
    failures: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    given_up: bool = False


def missing(request: Request) -> list[Missing]:
    """Return the runs of a request that have not ended."""
    store, failed, found = RunStore(request.store), _failed_tasks(request), []
    for profile, specs in request.selection.declared().items():
        tries = read_resources(Path(request.resources)).of(profile).tries if request.resources else None
        left: dict[str, tuple[str, RunSpec | None]] = {
            run_key(spec): (title(spec), spec) for spec in specs if not store.finished(spec)
        }
        for pair, spec in again(request, profile).items():
            left[pair] = (f"{pair.replace('/', ', seed ')}, again on all", spec)
        for name, (words, spec) in left.items():
            failures = tuple(
                f"{one.holder.since} on {one.holder}: {one.ended}"
                for one in ([] if spec is None else store.attempts(spec))
                if one.ended not in (None, "stopped") and one.holder.since >= request.since
            )
            found.append(
                Missing(
                    profile,
                    name,
                    words,
                    failures,
                    tuple(failed.get((profile, name), ())),
                    tries is not None and len(failures) >= tries,
                )
            )
    return found


def _failed_tasks(request: Request) -> dict[tuple[str, str], list[str]]:
    """Return the failed tasks of a request by profile and run, as their shells noted them."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in every(request.store):
        if one.created < request.since:
            continue
        for job in one.jobs:
            for task, names in job.tasks.items():
                path = one.folder / f"{task}.failed"
                if path.exists():
                    noted = "; ".join(path.read_text(errors="replace").splitlines())
                    line = f"task {task}: {noted}; log: {one.folder / f'{task}_0_log.out'}"
                    for name in names:
                        found.setdefault((job.profile, name), []).append(line)
    return found


def report(request: Request, runs: Sequence[Missing]) -> str:
    """Return lines on a request's missing runs and how the attempts at them ended."""
    total = sum(map(len, request.selection.declared().values()))
    if not runs:
        return f"profile {request.profile}: all {total} runs have ended"
    lines = [f"profile {request.profile}: {len(runs)} runs are missing"]
    for one in runs:
        lines.append(f"  {one.profile}: {one.title} ({one.name[:12]})")
        lines += [f"    {line}" for line in (*one.failures, *one.tasks)]
    return "\n".join([*lines, "the verb submit, called again, trains only these"])
