"""Header and foot of a page: at the top a warning; at the foot its runs, files, and how to run it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import nbformat

from experiments.publishing.executing.chapter_sources import parse
from experiments.publishing.executing.needs import PROBED
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import LIVE, PROFILES, SIBLINGS


def warning(stamp: Mapping[str, Any]) -> str:
    """Return the warning at the top of a page whose numbers mean nothing; empty for all other pages."""
    if stamp["parameters"].get("profile") != "smoke":
        return ""
    return (
        ":::{warning}\nA trial build: its runs take seconds, and the numbers on this page mean nothing.\n:::"
    )


def numbers(stamp: Mapping[str, Any]) -> str:
    """Return the sentences that say where a page's numbers come from; empty if it shows none."""
    name = stamp["parameters"].get("profile")
    if name is None:
        return ""
    if "store" not in stamp["parameters"]:
        return f"The sizes on this page are those of the profile *{name}*; it reads no runs."
    summaries = _summaries(name, stamp["needs"])
    text = f"The numbers on this page come from the profile *{name}*: {'; and '.join(summaries)}."
    if "beside" in stamp["parameters"] and name not in LIVE:
        text += f" Those that are marked so come from the profile *{stamp['parameters']['beside']}*."
    return text


def _summaries(name: str, needs: Sequence[str]) -> list[str]:
    """Return the summaries of the runs that a page reads: of a profile, its siblings, its bottleneck runs."""
    found = [PROFILES[name].summary] if name in PROFILES and set(needs) & set(PROBED) else []
    for kind in needs:
        if kind == "bottlenecks" and name in BOTTLENECK_PROFILES:
            found.append(BOTTLENECK_PROFILES[name].summary)
        if kind in SIBLINGS and f"{name}-{kind}" in PROFILES:
            found.append(PROFILES[f"{name}-{kind}"].summary)
    return found


def run_box(stamp: Mapping[str, Any]) -> str:
    """Return the commands that run a chapter again: with this package, or with papermill alone."""
    name, values = stamp["chapter"], stamp["parameters"]
    options = " ".join(f"-p {key} {shlex.quote(_written(value))}" for key, value in values.items())
    trains = " Missing runs are trained first." if "store" in values else ""
    return (
        ":::{div} run-this\n"
        f"To run the page again, in the project's folder once `make env` has made `.venv`.{trains}\n\n"
        f"```sh\n.venv/bin/python -m experiments chapters {name} {options}\n```\n\n"
        f"The notebook is then `build/notebooks/{name}.ipynb`. With jupytext and papermill alone:\n\n"
        f"```sh\nmkdir -p build\n"
        f".venv/bin/jupytext --to ipynb --output build/{name}.ipynb book/{name}.md\n"
        f".venv/bin/papermill build/{name}.ipynb build/{name}-executed.ipynb {_papermill(values)}\n```\n:::"
    )


def _written(value: Any) -> str:
    """Return a value in a form that the command line reads back: text without quotes if it is unambiguous."""
    return str(value) if parse(str(value)) == value else repr(value)


def _papermill(values: Mapping[str, Any]) -> str:
    """Return papermill's options: ``-p`` reads numbers and words, ``-y`` everything else."""
    scalar = (str, int, float, type(None))
    plain = {key: value for key, value in values.items() if isinstance(value, scalar)}
    plain = {key: value for key, value in plain.items() if parse(str(value)) == value}
    options = [f"-p {key} {shlex.quote(str(value))}" for key, value in plain.items()]
    other = {key: value for key, value in values.items() if key not in plain}
    return " ".join([*options, *([f"-y {shlex.quote(json.dumps(other))}"] if other else [])])


def foot(stamp: Mapping[str, Any], links: str) -> str:
    """Return the folded foot of a page: its runs, its files, how to run it, and its provenance.

    Parameters
    ----------
    stamp
        Record of the execution.
    links
        Paragraph with links to the files.
    """
    commit = (stamp["commit"] or "unknown")[:12] + (" with local changes" if stamp["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    made = (
        f"Executed {stamp['started']} in {stamp['seconds']} s at commit {commit}, on {stamp['system']} "
        f"{stamp['machine']} ({stamp['device']}), Python {stamp['python']}, {versions}."
    )
    parts = [part for part in (numbers(stamp), links, run_box(stamp), made) if part]
    head = "::::{admonition} About this page: data, files, how to run it\n:class: dropdown page-foot"
    return f"{head}\n\n" + "\n\n".join(parts) + "\n::::"


def set_plumbing_aside(notebook: nbformat.NotebookNode) -> None:
    """Move parameters and imports from the beginning of a page to its end, and fold them.

    One cell of parameters is kept: papermill's if it injected one, which holds the final values. The next
    cell is moved, too, if it is folded already and shows nothing.
    """
    tags = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    injected = any("injected-parameters" in own for own in tags)
    kept, aside = [], []
    for cell, own in zip(notebook.cells, tags, strict=True):
        if own & {"parameters", "injected-parameters"}:
            if not (injected and "parameters" in own):
                aside.append(_folded(cell, "Parameters of this page"))
        elif len(aside) == 1 and "hide-input" in own and not cell.get("outputs") and not _codes(kept):
            aside.append(_folded(cell, "Imports and settings of this page"))
        else:
            kept.append(cell)
    notebook.cells = [*kept, *aside]


def _codes(cells: Sequence[nbformat.NotebookNode]) -> int:
    return sum(cell.cell_type == "code" for cell in cells)


def _folded(cell: nbformat.NotebookNode, words: str) -> nbformat.NotebookNode:
    """Return a cell whose code is folded under a title."""
    cell.metadata["tags"] = [*dict.fromkeys([*cell.metadata.get("tags", []), "hide-input", "plumbing"])]
    cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), "code_prompt_show": words}
    return cell
