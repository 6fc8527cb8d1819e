"""Execute chapters: jupytext -> papermill -> build/notebooks, the previous output kept until success."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from experiments.paths import BOOK as SOURCES
from experiments.paths import NOTEBOOKS, ROOT, TOC
from experiments.publishing import needs
from lpc.devices import default_workers
from lpc.errors import unknown_name
from lpc.provenance import provenance

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pandas")


class ChapterError(RuntimeError):
    """A chapter that could not be executed; the message names it and the cell."""


def page_names(toc: Path = TOC) -> list[str]:
    """Return the pages, chapters and pages of text alike, in the order of the table of contents."""
    content = yaml.safe_load(toc.read_text())
    groups = [content, *content.get("parts", [])]
    entries = [entry["file"] for group in groups for entry in group.get("chapters", [])]
    return [content["root"], *entries]


def is_text(name: str, sources: Path = SOURCES) -> bool:
    """Whether a page is text alone: its header names no kernel, and nothing of it is executed."""
    source = sources / f"{name}.md"
    return source.exists() and "kernelspec" not in jupytext.read(source, fmt="md:myst").metadata


def chapter_names(toc: Path = TOC, sources: Path = SOURCES) -> list[str]:
    """Return the pages that are executed, in the order of the table of contents."""
    return [name for name in page_names(toc) if not is_text(name, sources)]


def parse(text: str) -> Any:
    """Return a parameter's value as Python reads it, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def convert(name: str, target: Path, sources: Path = SOURCES) -> dict[str, Any]:
    """Write a chapter as a notebook and return its parameters with their defaults, as source text.

    Raises
    ------
    ValueError
        An unknown chapter, or one without exactly one cell tagged ``parameters``.
    """
    source = sources / f"{name}.md"
    if not source.exists():
        raise unknown_name("chapter", name, sorted(path.stem for path in sources.glob("*.md")))
    notebook = jupytext.read(source)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"chapter {name} has {len(tagged)} cells tagged parameters; expected one")
    nbformat.write(notebook, target)
    return {key: value["default"] for key, value in papermill.inspect_notebook(str(target)).items()}


class Settings(NamedTuple):
    """What a chapter's header says under ``lpc``.

    Attributes
    ----------
    alone
        Whether the chapter measures time, and so runs by itself.
    needs
        What it reads, of ``experiments.publishing.needs.NEEDS``: runs, and probes of them.
    live
        Whether it trains so much itself that it is for profiles of ``experiments.studies.profiles.LIVE``.
    """

    alone: bool = False
    needs: tuple[str, ...] = ("ablation",)
    live: bool = False


def settings_of(name: str, sources: Path = SOURCES) -> Settings:
    """Return what a chapter's header says under ``lpc``.

    Raises
    ------
    ValueError
        Anything there but ``alone`` and ``live``, which are true or false, and ``needs``, a list.
    """
    given = jupytext.read(sources / f"{name}.md").metadata.get("lpc", {})
    settings = given if isinstance(given, dict) else {"unknown": given}
    read, alone, live = (
        settings.get("needs", ["ablation"]),
        settings.get("alone", False),
        settings.get("live", False),
    )
    known = set(settings) <= set(Settings._fields) and needs.valid(read)
    if not known or {alone, live} - {True, False}:
        raise ValueError(
            f"chapter {name} has lpc: {given} in its header; expected alone: true or false, live: the same, "
            f"needs: a list of {', '.join(needs.NEEDS)} (the last beside runs that are probed: "
            f"{', '.join(needs.PROBED)})"
        )
    return Settings(alone, tuple(read), live)


def assign(
    names: Sequence[str], values: Mapping[str, Any], sources: Path = SOURCES, *, named: bool = True
) -> dict[str, dict[str, Any]]:
    """Return every chapter's parameters: its defaults, replaced by the given values.

    Parameters
    ----------
    names, sources
        Chapters and where they lie.
    values
        Parameter -> value. Where the chapters were ``named`` each must have every parameter; where all
        chapters are meant, each takes the ones it has and every one must be some chapter's.
    named
        Whether the user named the chapters.
    """
    defaults: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found = convert(name, Path(folder) / "chapter.ipynb", sources)
            defaults[name] = {key: parse(value) for key, value in found.items()}
    everything = sorted({key for found in defaults.values() for key in found})
    for key in values:
        for name in names:
            if named and key not in defaults[name]:
                raise unknown_name(f"parameter of chapter {name}:", key, defaults[name])
        if key not in everything:
            raise unknown_name("parameter", key, everything)
    return {
        name: {**found, **{key: value for key, value in values.items() if key in found}}
        for name, found in defaults.items()
    }


def fingerprint(name: str, values: Mapping[str, Any], sources: Path = SOURCES) -> str:
    """Return a SHA-256 of everything a chapter's output depends on: text, code, parameters, runs."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    code = [path for folder in ("lpc", "experiments") for path in sorted((ROOT / folder).rglob("*"))]
    for path in [sources / f"{name}.md", *code]:
        if path.suffix in (".md", ".py", ".toml", ".csv"):
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
    for package in PACKAGES:
        digest.update(f"{package} {metadata.version(package)}".encode())
    digest.update(sys.version.encode())
    for path in needs.files(settings_of(name, sources).needs, values, root=ROOT):
        state = path.stat()
        digest.update(f"{path.parent.name} {path.name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def is_current(name: str, values: Mapping[str, Any], sources: Path, notebooks: Path) -> bool:
    """Whether the promoted notebook was made from exactly this chapter, code, parameters and runs."""
    stamp = read_stamp(name, notebooks)
    return stamp is not None and stamp["fingerprint"] == fingerprint(name, values, sources)


def read_stamp(name: str, notebooks: Path) -> dict[str, Any] | None:
    """Return what was written of the execution that made a promoted notebook.

    None where there is no whole notebook with its own stamp: two executions may promote at once.
    """
    try:
        stamp = json.loads((notebooks / f"{name}.json").read_text())
        whole = stamp["notebook"] == _digest(notebooks / f"{name}.ipynb")
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None  # none yet, or cut short: execute again
    return stamp if whole else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def own_kernel(threads: int | None) -> Iterator[None]:
    """Make ``python3`` this very interpreter, with an IPython folder (kernels race on one) and threads.

    None leaves the threads to the libraries, which take every core unless the user says otherwise.
    Matplotlib keeps its list of fonts in the build folder: pages do not depend on anyone's home.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
        kernel = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(kernel))
        changed = {
            "JUPYTER_PATH": folder,
            "IPYTHONDIR": str(Path(folder) / "ipython"),
            "MPLCONFIGDIR": str(NOTEBOOKS.parent / "matplotlib"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
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


def execute_one(
    name: str,
    values: Mapping[str, Any],
    sources: Path,
    notebooks: Path,
    *,
    progress: bool,
    threads: int | None,
) -> None:
    """Execute one chapter and promote its notebook and stamp; on failure the previous ones stay.

    Raises
    ------
    ChapterError
        A cell that raised, or a kernel that died.
    """
    notebooks.mkdir(parents=True, exist_ok=True)
    made_from = fingerprint(name, values, sources)  # before: what is edited meanwhile is not in the output
    began, started = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(dir=notebooks, prefix=".executing-") as folder, own_kernel(threads):
        source, target = Path(folder) / f"{name}.ipynb", Path(folder) / f"{name}.out.ipynb"
        convert(name, source, sources)
        try:
            _run(source, target, values, progress)
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
            "fingerprint": made_from,
            "notebook": _digest(target),
            "parameters": dict(values),
            "needs": list(settings_of(name, sources).needs),
            "started": started,
            "seconds": round(time.monotonic() - began, 1),
            "system": platform.system(),
            "machine": platform.machine(),
            **provenance(folders=("lpc", "experiments", "book")),
        }
        (Path(folder) / "stamp.json").write_text(json.dumps(stamp, indent=1))
        target.replace(
            notebooks / f"{name}.ipynb"
        )  # until the next line it has another's stamp, and is not current
        (Path(folder) / "stamp.json").replace(notebooks / f"{name}.json")


def _run(source: Path, target: Path, values: Mapping[str, Any], progress: bool) -> None:
    """Execute a notebook; a kernel that does not start is started again.

    Kernels choose their ports before they bind them: of several that start at once, one may find its port
    taken, and dies.
    """
    for last in (False, False, True):
        try:
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=dict(values),
                kernel_name="python3",
                cwd=str(ROOT),
                progress_bar=progress,
            )
            return
        except RuntimeError as error:
            unstarted = "Kernel didn't respond" in str(error) or "Kernel died before" in str(error)
            if not unstarted:
                raise
            if last:
                raise DeadKernelError(f"{error} (three times)") from None


def execute(
    names: Sequence[str] | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    sources: Path = SOURCES,
    notebooks: Path = NOTEBOOKS,
    toc: Path = TOC,
    workers: int | None = None,
) -> list[Path]:
    """Execute chapters whose output is not current, several at once, and return their notebooks.

    Chapters that measure time (:func:`settings_of`) come after all others, one by one.

    Parameters
    ----------
    names
        Chapters; None: all of the table of contents.
    values
        Parameters, checked against the chapters' own before anything runs.
    force
        Execute even what is current.
    sources, notebooks, toc
        Where chapters and results lie.
    workers
        Chapters at once; None: one a core.

    Raises
    ------
    ChapterError
        One line a chapter that failed, once all have been tried.
    """
    assigned = chosen(names, values, sources=sources, toc=toc)
    return execute_each(assigned, force=force, sources=sources, notebooks=notebooks, workers=workers)


def chosen(
    names: Sequence[str] | None, values: Mapping[str, Any] | None, *, sources: Path, toc: Path
) -> dict[str, dict[str, Any]]:
    """Return the parameters of some chapters, or of all, by their names; see :func:`assign`."""
    known = chapter_names(toc, sources)
    for name in names or ():
        if name not in known:
            raise unknown_name("chapter", name, known)
    return assign(list(names or known), values or {}, sources, named=bool(names))


def train(assigned: Mapping[str, Mapping[str, Any]], sources: Path = SOURCES) -> None:
    """Train and probe what chapters will ask for and is missing: once, before several kernels ask for it.

    Parameters
    ----------
    assigned
        The parameters of every chapter, by its name.
    sources
        Where the chapters lie.
    """
    chapters = [(settings_of(name, sources).needs, values) for name, values in assigned.items()]
    needs.train(chapters, root=ROOT)


def execute_each(
    assigned: Mapping[str, Mapping[str, Any]],
    *,
    force: bool = False,
    sources: Path = SOURCES,
    notebooks: Path = NOTEBOOKS,
    workers: int | None = None,
) -> list[Path]:
    """Execute chapters, each with parameters of its own, as :func:`execute` does.

    Parameters
    ----------
    assigned
        All parameters of every chapter, by its name.
    force, sources, notebooks, workers
        As in :func:`execute`.
    """
    todo = [name for name in assigned if force or not is_current(name, assigned[name], sources, notebooks)]
    alone = [name for name in todo if settings_of(name, sources).alone]
    together = [name for name in todo if name not in alone]
    train({name: assigned[name] for name in todo}, sources)
    workers = min(workers or default_workers(), len(together))
    threads = max(1, default_workers() // max(1, workers))
    failures = []
    if workers > 1:
        failures += _execute_together(
            together, assigned, sources, notebooks, workers=workers, threads=threads
        )
    turns = [(name, threads) for name in together if workers == 1] + [(name, None) for name in alone]
    for name, share in turns:
        print(f"chapter {name}", file=sys.stderr)
        try:
            execute_one(name, assigned[name], sources, notebooks, progress=True, threads=share)
        except ChapterError as error:
            failures.append(str(error))
    if failures:
        raise ChapterError("\n".join(failures))
    return [notebooks / f"{name}.ipynb" for name in assigned]


def _execute_together(
    names: Sequence[str],
    assigned: Mapping[str, Mapping[str, Any]],
    sources: Path,
    notebooks: Path,
    *,
    workers: int,
    threads: int,
) -> list[str]:
    """Execute several chapters at once and return what failed, a line a chapter."""
    failures = []
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(
                execute_one, name, assigned[name], sources, notebooks, progress=False, threads=threads
            ): name
            for name in names
        }
        bar = tqdm(as_completed(jobs), total=len(jobs), desc="executing chapters", unit=" chapters")
        for job in bar:
            bar.set_postfix_str(jobs[job])
            error = job.exception()
            if isinstance(error, ChapterError):
                failures.append(str(error))
            elif error is not None:
                raise error
    return failures
