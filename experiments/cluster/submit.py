"""Submit what is missing to a SLURM cluster: arrays of runs, and a last job that makes the book."""

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
"""Shell of every job: what a signal stopped (130, 138, 143; also before Python heard it) is queued again,
what failed is tried again a few times, what was cancelled (no more RUNNING to the scheduler) is left alone.
A task is named by its array: the plain id of an array's last task stands for the whole array."""


DEFAULT_ARRAY = 1_000
"""Most tasks of an array where SLURM cannot be asked: its own default allows for 1,001."""


class Batch(NamedTuple):
    """Tasks of one kind that are submitted as one array; runs of every task as in ``SubmittedJob.tasks``."""

    kind: Kind
    profile: str
    tasks: list[list[str]]

    @property
    def name(self) -> str:
        """What the scheduler shows."""
        return f"lpc-{self.kind}-{self.profile}"


def batches(request: Request, taken: Iterable[str] = ()) -> list[Batch]:
    """Return the arrays that train what is missing of a request, without the last job.

    Parameters
    ----------
    request
        What is asked for.
    taken
        Keys, and ``architecture/seed``, that other jobs have already.
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
    """Return submitit's executor for a batch: what a job asks for, and the shell around it."""
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """Makes scripts without SLURM too; :func:`check` has asked for it where they are submitted."""

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
            # What one task has compiled the others find; the user's own folder goes before.
            f"inductor={shlex.quote(str(Path(submission.request.store) / 'inductor'))}",
            'export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$inductor}"',
            'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',  # srun does not inherit it
            *AGAIN.splitlines(),
            *resources.setup,
        ],
    )
    return made


def script(made: SlurmExecutor, tasks: int) -> str:
    """Return the batch script of an array of so many tasks, as submitit will write it."""
    alike = type(made)(folder=made.folder)
    alike.parameters = {**made.parameters, **({"map_count": tasks} if tasks > 1 else {})}
    return alike._make_submission_file_text(alike._submitit_command_str, "")


def check(request: Request, *, slurm_answers: bool = True) -> None:
    """Refuse, before anything is submitted, what could only fail on a node.

    Parameters
    ----------
    request
        What is asked for.
    slurm_answers
        False: a dry run without SLURM, which is asked nothing.

    Raises
    ------
    ValueError
        A profile file with an error; as :func:`check_here`.
    OSError
        A store that cannot be written.
    SchedulerError
        No SLURM here, or it does not answer.
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
                f"{request.resources}: the jobs of {name} ask for {asked.time} minutes, and partition "
                f"{asked.partition or '(the default one)'} gives {longest} at most: they would wait for ever"
            )


def absent_data(request: Request) -> str | None:
    """Return which data of a request are missing, and the command that fetches them; None: none."""
    for name in request.selection.data_names():
        if absent := absent_files(name):
            return (
                f"data set {name!r} is not complete: {absent[0].absolute()} is missing. Get it before many "
                f"tasks ask for it at once: python -m experiments fetch --profile {request.profile}"
            )
    return None


def check_code(there: Queue) -> None:
    """Refuse to mix code: a ValueError that names a job in the queue that was submitted with other code."""
    for one, job, _ in there.values():
        differs = difference(one.code, code())
        if differs:
            raise ValueError(
                f"job {job.id} of submission {one.id} is in the queue with other code: {differs}. Its tasks "
                "would refuse to mix the two: let it end, or cancel it, before more is submitted"
            )


def check_here(request: Request) -> None:
    """Refuse what could only fail after the training, on a cluster or on one machine.

    Raises
    ------
    ValueError
        Pages beside those of the profile, from one that is not trained with the book.
    OSError
        A store to which nothing can be written.
    """
    if request.pages and request.beside not in BOOKS:
        raise unknown_name(
            "profile to make other chapters from, trained with the book:", request.beside, BOOKS
        )
    root = Path(request.store)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass


def prepare(request: Request, there: Queue) -> tuple[list[Batch], list[str]]:
    """Return what is to be submitted, and in words what is left out as jobs in the queue have it."""
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
    """Submit what is missing of a request, and the job that follows.

    Parameters
    ----------
    request
        What is asked for.
    entry
        What a task calls: with the submission as a dictionary, the kind, the profile and its runs.
    told
        Called with lines about what is submitted.
    dry_run
        Whether to show what would be submitted, to the letter, with the hours and the disk that it takes, and
        leave it at that. Where SLURM is not there or does not answer, the scripts are shown unchecked.

    Returns
    -------
    Submission or None
        None where there is nothing to submit, or where it is a dry run.

    Raises
    ------
    ValueError, SchedulerError
        As :func:`check` and :func:`check_code`; data sets that are not there; also what the scheduler says of
        a script before any is submitted, or where it stops answering after some were.
    """
    unanswered = _unanswered() if dry_run else None
    check(request, slurm_answers=unanswered is None)
    if absent := absent_data(request):
        if not dry_run:
            raise ValueError(absent)
        told(f"to be done first: {absent}")
    there = {} if unanswered else queued(request.store)  # this job's own variables tell which of them it is
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
                    f"unchecked: {unanswered} So nobody was asked whether jobs of the store are in the queue "
                    f"already, about limits, or about the scripts below; arrays have {size:,} tasks at most."
                )
            named = [(part.kind, part.profile, f"<{part.name}>") for part, _ in parts]
            for number, (part, asked) in enumerate(parts):
                made = executor(part, submission, asked, _after(part, there, named[:number]))
                told(f"### {_summary(part)}\n{script(made, len(part.tasks))}")
            return None
        return _send(parts, submission, there, entry, told)


def _unanswered() -> str | None:
    """Return why SLURM cannot be asked; None where it answers."""
    try:
        slurm.require()
    except slurm.SchedulerError as error:
        return f"{str(error).rstrip('.')}."
    return None


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Forget the variables of a job that submits again, which its jobs would inherit; not the cluster's."""
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
                f"{len(parts)} jobs are in the queue; once the scheduler answers, submit again adds the rest"
            ) from error
        tasks = {job.job_id: names for job, names in zip(jobs, part.tasks, strict=True)}
        submission = submission.with_job(SubmittedJob(kind=part.kind, profile=part.profile, tasks=tasks))
        submission.write()
        told(f"job {submission.jobs[-1].id}: {_summary(part)}")
    return submission


def _after(part: Batch, there: Queue, sent: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the ids of the jobs that have to end before those of a batch begin."""
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
