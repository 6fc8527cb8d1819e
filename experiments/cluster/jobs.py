"""What the scheduler still has of a store's submissions: shown, and taken back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from experiments.cluster import slurm
from experiments.cluster.submissions import Submission, SubmittedJob, every, read

Queue = dict[str, tuple[Submission, SubmittedJob, dict[str, slurm.QueuedTask]]]
"""Jobs by id: of which submission, and what the scheduler says of their tasks."""


def queued(store: str) -> Queue:
    """Return the jobs of a store's submissions that the scheduler still has, by id, and their tasks there."""
    known = {job.id: (one, job) for one in every(store) for job in one.jobs}
    tasks = slurm.states(known) if known else {}
    found = {}
    known.pop(os.environ.get("SLURM_JOB_ID", ""), None)  # the last job, as it submits again
    for name, (one, job) in known.items():
        alive = {task: state for task, state in tasks.items() if task.split("_")[0] == name}
        if alive:
            found[name] = (one, job, alive)
    return found


def in_queue(store: str) -> list[str]:
    """Return, one line per job of a store's submissions, what the scheduler has of it.

    Where it has nothing more of the last one, what that one's report begins with.
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
    """Cancel the jobs of submissions; return what was cancelled, in words.

    Parameters
    ----------
    store
        Folder of the run store.
    names
        Submissions by id; none: all of the store.

    Raises
    ------
    ValueError
        An unknown submission.
    """
    wanted = {read(store, name).id for name in names}
    slurm.require()
    there = {name: one for name, (one, *_) in queued(store).items() if not names or one.id in wanted}
    slurm.cancel(there)
    return [f"job {name} of submission {one.id} is cancelled" for name, one in there.items()] or [
        f"no job of {store} is in the queue"
    ]
