"""Build the book: executed chapters -> a staged folder -> strict Jupyter Book -> build/html."""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml

from experiments.bottleneck_scales import SCALES
from experiments.chapters import NOTEBOOKS, ROOT, SOURCES, TOC, is_text, page_names, read_stamp
from experiments.checks import check
from experiments.needs import PROBED
from experiments.profiles import LIVE, PROFILES, SIBLINGS

CONFIG = ROOT / "_config.yml"
BUILD = ROOT / "build"


class BuildError(RuntimeError):
    """The pages could not be built; the message holds what Sphinx said."""


def banner(stamp: Mapping[str, Any]) -> str:
    """Return what stands above a page: whose numbers it shows. Empty where it shows none."""
    name = stamp["parameters"].get("profile")
    if name is None:
        return ""
    kind = "warning" if name == "smoke" else "note"
    if "store" in stamp["parameters"]:
        summaries = _summaries(name, stamp["needs"])
        text = f"The numbers on this page come from the profile *{name}*: {'; and '.join(summaries)}."
        if "beside" in stamp["parameters"] and name not in LIVE:
            text += f" What says so on the page comes from the profile *{stamp['parameters']['beside']}*."
    else:
        text = f"The sizes on this page are those of the profile *{name}*; no run was used."
    return f":::{{{kind}}}\n{text}\n:::"


def _summaries(name: str, needs: Sequence[str]) -> list[str]:
    """Return what is said of a profile, its siblings and its bottleneck runs, as far as a page reads them."""
    found = [PROFILES[name].summary] if name in PROFILES and set(needs) & set(PROBED) else []
    for kind in needs:
        if kind == "bottlenecks" and name in SCALES:
            found.append(SCALES[name].summary)
        if kind in SIBLINGS and f"{name}-{kind}" in PROFILES:
            found.append(PROFILES[f"{name}-{kind}"].summary)
    return found


def footer(stamp: Mapping[str, Any]) -> str:
    """Return what stands below a page: from what it was made, and the line that makes it again."""
    options = " ".join(f"-p {key} {value}" for key, value in stamp["parameters"].items())
    commit = (stamp["commit"] or "unknown")[:12] + (" with local changes" if stamp["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    return (
        ":::{admonition} Where this page came from\n:class: dropdown provenance\n"
        f"Executed {stamp['started']} in {stamp['seconds']} s at commit {commit}, on {stamp['system']} "
        f"{stamp['machine']} ({stamp['device']}), Python {stamp['python']}, {versions}.\n\n"
        f"Run it again: `python -m experiments chapters {stamp['chapter']} {options}`\n:::"
    )


def _fold_parameters(notebook: nbformat.NotebookNode) -> None:
    """Keep one parameters cell, folded: papermill's where it injected one, which holds the final values."""
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    injected = any("injected-parameters" in own for own in tags)
    kept = [
        cell for cell, own in zip(notebook.cells, tags, strict=True) if not (injected and "parameters" in own)
    ]
    for cell in kept:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            cell.metadata["tags"] = [*cell.metadata["tags"], "hide-input"]
    notebook.cells = kept


def stage(
    target: Path,
    substitutions: Mapping[str, Any],
    *,
    sources: Path = SOURCES,
    notebooks: Path = NOTEBOOKS,
    toc: Path = TOC,
    config: Path = CONFIG,
    whole: bool = False,
) -> None:
    """Lay out everything that Jupyter Book reads, flat, in a new folder.

    Parameters
    ----------
    target
        The folder; must not exist.
    substitutions
        Put under ``myst_substitutions``: what chapters may insert between double braces.
    sources, notebooks, toc, config
        Chapters' folder, executed notebooks, table of contents and configuration.
    whole
        Whether these are all pages, so that each claim of the ledger has to be on one.

    Raises
    ------
    BuildError
        A chapter of the table of contents that was not executed.
    CheckError
        Pages without what :func:`experiments.checks.check` asks of them.
    """
    target.mkdir(parents=True)
    for name in page_names(toc):
        if is_text(name, sources):
            shutil.copy(sources / f"{name}.md", target)
            continue
        source, stamp = notebooks / f"{name}.ipynb", read_stamp(name, notebooks)
        if stamp is None:
            raise BuildError(
                f"chapter {name} has not been executed: {notebooks} has no {source.name} with {name}.json of "
                "the same execution"
            )
        notebook = nbformat.read(source, as_version=4)
        _fold_parameters(notebook)
        head = banner(stamp)
        if head:
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(head, id="banner"))
        notebook.cells.append(nbformat.v4.new_markdown_cell(footer(stamp), id="provenance"))
        nbformat.write(notebook, target / source.name)
    for path in sources.iterdir():
        if path.suffix == ".bib":
            shutil.copy(path, target)
        elif path.is_dir() and not path.name.startswith("."):
            shutil.copytree(path, target / path.name)
    shutil.copy(toc, target / "_toc.yml")
    settings = yaml.safe_load(config.read_text())
    sphinx = settings.setdefault("sphinx", {}).setdefault("config", {})
    sphinx["myst_substitutions"] = dict(substitutions)
    (target / "_config.yml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    check(target, substitutions, sources=sources, toc=toc, whole=whole)


def build(
    substitutions: Mapping[str, Any],
    *,
    output: Path = BUILD,
    sources: Path = SOURCES,
    notebooks: Path = NOTEBOOKS,
    toc: Path = TOC,
    config: Path = CONFIG,
    whole: bool = False,
) -> Path:
    """Build the pages strictly and promote them; where that fails the previous pages stay.

    Parameters
    ----------
    substitutions, sources, notebooks, toc, config, whole
        As in :func:`stage`.
    output
        The pages end in ``output / "html"``.

    Returns
    -------
    Path
        The book's first page.

    Raises
    ------
    BuildError, CheckError
        What :func:`stage` raises; or Sphinx warned or failed: a dead link, an unknown reference, a figure
        that is not there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".building-") as folder:
        staged, scratch = Path(folder) / "stage", Path(folder) / "scratch"
        places = {"sources": sources, "notebooks": notebooks, "toc": toc, "config": config}
        stage(staged, substitutions, **places, whole=whole)
        made = run_sphinx(staged, scratch)
        return _promote(made, output / "html", aside=Path(folder))


def run_sphinx(staged: Path, scratch: Path, *, builder: str = "html") -> Path:
    """Run Jupyter Book strictly on a staged folder and return the folder of what it built.

    Parameters
    ----------
    staged, scratch
        What :func:`stage` wrote, and a folder for everything that is built.
    builder
        ``html``: a file a page; ``singlehtml``: all pages in one.

    Raises
    ------
    BuildError
        Sphinx warned or failed.
    """
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(staged), "--path-output", str(scratch)]
    options = ["-W", "-n", "--keep-going", "--all", "--builder", builder]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    made = scratch / "_build" / builder
    if done.returncode or not (made / "index.html").exists():
        raise BuildError(_explain(done.stdout + done.stderr, [str(staged), str(scratch)]))
    return made


def _explain(log: str, folders: Sequence[str]) -> str:
    for folder in folders:
        log = log.replace(f"{folder}/", "")
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)  # colours of a terminal
    # MyST-NB counts a cell as ten thousand lines
    log = re.sub(r"(\.ipynb):(\d+)\d{4}:", lambda at: f"{at[1]}, cell {int(at[2]) - 1}:", log)
    told = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line or "rror:" in line]
    shown = told or log.splitlines()[-30:]
    return "the pages were not built, the previous ones are kept:\n" + "\n".join(shown)


def _promote(made: Path, target: Path, *, aside: Path) -> Path:
    """Put new pages in the place of old ones, which go to a folder of this build's own."""
    for attempt in itertools.count():
        with contextlib.suppress(FileNotFoundError):
            target.rename(aside / f"old-{attempt}")
        try:
            made.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue  # another build was promoted just now: this one is the later
        break
    return target / "index.html"
