"""Build the book: executed chapters -> a staged folder -> strict Jupyter Book -> build/html."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import yaml

from experiments.paths import ROOT
from experiments.publishing import rebuilding, redirects
from experiments.publishing.api import api_pages, module_list
from experiments.publishing.checking import external_links
from experiments.publishing.checking.checks import check, read_pages
from experiments.publishing.checking.prose import listed
from experiments.publishing.downloads import Downloads, paragraph, repository
from experiments.publishing.executing.staleness import digest_of, read_stamp
from experiments.publishing.extensions import boxes
from experiments.publishing.header_footer import foot, set_plumbing_aside, warning
from experiments.publishing.minify import lighten
from experiments.publishing.places import PLACES, Places
from experiments.reporting.answers import rows_of
from lpc.store.writers import folder_prefix

API = "api"
"""The page below which the library's reference pages stand."""
MADE_FROM = ".made-from"
"""The file among the built pages that holds their fingerprint."""
MAKERS = ("jupyter-book", "myst-nb", "myst-parser", "sphinx", "sphinx-book-theme", "sphinx-mathjax-offline")


class BuildError(RuntimeError):
    """The pages could not be built; the message quotes Sphinx."""


def stage(
    target: Path,
    substitutions: Mapping[str, Any],
    places: Places = PLACES,
    *,
    whole: bool = False,
    checked: bool = True,
) -> None:
    """Put everything that Jupyter Book reads into a new, flat folder.

    Parameters
    ----------
    target
        Folder to make; it must not exist.
    substitutions
        Values for ``myst_substitutions``, which chapters insert by double braces.
    places
        Locations of the book's parts.
    whole
        Whether these are all pages, so that each claim of the ledger must be on one.
    checked
        Whether to check the pages.

    Raises
    ------
    BuildError
        If a chapter of the table of contents was not executed.
    CheckError
        If pages lack something that :func:`experiments.publishing.checking.checks.check` requires.
    """
    target.mkdir(parents=True)
    settings = staged_settings(places.config)
    files = Downloads(target, places, substitutions, repository(settings))
    for name in places.page_names():
        if places.is_text(name):
            text = places.source(name).read_text()
            (target / f"{name}.md").write_text(f"{text.rstrip()}\n\n{paragraph([files.source(name)])}\n")
            continue
        notebook, stamp = _executed(name, places)
        links = files.page(name, notebook, stamp)
        files.outputs(name, notebook)
        set_plumbing_aside(notebook)
        if above := warning(stamp):
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(above, id="warning"))
        notebook.cells.append(nbformat.v4.new_markdown_cell(foot(stamp, paragraph(links)), id="provenance"))
        nbformat.write(notebook, target / f"{name}.ipynb")
    for path in places.sources.iterdir():
        if path.suffix == ".bib" or path.name == redirects.TABLE:
            shutil.copy(path, target)
        elif path.is_dir() and not path.name.startswith("."):
            shutil.copytree(path, target / path.name)
    contents = yaml.safe_load(places.toc.read_text())
    groups = [contents, *contents.get("parts", [])]
    for entry in (one for group in groups for one in group.get("chapters", [])):
        if entry["file"] == API:
            names = [*api_pages.write(target), *module_list.write(target)]
            entry["sections"] = [{"file": name} for name in names]
    (target / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False, allow_unicode=True))
    sphinx = settings.setdefault("sphinx", {})
    sphinx["extra_extensions"] = [*sphinx.get("extra_extensions", []), boxes.__name__]
    sphinx.setdefault("config", {})["myst_substitutions"] = dict(substitutions)
    (target / "_config.yml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    if checked:
        check(target, substitutions, places, whole=whole)
    (target / boxes.TABLES).write_text(json.dumps(_tables(substitutions, places), indent=1))


def _tables(substitutions: Mapping[str, Any], places: Places) -> dict[str, str]:
    """Return the tables of all answers, so that Sphinx need not load the code that makes them."""
    answers = [box for page in read_pages(places) for box in page.boxes if box.kind == "answer"]
    asked = [listed(box.options.get("claims", "")) for box in answers]
    ledger = substitutions.get("claims", {})
    return {boxes.key_of(claims): rows_of(ledger, claims) for claims in asked if claims}


def staged_settings(config: Path) -> dict[str, Any]:
    """Return the book's settings for a staged folder, without the extension that refuses other folders."""
    settings = yaml.safe_load(config.read_text())
    settings.get("sphinx", {}).pop("local_extensions", None)
    return settings


def _executed(name: str, places: Places) -> tuple[nbformat.NotebookNode, dict[str, Any]]:
    """Return a chapter's notebook, without papermill's notes, and the stamp of its execution."""
    stamp = read_stamp(name, places)
    if not places.source(name).exists():
        raise BuildError(f"page {name} is in the table of contents, but {places.sources} has no {name}.md")
    if stamp is None:
        raise BuildError(
            f"chapter {name} has not been executed: {places.notebooks} has no {name}.ipynb with {name}.json "
            f"from the same execution; make both with: python -m experiments chapters {name}"
        )
    notebook = nbformat.read(places.notebooks / f"{name}.ipynb", as_version=4)
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)  # it names folders of this machine, and times
    return notebook, stamp


def build(substitutions: Mapping[str, Any], places: Places = PLACES, *, whole: bool = False) -> Path:
    """Build the pages strictly and promote them; if that fails, the previous pages stay.

    If the same code has already built the pages from the same files, they are left as they are.

    Parameters
    ----------
    substitutions, places, whole
        Arguments of :func:`stage`.

    Returns
    -------
    Path
        First page of the book, in ``html`` of the output.

    Raises
    ------
    BuildError, CheckError
        If :func:`stage` raises one, or Sphinx warned or failed, for example at a dead link, an unknown
        reference or a missing figure.
    """
    places.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=places.output, prefix=folder_prefix("building")) as folder:
        staged, scratch = Path(folder) / "stage", Path(folder) / "scratch"
        stage(staged, substitutions, places, whole=whole)
        made_from, html = _digest(staged), places.output / "html"
        if (html / "index.html").exists() and _read(html / MADE_FROM) == made_from:
            return html / "index.html"
        with rebuilding.kept(places.output) as last:
            if last is None:
                made = run_sphinx(staged, scratch)
            else:
                made = rebuilding.pages(staged, last, run_sphinx, made_by=_makers(), into=scratch)
            lighten(made, results=None if last is None else last.light)
        links = Path(folder) / external_links.FILE
        links.write_text(external_links.listed(made))
        redirects.write(made, redirects.read(places.sources), whole=whole)
        (made / MADE_FROM).write_text(made_from)
        first = promote(made, html, aside=Path(folder))
        links.replace(places.output / links.name)
        return first


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _digest(staged: Path) -> str:
    """Return a SHA-256 of everything behind the pages: staged files, the code that builds them, and versions.

    The library's files count as code, too, because Sphinx reads their docstrings.
    """
    digest = hashlib.sha256(_makers().encode())
    _add(digest, ROOT, ROOT.glob("lpc/**/*.py"))
    _add(digest, staged, staged.rglob("*"))
    return digest.hexdigest()


def _makers() -> str:
    """Return a SHA-256 of the code that builds pages, and of its libraries' versions."""
    digest = hashlib.sha256()
    for package in MAKERS:
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    _add(digest, ROOT, ROOT.glob("experiments/publishing/**/*.py"))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, folder: Path, paths: Iterable[Path]) -> None:
    for path in sorted(path for path in paths if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {digest_of(path)}\n".encode())


def run_sphinx(
    staged: Path, scratch: Path, *, builder: str = "html", strict: bool = True, whole: bool = True
) -> Path:
    """Run Jupyter Book on a staged folder and return the folder with its output.

    Parameters
    ----------
    staged, scratch
        Folder written by :func:`stage`, and folder for the output.
    builder
        Builder of Sphinx: ``html`` writes one file per page, ``singlehtml`` all pages into one.
    strict
        Whether to treat warnings as errors.
    whole
        Whether to build all pages; if not, only those that changed since the last build in these folders.

    Raises
    ------
    BuildError
        If Sphinx failed or, if ``strict``, warned.
    """
    # The trees of all pages are read for the numbers of figures. To look for garbage in them takes half of
    # the time and saves about 0.4 GB; a whole build reads them more than once, so it looks for some.
    collecting = "gc.set_threshold(300_000, 10, 10)" if whole else "gc.disable()"
    start = f"import gc; {collecting}; from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(staged), "--path-output", str(scratch)]
    options = ["--builder", builder, *(["-W", "-n", "--keep-going"] if strict else [])]
    options += ["--all"] if whole else []
    found = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )  # for this book's extensions
    environment = {**os.environ, "PYTHONPATH": found}
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environment)
    made = scratch / "_build" / builder
    if done.returncode or not (made / "index.html").exists():
        raise BuildError(_explain(done.stdout + done.stderr, [str(staged), str(scratch)]))
    return made


def _explain(log: str, folders: Sequence[str]) -> str:
    for folder in folders:
        log = log.replace(f"{folder}/", "")
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)  # colours of a terminal
    # in MyST-NB's line numbers, a cell counts ten thousand
    log = re.sub(r"(\.ipynb):(\d+)\d{4}:", lambda at: f"{at[1]}, cell {int(at[2]) - 1}:", log)
    told = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line or "rror:" in line]
    shown = told or log.splitlines()[-30:]
    return "the pages were not built, the previous ones are kept:\n" + "\n".join(shown)


def promote(made: Path, target: Path, *, aside: Path) -> Path:
    """Replace old pages by new ones; the old ones are moved to this build's own folder."""
    for attempt in itertools.count():
        with contextlib.suppress(FileNotFoundError):
            target.rename(aside / f"old-{attempt}")
        try:
            made.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue  # another build was promoted just now, and this one is newer
        break
    return target / "index.html"
