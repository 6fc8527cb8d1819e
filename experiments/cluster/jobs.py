"""Showing and cancelling the jobs of a store's submissions that are still in the queue."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from experiments.cluster import slurm
from experiments.cluster.submissions import Submission, SubmittedJob, every, read

Queue = dict[str, tuple[Submission, SubmittedJob, dict[str, slurm.QueuedTask]]]
"""By id of each job: its submission, and the scheduler's state of its tasks."""


def queued(store: str) -> Queue:
    """Return the jobs of a store's submissions that are in the queue, by id, with their tasks."""
    known = {job.id: (one, job) for one in every(store) for job in one.jobs}
    tasks = slurm.states(known) if known else {}
    found = {}
    known.pop(os.environ.get("SLURM_JOB_ID", ""), None)  # the last job itself, which submits again
    for name, (one, job) in known.items():
        alive = {task: state for task, state in tasks.items() if task.split("_")[0] == name}
        if alive:
            found[name] = (one, job, alive)
    return found


def in_queue(store: str) -> list[str]:
    """Return the scheduler's state of a store's submissions, one line per job.

    If no job of the last submission is left in the queue, the line is the beginning of its report.
    """
    known = [one for one in every(store) if one.request.resources]
    if not known:
        return []
    try:
        there = queued(store)
    except slurm.SchedulerError as error:
        return [f"the queue is not known: {error}"]
    lines = []
    for one, job, alive in there.values():
        counts = Counter(_words(task) for task in alive.values())
        states = ", ".join(f"{count} {words}" for words, count in counts.most_common())
        lines.append(f"job {job.id} ({job.kind} {job.profile}, submission {one.id}): {states}")
    report = known[-1].folder / "report.txt"
    if not there and report.exists():
        first = report.read_text(errors="replace").partition("\n")[0]
        lines.append(f"{first or 'an empty report'} (at the end of submission {known[-1].id}: {report})")
    return lines


def _words(task: slurm.QueuedTask) -> str:
    waits = task.state == "PENDING" and task.reason != "None"
    return task.state.lower() + (f" ({task.reason})" if waits else "")


def take_back(store: str, names: Sequence[str] = ()) -> list[str]:
    """Cancel the jobs of submissions; return a line per cancelled job.

    Parameters
    ----------
    store
        Folder of the run store.
    names
        Ids of submissions; none given: all those of the store.

    Raises
    ------
    ValueError
        If a submission is unknown.
    """
    wanted = {read(store, name).id for name in names}
    slurm.require()
    there = {name: one for name, (one, *_) in queued(store).items() if not names or one.id in wanted}
    slurm.cancel(there)
    return [f"job {name} of submission {one.id} is cancelled" for name, one in there.items()] or [
        f"no job of {store} is in the queue"
    ]
