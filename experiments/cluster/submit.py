"""Submits missing runs to a SLURM cluster as job arrays, and a last job that makes the book."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from experiments.cluster import slurm
from experiments.cluster.demand import of_request
from experiments.cluster.jobs import Queue, queued
from experiments.cluster.missing_runs import again, missing
from experiments.cluster.resources import FINISH, Resources
from experiments.cluster.resources import read as read_resources
from experiments.cluster.submissions import Kind, Request, Submission, SubmittedJob, begin, code, difference
from experiments.paths import ROOT
from experiments.studies.profiles import BOOKS
from lpc.datasets import absent_files, data_folder
from lpc.errors import missing_extra, unknown_name
from lpc.runs.packing import plan
from lpc.specs import run_key
from lpc.store import RunStore

os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # read when submitit is imported
if TYPE_CHECKING:
    from submitit import SlurmExecutor

_T = TypeVar("_T")

AGAIN = """\
again() {
  code=$?
  [ $code -eq 0 ] && exit 0
  job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
  [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ] || exit $code
  case $code in 130|138|143) ;; *)
    failed="$LPC_SUBMISSION/$job.failed"
    echo "$(date -Is) $SLURMD_NODENAME status $code" >> "$failed"
    [ "$(wc -l < "$failed")" -lt "$LPC_TRIES" ] || exit $code
  esac
  scontrol requeue "$job"
}
trap again EXIT"""
"""Shell code of every job. It requeues tasks that a signal stopped (status 130, 138 or 143), even before
Python could handle it, and retries failed ones a few times; it leaves cancelled ones, which the scheduler no
longer calls RUNNING, alone. A task is named by its array and number: the plain id of an array's last task
stands for the whole array."""


DEFAULT_ARRAY = 1_000
"""Largest number of tasks in an array if SLURM cannot be asked; its own default allows 1,001."""


class Batch(NamedTuple):
    """Tasks of one kind, submitted as one array; the runs of each task are as in ``SubmittedJob.tasks``."""

    kind: Kind
    profile: str
    tasks: list[list[str]]

    @property
    def name(self) -> str:
        """The name that the scheduler shows."""
        return f"lpc-{self.kind}-{self.profile}"


def batches(request: Request, taken: Iterable[str] = ()) -> list[Batch]:
    """Return the arrays that train a request's missing runs, without the last job.

    Parameters
    ----------
    request
        The user's request.
    taken
        Runs that other jobs already have: their keys, or ``architecture/seed``.
    """
    store, taken = RunStore(request.store), set(taken)
    resources = read_resources(Path(request.resources))
    hopeless = {one.name for one in missing(request) if one.given_up} if request.turn > 1 else set()
    found: list[Batch] = []
    for profile, specs in request.selection.declared().items():
        together = resources.of(profile).runs_at_once
        waiting = [spec for spec in specs if run_key(spec) not in taken | hopeless]
        plans = [
            [run_key(spec) for spec in one.specs if not store.finished(spec)] for one in plan(waiting, store)
        ]
        alone = [key for keys in plans if len(keys) == 1 for key in keys]
        tasks = [keys for keys in plans if len(keys) > 1] + _packs(alone, together)
        if tasks:
            found.append(Batch("train", profile, tasks))
        pairs = [pair for pair in again(request, profile) if f"{profile} {pair}" not in taken]
        if pairs:
            found.append(Batch("retrain", profile, _packs(pairs, together)))
    return found


def _packs(names: Sequence[_T], size: int) -> list[list[_T]]:
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def executor(
    batch: Batch, submission: Submission, resources: Resources, after: Sequence[str]
) -> SlurmExecutor:
    """Return submitit's executor for a batch, with a job's resources and shell code."""
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """Makes scripts even without SLURM; before a submission, :func:`check` has made sure of it."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    made = Executor(folder=submission.folder)
    made.update_parameters(
        job_name=batch.name,
        **resources.parameters(),
        **({"dependency": f"afterany:{':'.join(after)}"} if after else {}),
        wckey=None,
        stderr_to_stdout=True,
        additional_parameters={"chdir": str(ROOT), "requeue": True, **resources.options},
        setup=[
            f"export SUBMITIT_PREEMPT_SIGNAL=USR1 LPC_TRIES={resources.tries}",
            f"export LPC_SUBMISSION={shlex.quote(str(submission.folder))}",
            f"export LPC_DATA={shlex.quote(str(data_folder().absolute()))}",
            # Tasks share their compiled code, in the user's own folder if the variable names one.
            f"inductor={shlex.quote(str(Path(submission.request.store) / 'inductor'))}",
            'export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$inductor}"',
            'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',  # srun does not inherit it
            *AGAIN.splitlines(),
            *resources.setup,
        ],
    )
    return made


def script(made: SlurmExecutor, tasks: int) -> str:
    """Return the batch script of an array with the given number of tasks, as submitit will write it."""
    alike = type(made)(folder=made.folder)
    alike.parameters = {**made.parameters, **({"map_count": tasks} if tasks > 1 else {})}
    return alike._make_submission_file_text(alike._submitit_command_str, "")


def check(request: Request, *, slurm_answers: bool = True) -> None:
    """Refuse a request that is bound to fail on a node, before it is submitted.

    Parameters
    ----------
    request
        The user's request.
    slurm_answers
        Whether to ask SLURM; False for a dry run without it.

    Raises
    ------
    ValueError
        If the profile file has an error, or :func:`check_here` raises one.
    OSError
        If the store cannot be written to.
    SchedulerError
        If there is no SLURM here, or it does not answer.
    """
    if find_spec("submitit") is None:
        raise missing_extra("the verb submit", ["submitit"], "cluster")
    resources = read_resources(Path(request.resources))
    if slurm_answers:
        slurm.require()
    check_here(request)
    for name in (*request.selection.declared(), FINISH):
        asked = resources.of(name)
        longest = slurm.time_limit(asked.partition) if slurm_answers else None
        if longest is not None and asked.time > longest:
            raise ValueError(
                f"{request.resources}: the jobs of {name} request {asked.time} minutes, and partition "
                f"{asked.partition or '(the default one)'} allows {longest} at most: they would never start"
            )


def absent_data(request: Request) -> str | None:
    """Return a message on a request's missing data and how to fetch them; None if none are missing."""
    for name in request.selection.data_names():
        if absent := absent_files(name):
            return (
                f"data set {name!r} is incomplete: {absent[0].absolute()} is missing. Fetch it before many "
                f"tasks need it at once: python -m experiments fetch --profile {request.profile}"
            )
    return None


def check_code(there: Queue) -> None:
    """Raise a ValueError if a job in the queue was submitted with other code, and name the job."""
    for one, job, _ in there.values():
        differs = difference(one.code, code())
        if differs:
            raise ValueError(
                f"job {job.id} of submission {one.id} is in the queue with other code: {differs}. Its tasks "
                "would refuse to mix the two: wait for its end, or cancel it, before you submit more"
            )


def check_here(request: Request) -> None:
    """Refuse a request that is bound to fail after the training, on a cluster or on one machine.

    Raises
    ------
    ValueError
        If the profile for the remaining pages is not one that is trained with the book.
    OSError
        If the store cannot be written to.
    """
    if request.pages and request.beside not in BOOKS:
        raise unknown_name(
            "profile for the remaining chapters, trained with the book:", request.beside, BOOKS
        )
    root = Path(request.store)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass


def prepare(request: Request, there: Queue) -> tuple[list[Batch], list[str]]:
    """Return the batches to submit, and a line for each job in the queue whose runs are left out."""
    taken = {
        f"{job.profile} {name}" if job.kind == "retrain" else name
        for _, job, alive in there.values()
        for task in alive
        for name in job.tasks.get(task, [])
    }
    found = batches(request, taken)
    asked = set(request.selection.declared())
    left_out = [
        f"job {job.id}, submitted {one.created}, has {sum(len(job.tasks.get(task, [])) for task in alive)} "
        f"runs of {job.profile} in the queue already ({job.kind})"
        for one, job, alive in there.values()
        if job.kind != "finish" and job.profile in asked
    ]
    covered = any(job.kind == "finish" and job.profile == request.profile for _, job, _ in there.values())
    if found or not covered:
        found.append(Batch("finish", request.profile, [[]]))
    return found, left_out


def send(
    request: Request, entry: Callable[..., None], told: Callable[[str], object], *, dry_run: bool = False
) -> Submission | None:
    """Submit a request's missing runs, and the job that follows.

    Parameters
    ----------
    request
        The user's request.
    entry
        Function that a task calls, with the submission as a dictionary, the kind, the profile and its runs.
    told
        Callback for lines about the submission.
    dry_run
        Whether only to show, word for word, what would be submitted, and its hours and disk space. If SLURM
        is absent or does not answer, the scripts are shown unchecked.

    Returns
    -------
    Submission or None
        The submission; None if there is nothing to submit, or it is a dry run.

    Raises
    ------
    ValueError, SchedulerError
        If :func:`check` or :func:`check_code` raises one, data sets are missing, or the scheduler refuses a
        script before any is submitted or stops answering after some were.
    """
    unanswered = _unanswered() if dry_run else None
    check(request, slurm_answers=unanswered is None)
    if absent := absent_data(request):
        if not dry_run:
            raise ValueError(absent)
        told(f"do this first: {absent}")
    there = {} if unanswered else queued(request.store)  # this job's own variables say which of them it is
    check_code(there)
    with _outside_of_a_job():
        todo, left_out = prepare(request, there)
        for line in left_out:
            told(line)
        if not todo:
            told("nothing is left to submit")
            return None
        submission, resources = begin(request), read_resources(Path(request.resources))
        size = DEFAULT_ARRAY if unanswered else slurm.max_array()
        parts = [
            (part, resources.of("finish" if part.kind == "finish" else part.profile))
            for batch in todo
            for part in (batch._replace(tasks=tasks) for tasks in _packs(batch.tasks, size))
        ]
        for part, asked in parts if unanswered is None else ():
            slurm.test(script(executor(part, submission, asked, ()), len(part.tasks)))
        if dry_run:
            told(of_request(request))
            if unanswered:
                told(
                    f"unchecked: {unanswered} So the scripts below were not tested, and nothing was compared "
                    "with time limits, or with the store's jobs that may be in the queue; arrays have "
                    f"{size:,} tasks at most."
                )
            named = [(part.kind, part.profile, f"<{part.name}>") for part, _ in parts]
            for number, (part, asked) in enumerate(parts):
                made = executor(part, submission, asked, _after(part, there, named[:number]))
                told(f"### {_summary(part)}\n{script(made, len(part.tasks))}")
            return None
        return _send(parts, submission, there, entry, told)


def _unanswered() -> str | None:
    """Return the reason why SLURM cannot be asked; None if it answers."""
    try:
        slurm.require()
    except slurm.SchedulerError as error:
        return f"{str(error).rstrip('.')}."
    return None


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Hide this job's variables, but not the cluster's, from the jobs it submits: they would inherit them."""
    from submitit.helpers import clean_env

    cluster = {name: text for name, text in os.environ.items() if name == "SLURM_CONF"}
    with clean_env():
        os.environ.update(cluster)
        yield


def _send(
    parts: Sequence[tuple[Batch, Resources]],
    submission: Submission,
    there: Queue,
    entry: Callable[..., None],
    told: Callable[[str], object],
) -> Submission:
    from submitit.core.utils import FailedJobError

    begun = submission
    submission.make_folder()
    for part, asked in parts:
        sent = [(job.kind, job.profile, job.id) for job in submission.jobs]
        made = executor(part, submission, asked, _after(part, there, sent))
        calls = [(asdict(begun), part.kind, part.profile, names) for names in part.tasks]
        try:
            jobs = made.map_array(entry, *zip(*calls, strict=True))
        except (FailedJobError, OSError) as error:
            raise slurm.SchedulerError(
                f"{part.name} could not be submitted: {str(error).strip()}. {len(submission.jobs)} of "
                f"{len(parts)} jobs are in the queue; once the scheduler answers, submit again for the rest"
            ) from error
        tasks = {job.job_id: names for job, names in zip(jobs, part.tasks, strict=True)}
        submission = submission.with_job(SubmittedJob(kind=part.kind, profile=part.profile, tasks=tasks))
        submission.write()
        told(f"job {submission.jobs[-1].id}: {_summary(part)}")
    return submission


def _after(part: Batch, there: Queue, sent: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the ids of the jobs that must end before a batch's jobs begin."""
    before = [*((job.kind, job.profile, job.id) for _, job, _ in there.values()), *sent]
    return {
        "train": [],
        "retrain": [name for kind, of, name in before if kind == "train" and of == part.profile],
        "finish": [name for *_, name in before],
    }[part.kind]


def _summary(part: Batch) -> str:
    runs = sum(map(len, part.tasks))
    tasks = f"{len(part.tasks)} task{'s' if len(part.tasks) > 1 else ''}"
    return {
        "train": f"{tasks}, {runs} runs of {part.profile}",
        "retrain": f"{tasks}, {runs} selected runs of {part.profile} again on the full train set",
        "finish": f"tables, chapters and book of {part.profile}",
    }[part.kind]
