"""Executes chapters: jupytext -> papermill -> build/notebooks; if one fails, its previous output stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import papermill
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from experiments.paths import BUILD, ROOT
from experiments.publishing.executing import forked_kernels, needs, scratch
from experiments.publishing.executing.chapter_sources import chosen, convert, settings_of
from experiments.publishing.executing.retelling import retell
from experiments.publishing.executing.shared_imports import VARIABLE, shared_imports
from experiments.publishing.executing.staleness import digest_of, fingerprint, is_current
from experiments.publishing.places import PLACES, Places
from experiments.publishing.stages import Clock, used
from lpc.computing.stopping import interrupt, was_asked
from lpc.store.writers import folder_prefix

FORKS_PAY = 3
"""Number of chapters from which it pays to fork kernels: loading the libraries takes as long as for two."""

_DRAW_ONCE = """
def _draw_once():
    import sys
    if (module := sys.modules.get("matplotlib.backends.backend_agg")) is not None:
        module.FigureCanvasAgg.draw_idle = lambda self: None

get_ipython().events.register("post_execute", _draw_once)
del _draw_once
"""
"""Code with which a kernel begins: figures become files, so drawing them for a screen first is wasted."""


class ChapterError(RuntimeError):
    """A chapter could not be executed; the message names the chapter and the cell."""


@contextlib.contextmanager
def own_kernel(threads: int | None, *, forked: bool = False) -> Iterator[None]:
    """Make ``python3`` kernels run this interpreter, with an IPython folder of their own and some threads.

    Kernels that share an IPython folder would race on it. ``forked`` kernels share the libraries, and the
    number of threads of the process's first kernel (:mod:`experiments.publishing.executing.forked_kernels`).

    With ``threads`` None the libraries choose: they use every core unless the user says otherwise. Matplotlib
    keeps its list of fonts in the build folder, so that pages do not depend on anyone's home folder. The
    warning about a store without checksums is shown when missing runs are trained, and not again on every
    page.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
        kernel = {"argv": argv, "display_name": "Python 3", "language": "python"}
        if forked:
            kernel |= forked_kernels.kernel_spec()
        (spec / "kernel.json").write_text(json.dumps(kernel))
        startup = Path(folder) / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "figures.py").write_text(_DRAW_ONCE)
        changed = {
            "JUPYTER_PATH": folder,
            "IPYTHONDIR": str(Path(folder) / "ipython"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # the forking process is no kernel
            "MPLCONFIGDIR": str(BUILD / "matplotlib"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:unchecked"))),
        }
        if threads is not None:
            changed["OMP_NUM_THREADS"] = str(threads)
        before = {key: os.environ.get(key) for key in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def default_workers() -> int:
    """Return how many chapters to execute at once: one per core that this process may use; one with a GPU."""
    from lpc.computing import devices  # it loads torch, which the processes that execute chapters do not need

    return devices.default_workers()


def origin(name: str, values: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return a chapter's present inputs, and this machine, for its stamp."""
    from lpc.computing.provenance import provenance

    made_from, text = fingerprint(name, values, places), digest_of(places.source(name))
    return {"fingerprint": made_from, "text": text, **provenance(folders=("lpc", "experiments", "book"))}


def execute_one(
    name: str,
    values: Mapping[str, Any],
    places: Places,
    *,
    progress: bool,
    threads: int | None,
    forked: bool = False,
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Execute one chapter and promote its notebook and stamp; on failure the previous ones stay.

    ``made_from`` is the result of :func:`origin`; None: it is called now. Later edits may or may not be in
    the output, so they leave the chapter outdated.

    Raises
    ------
    ChapterError
        If a cell raised, a kernel died, or the chapter took longer than its header allows.
    """
    places.notebooks.mkdir(parents=True, exist_ok=True)
    made_from = origin(name, values, places) if made_from is None else made_from
    minutes = settings_of(name, places).minutes
    cpu, began, started = used(), time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    with (
        tempfile.TemporaryDirectory(dir=places.notebooks, prefix=folder_prefix("executing")) as folder,
        own_kernel(threads, forked=forked),
    ):
        source, target = Path(folder) / f"{name}.ipynb", Path(folder) / f"{name}.out.ipynb"
        convert(name, source, places)
        try:
            _run(source, target, values, progress, began + 60 * minutes)
        except CellTimeoutError as error:
            _, *cell = re.split(r"^-+\n", str(error), maxsplit=1, flags=re.MULTILINE)
            line = "".join(cell).strip().partition("\n")[0]
            raise ChapterError(
                f"chapter {name}, cell beginning {line!r}: the chapter took longer than its limit of "
                f"{minutes:g} minutes (minutes under lpc in its header sets another).\n"
                "The previous output of this chapter is kept."
            ) from None
        except PapermillExecutionError as error:
            line = (error.source or "").strip().splitlines() or [""]
            raise ChapterError(
                f"chapter {name}, cell {error.cell_index}, beginning {line[0]!r}: "
                f"{error.ename}: {error.evalue}\nThe previous output of this chapter is kept."
            ) from None
        except DeadKernelError as error:
            raise ChapterError(
                f"chapter {name}: its kernel died ({error}); out of memory, or killed? "
                "The previous output of this chapter is kept."
            ) from None
        stamp = {
            "chapter": name,
            "notebook": digest_of(target),
            "parameters": dict(values),
            "needs": list(settings_of(name, places).needs),
            "started": started,
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(used() - cpu, 1),
            "system": platform.system(),
            "machine": platform.machine(),
            **made_from,
        }
        (Path(folder) / "stamp.json").write_text(json.dumps(stamp, indent=1))
        target.replace(places.notebooks / f"{name}.ipynb")
        # until the next line, the notebook has an older stamp and is not current
        (Path(folder) / "stamp.json").replace(places.notebooks / f"{name}.json")


def _run(
    source: Path, target: Path, values: Mapping[str, Any], progress: bool, until: float = math.inf
) -> None:
    """Execute a notebook until a time of ``time.monotonic``; if the kernel does not start, try again.

    Kernels choose their ports before they bind them: if several start at once, one may find its port taken
    and die.
    """
    ensure_event_loop().set_exception_handler(_say_unless_stopped)  # nbclient's loop
    for last in (False, False, True):
        try:
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=dict(values),
                kernel_name="python3",
                cwd=str(ROOT),
                progress_bar=progress,
                timeout_func=lambda _cell: None if until == math.inf else max(1, until - time.monotonic()),
            )
            return
        except RuntimeError as error:
            unstarted = "Kernel didn't respond" in str(error) or "Kernel died before" in str(error)
            if not unstarted:
                raise
            if last:
                raise DeadKernelError(f"{error} (three times)") from None


def _say_unless_stopped(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report an error that nobody awaits, as event loops do, unless a signal has stopped the cell."""
    if not was_asked():
        loop.default_exception_handler(context)


def execute(
    names: Sequence[str] | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    places: Places = PLACES,
    workers: int | None = None,
) -> list[Path]:
    """Execute outdated chapters, several at once, and return the notebooks of all.

    Chapters that measure time (:func:`settings_of`) come after all others, one by one.

    Parameters
    ----------
    names
        Names of chapters; None: all in the table of contents.
    values
        Values of parameters; before anything runs, unknown parameters are refused.
    force
        Whether to execute current chapters, too.
    places
        Where the chapters and their output are.
    workers
        Number of chapters to execute at once; None: one per core.

    Raises
    ------
    ChapterError
        If chapters failed, once all have been tried; the message has a line for each.
    """
    assigned = chosen(names, values, places)
    return execute_each(assigned, force=force, places=places, workers=workers)


def train(
    assigned: Mapping[str, Mapping[str, Any]], places: Places = PLACES, *, clock: Clock | None = None
) -> None:
    """Train and probe the chapters' missing runs once, before several kernels need them.

    Parameters
    ----------
    assigned
        Parameters of every chapter, by name.
    places
        Where the chapters are.
    clock
        Clock that measures the time.
    """
    chapters = [(settings_of(name, places).needs, values) for name, values in assigned.items()]
    needs.train(chapters, root=ROOT, clock=clock)


def execute_each(
    assigned: Mapping[str, Mapping[str, Any]],
    *,
    force: bool = False,
    places: Places = PLACES,
    workers: int | None = None,
    clock: Clock | None = None,
) -> list[Path]:
    """Execute chapters, each with its own parameters, like :func:`execute`.

    If only the text of a chapter has changed, its outputs are kept and put into the new text.

    Parameters
    ----------
    assigned
        Parameters of every chapter, by name.
    force, places, workers
        Arguments of :func:`execute`.
    clock
        Clock that measures the time of the training, of the chapters that are executed together, and of each
        of the others.
    """
    clock = clock or Clock()
    with contextlib.suppress(OSError):
        scratch.sweep([places.output])
    todo = [name for name in assigned if force or not is_current(name, assigned[name], places)]
    if retold := [name for name in todo if not force and retell(name, assigned[name], places)]:
        print(f"new text around the existing outputs: {', '.join(retold)}", file=sys.stderr)
        todo = [name for name in todo if name not in retold]
    alone = [name for name in todo if settings_of(name, places).alone]
    together = [name for name in todo if name not in alone]
    train({name: assigned[name] for name in todo}, places, clock=clock)
    workers = min(workers or default_workers(), len(together))
    threads = max(1, default_workers() // max(1, workers))
    failures = []
    if workers > 1:
        with clock.stage("chapters side by side", f"{len(together)} chapters"):
            failures += _execute_together(
                together, assigned, places, workers=workers, threads=threads, clock=clock
            )
    turns = [(name, threads) for name in together if workers == 1] + [(name, None) for name in alone]
    for name, share in turns:
        print(f"chapter {name}", file=sys.stderr)
        try:
            with clock.stage(f"chapter {name}, by itself", "1 chapter"):
                execute_one(name, assigned[name], places, progress=True, threads=share)
        except ChapterError as error:
            failures.append(str(error))
    if failures:
        raise ChapterError("\n".join(failures))
    return [places.notebooks / f"{name}.ipynb" for name in assigned]


def _execute_together(
    names: Sequence[str],
    assigned: Mapping[str, Mapping[str, Any]],
    places: Places,
    *,
    workers: int,
    threads: int,
    clock: Clock,
) -> list[str]:
    """Execute several chapters at once and return a message for each that failed."""
    failures = []
    forked = len(names) > FORKS_PAY * workers
    told = [(name, assigned[name], origin(name, assigned[name], places)) for name in names]
    context = multiprocessing.get_context("spawn")
    shared = shared_imports(names, places) if forked else []
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_enter, initargs=(shared,)) as pool:
        jobs = {
            pool.submit(_execute_unless_stopped, name, values, places, threads, forked, made_from): name
            for name, values, made_from in told
        }
        bar = tqdm(as_completed(jobs), total=len(jobs), desc="executing chapters", unit=" chapters")
        try:
            for job in bar:
                bar.set_postfix_str(jobs[job])
                error = job.exception()
                if isinstance(error, ChapterError):
                    failures.append(str(error))
                elif error is not None:
                    raise error
                else:
                    clock.elsewhere += job.result()
        except KeyboardInterrupt:
            processes = [*pool._processes.values()]
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # they stop their kernels
                process.terminate()
            raise
    return failures


def _enter(shared: Sequence[str]) -> None:
    """Set up a worker process: its parent stops it by SIGTERM, and its kernels share modules."""
    os.environ[VARIABLE] = ",".join(shared)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)


def _execute_unless_stopped(
    name: str,
    values: Mapping[str, Any],
    places: Places,
    threads: int | None,
    forked: bool,
    made_from: Mapping[str, Any],
) -> float:
    """Execute a chapter in a worker process and return the CPU seconds of its kernel if that was forked."""
    if was_asked():
        raise KeyboardInterrupt
    before = sum(forked_kernels.SECONDS.values())
    execute_one(name, values, places, progress=False, threads=threads, forked=forked, made_from=made_from)
    return sum(forked_kernels.SECONDS.values()) - before
