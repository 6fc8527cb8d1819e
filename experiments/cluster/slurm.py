"""Calls to SLURM's own commands, each with a time limit; their output is read as text.

Accounting (``sacct``) is never called: many clusters do not have it, and the call may hang.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lpc.errors import unknown_name

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
"""The programs of SLURM that are called."""

SECONDS = 30.0
"""Time limit of a command in seconds; a busy controller answers in a few, an idle one in hundredths."""

_IDS_AT_ONCE = 500
_OWN_DEFAULTS = ("SQUEUE_", "SINFO_", "SCANCEL_")  # variables with a user's filters would hide jobs
_SILENCE = ("Unable to contact slurm controller", "Socket timed out")
_GONE = ("Invalid job id specified", "already completing or completed")


class SchedulerError(RuntimeError):
    """SLURM is absent, does not answer or refuses; the message says which, and quotes SLURM."""


class QueuedTask(NamedTuple):
    """A job, or a task of an array, in the queue.

    Attributes
    ----------
    id
        Identifier: ``"12"``, or ``"12_3"`` for task 3 of array 12.
    state
        State as SLURM names it: ``PENDING``, ``RUNNING``, ``COMPLETING``, ``SUSPENDED`` and others.
    reason
        Why it waits: ``Dependency``, ``BeginTime`` (requeued) and others; ``None`` for a running job.
    node
        Node on which it runs; empty for a waiting job.
    """

    id: str
    state: str
    reason: str
    node: str


def _call(*command: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the caller checks whether it succeeded.

    Raises
    ------
    SchedulerError
        If the program is absent, does not answer in time, or cannot reach the controller.
    """
    limit = SECONDS if seconds is None else seconds
    environment = {name: text for name, text in os.environ.items() if not name.startswith(_OWN_DEFAULTS)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except FileNotFoundError as error:
        raise SchedulerError(
            f"no SLURM on this machine: {command[0]} is not found; --cluster local trains here"
        ) from error
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        raise _silent(f"{said}\nnothing more from {command[0]} in {limit:g} s") from error
    if done.returncode and any(words in done.stderr for words in _SILENCE):
        raise _silent(done.stderr)
    return done


def _silent(said: str) -> SchedulerError:
    return SchedulerError(f"SLURM's controller does not answer: {_words(said)}. Try again later.")


def _words(said: str) -> str:
    """Return a command's message on one line, without the command's name before every sentence."""
    lines = [re.sub(r"^[\w-]+: ((error|fatal): )?", "", line).strip(" *") for line in said.splitlines()]
    return "; ".join(line for line in lines if line) or "no message"


def _answer(*command: str) -> str:
    """Return the output of a command; a failure is a SchedulerError that quotes it."""
    done = _call(*command)
    if done.returncode:
        raise SchedulerError(f"{command[0]} failed: {_words(done.stderr)}")
    return done.stdout


def require() -> None:
    """Check, within 15 seconds, that SLURM's commands are installed and its controller answers.

    Raises
    ------
    SchedulerError
        If a program is missing, or the controller is down or silent.
    """
    for name in COMMANDS:
        _call(name, "--version", seconds=5)
    done = _call("scontrol", "ping", seconds=10)
    if not re.search(r"\bUP\b", done.stdout):  # one of several is enough
        raise _silent(done.stdout.partition("***")[0] + done.stderr)


def partitions() -> list[str]:
    """Return the names of the partitions that the user may see."""
    return sorted(set(_answer("sinfo", "--noheader", "--format=%R").split()))


def time_limit(partition: str | None) -> int | None:
    """Return the longest time that jobs of a partition may request, in minutes; None: no limit.

    Parameters
    ----------
    partition
        Name of a partition, or several separated by commas, of which the longest limit counts; None: the
        cluster's default.
    """
    wanted = None if partition is None else set(partition.split(","))
    limits = []
    for line in _answer("sinfo", "--noheader", "--format=%P|%l").splitlines():
        name, _, limit = line.strip().partition("|")
        if name.endswith("*") if wanted is None else name.rstrip("*") in wanted:
            limits.append(_minutes(limit))
    return None if not limits or None in limits else max(limit for limit in limits if limit is not None)


def _minutes(limit: str) -> int | None:
    """Return a time as ``sinfo`` prints it, ``1-02:00:00`` or ``10:00``, in whole minutes."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){1,2}", limit):
        return None  # infinite, n/a
    days, _, clock = limit.rpartition("-")
    *hours, minutes, _ = map(int, clock.split(":"))
    return 1440 * int(days or 0) + 60 * sum(hours) + minutes


def max_array() -> int:
    """Return the largest number of tasks that an array may have; tasks are numbered from 0.

    This is ``MaxArraySize`` of SLURM's configuration, or ``max_array_tasks`` of its ``SchedulerParameters``
    if that is less; 0 if arrays are switched off.
    """
    config = _answer("scontrol", "show", "config")
    limits = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", config, flags=re.MULTILINE)
    if not limits:
        raise SchedulerError("`scontrol show config` names no MaxArraySize")
    return min(int(size or tasks) for size, tasks in limits)


def states(jobs: Iterable[str]) -> dict[str, QueuedTask]:
    """Return the given jobs that are in the queue, by id: they wait, run, or are about to end.

    Parameters
    ----------
    jobs
        Ids: ``"12"`` is a job, or every task of an array; ``"12_3"`` is one task. Jobs that are no longer
        in the queue, or never were, are absent from the result.

    Raises
    ------
    SchedulerError
        If SLURM does not answer, so that no job's state is known.
    """
    wanted = set(jobs)
    found = {}
    for ids in _chunks({job.partition("_")[0] for job in wanted}):
        done = _call("squeue", "--noheader", "--array", f"--jobs={','.join(ids)}", "--format=%i|%T|%r|%N")
        if done.returncode and _GONE[0] not in done.stderr:
            raise SchedulerError(f"squeue failed: {_words(done.stderr)}")
        for line in done.stdout.splitlines():
            task = QueuedTask(*line.strip().split("|"))
            if task.id in wanted or task.id.partition("_")[0] in wanted:
                found[task.id] = task
    return found


def _chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    """Split ids into lists that fit on a command line."""
    rest = iter(sorted(ids))
    return iter(lambda: list(islice(rest, _IDS_AT_ONCE)), [])


def test(script: str) -> None:
    """Ask SLURM whether it would accept a batch script; nothing is queued.

    Raises
    ------
    SchedulerError
        If it would not. The message quotes ``sbatch``, and lists the partitions if the script's is unknown.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.sh"
        path.write_text(script)
        done = _call("sbatch", "--test-only", str(path))
    if not done.returncode:
        return
    partition = re.search(r"invalid partition specified: (.*)", done.stderr)
    if partition is not None:
        raise SchedulerError(str(unknown_name("partition", partition[1].strip(), partitions())))
    raise SchedulerError(f"SLURM refuses the submission: {_words(done.stderr)}")


def cancel(jobs: Iterable[str]) -> None:
    """End jobs, or take them out of the queue; those that have already ended are ignored.

    Raises
    ------
    SchedulerError
        If SLURM does not answer, or refuses because the jobs belong to somebody else.
    """
    for ids in _chunks(jobs):
        done = _call("scancel", *ids)
        refused = [line for line in done.stderr.splitlines() if not any(words in line for words in _GONE)]
        if done.returncode and refused:
            raise SchedulerError(f"scancel failed: {_words(chr(10).join(refused))}")
