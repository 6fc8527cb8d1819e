"""The work of a job on a node: it trains runs, retrains selected ones, or makes tables, chapters and book."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.cluster import submit
from experiments.cluster.missing_runs import Missing, again, title
from experiments.cluster.missing_runs import missing as missing_of
from experiments.cluster.missing_runs import report as report_of
from experiments.cluster.resources import FINISH
from experiments.cluster.resources import read as read_resources
from experiments.cluster.slurm import SchedulerError
from experiments.cluster.submissions import Request, Submission, begin, code, difference, rebuild
from experiments.paths import BUILD, ROOT
from experiments.publishing.places import Places
from experiments.studies import export
from experiments.studies.profiles import LIVE, PROFILES, plain
from experiments.studies.recorded import record
from lpc.computing.stopping import STATUSES, Stopped, exit_status, stop_on_signal
from lpc.runs import execute_all, measure_all
from lpc.specs import RunSpec, run_key
from lpc.store import RunStore
from lpc.store.atomic import write_bytes


def run(values: Mapping[str, Any], kind: str, profile: str, names: Sequence[str]) -> None:
    """Do one task of a submission; the scheduler calls this on a node.

    Parameters
    ----------
    values
        The submission, as a dictionary.
    kind, profile, names
        Fields of :class:`experiments.cluster.submissions.SubmittedJob`.

    Raises
    ------
    ValueError
        If the code or the libraries' versions here differ from the submission's.
    SystemExit
        If a signal stopped the training; its status is the exit status of that signal
        (:data:`lpc.computing.stopping.STATUSES`).
    """
    differs = difference(code(), values["code"])
    if differs:
        raise ValueError(
            f"this node would mix code: {differs} (where it was submitted). Nothing was trained: cancel the "
            "submission, make the two the same, and submit again"
        )
    submission = rebuild(values)
    try:
        if kind == "finish":
            finish(submission)
        else:
            _train(submission, kind, profile, names)
    except Stopped as stopped:
        print(stopped, flush=True)
        sys.exit(exit_status())


def _train(submission: Submission, kind: str, profile: str, names: Sequence[str]) -> None:
    request = submission.request
    store = RunStore(request.store)
    chosen = _again(request, profile, names) if kind == "retrain" else _declared(request, profile, names)
    done = store.epochs_done()
    for spec in chosen:
        begins = f"training from epoch {done.get(run_key(spec), 0)}"
        print(f"{'finished already' if store.finished(spec) else begins}: {_title(spec)}", flush=True)
    together = read_resources(Path(request.resources)).of(profile).runs_at_once
    execute_all(chosen, store, workers=together, progress=False, wait=False)
    for spec in chosen:
        if not store.finished(spec):
            print(f"another program is training it: {_title(spec)}", flush=True)


def _title(spec: RunSpec) -> str:
    return f"{title(spec)} ({run_key(spec)[:12]})"


def _declared(request: Request, profile: str, keys: Sequence[str]) -> list[RunSpec]:
    known = {run_key(spec): spec for spec in request.selection.declared()[profile]}
    return [known[key] for key in keys]


def _again(request: Request, profile: str, pairs: Sequence[str]) -> list[RunSpec]:
    """Return the runs that retrain the chosen rates; print which rates cannot be chosen yet."""
    left = again(request, profile)
    for pair in pairs:
        if pair in left and left[pair] is None:
            print(
                f"left out: {pair}, whose learning rates have not all ended: none is chosen yet", flush=True
            )
    return [spec for pair in pairs if (spec := left.get(pair)) is not None]


def finish(submission: Submission) -> None:
    """Submit missing runs again, or measure, export, record, execute the chapters and build the book.

    Missing runs are submitted again as often as the profile file's ``tries`` allows. Then those still missing
    are reported, and everything is made from the complete seeds.
    """
    request = submission.request
    missing = missing_of(request)
    if missing and request.resources and _submitted_again(request, missing):
        return
    report = report_of(request, missing)
    print(report, flush=True)
    submission.make_folder()
    write_bytes(submission.folder / "report.txt", f"{report}\n".encode())
    profiles = [*request.selection.declared()]
    for profile in profiles:
        _write_tables(request, profile)
    if request.pages:
        for profile in profiles:
            _make_pages(request, profile, output(request, profile))


def _submitted_again(request: Request, missing: Sequence[Missing]) -> bool:
    """Submit missing runs again if tries are left; return whether the scheduler accepted them."""
    tries = read_resources(Path(request.resources)).of(FINISH).tries
    if request.turn >= tries or all(one.given_up for one in missing):
        return False
    print(f"{len(missing)} runs are missing: turn {request.turn + 1} of {tries}", flush=True)
    try:
        return submit.send(replace(request, turn=request.turn + 1), run, print) is not None
    except SchedulerError as error:
        print(f"they could not be submitted again from this node: {error}", flush=True)
        return False


def output(request: Request, profile: str) -> Path:
    """Return the folder of a profile's tables, notebooks and pages: one for each, if there are several."""
    several = len(request.selection.declared()) > 1
    return BUILD / profile if several else BUILD


def _write_tables(request: Request, profile: str) -> None:
    """Measure the selected runs on the test set, export every table, and record the results for the ledger.

    All of a profile's runs in the store are recorded, so that a narrow request does not replace a wider
    record.
    """
    found = request.selection.of(profile)
    measure_all(found.tested, found.store, progress=False)
    found = found.afresh()
    for path in export.write_all(found, output(request, profile) / "tables"):
        print(f"written: {path}", flush=True)
    if profile not in LIVE and (found.frame["status"] == "finished").any():
        print(
            f"recorded: {record(found.kind.existing(profile, store=request.store), partial=True)}", flush=True
        )


def _make_pages(request: Request, profile: str, folder: Path) -> None:
    """Execute the chapters and build the book from the complete seeds, or beside the recorded results."""
    from experiments.publishing import plan  # imports all the code for pages, which training does not need

    counts = _seed_counts(request, profile)
    seeds = next((count for count in counts if not _lacking(request, profile, count)), None)
    shown = plain(profile) if profile in PROFILES else profile
    if seeds is None:
        shown = request.beside
        print(f"no pages are made from profile {profile}: {_lacking(request, profile, None)}", flush=True)
    first = plan.make(
        shown, beside=request.beside, seeds=seeds, store=request.store, places=Places(output=folder)
    )
    print(f"pages of profile {shown}: {first}", flush=True)


def _lacking(request: Request, profile: str, seeds: int | None) -> str:
    from experiments.publishing import plan

    return plan.lacking(profile, study=request.study, seeds=seeds, store=request.store)


def _seed_counts(request: Request, profile: str) -> list[int]:
    """Return the numbers of seeds to try, the largest first."""
    return sorted({spec.seed + 1 for spec in request.selection.declared()[profile]}, reverse=True)


def local(request: Request, *, workers: int | None, gpus: int) -> None:
    """Do the work of a submission on this machine: train, with one program per GPU, then finish.

    Parameters
    ----------
    request
        The user's request.
    workers
        Number of processes per program; None: one per core, or one if there is a GPU.
    gpus
        Number of GPUs; with several, each gets its own program, all on one store.

    Raises
    ------
    Stopped
        If a signal asked to stop.
    ChildProcessError
        If a program failed; it has printed why.
    """
    submit.check_here(request)
    if gpus > 1:
        _train_on_each(request, workers, gpus)
    else:
        for found in request.selection.studies():
            found.trained(workers=workers)
    submission = begin(request)
    submission.write()
    finish(submission)


def visible_gpus(count: int) -> list[str]:
    """Return the names of the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` has them.

    Parameters
    ----------
    count
        Number of GPUs that torch sees.

    Returns
    -------
    list of str
        One name per GPU: the user's own (indices, UUIDs, MIG names) if the variable is set, else 0, 1, ...

    Raises
    ------
    ValueError
        If the variable names fewer GPUs than torch sees.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(place) for place in range(count)]
    names = [name.strip() for name in given.split(",")]
    if len(names) < count:
        raise ValueError(f"CUDA_VISIBLE_DEVICES={given!r} names {len(names)} GPUs, but torch sees {count}")
    return names[:count]


def _train_on_each(request: Request, workers: int | None, gpus: int) -> None:
    """Run the verb ``train`` once per GPU; leases divide the runs among the programs."""
    command = [sys.executable, "-m", "experiments", "train", *request.selection.options()]
    command += [] if workers is None else ["--workers", str(workers)]
    with stop_on_signal() as stop:
        programs = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
                start_new_session=True,  # Ctrl-C is for this process: a second signal would stop them at once
            )
            for gpu in visible_gpus(gpus)
        ]
        told = False
        try:
            while any(one.poll() is None for one in programs):
                time.sleep(0.5)
                if stop() and not told:
                    told = True
                    for one in programs:
                        one.terminate()
        finally:
            for one in programs:
                one.kill()
    failed = [one.returncode for one in programs if one.returncode]
    if stop() or STATUSES.intersection(failed):
        raise Stopped("stopped; checkpoints are written, call again to continue")
    if failed:
        raise ChildProcessError(f"{len(failed)} of {gpus} programs failed, the first with status {failed[0]}")
