"""What stands around a page: whose numbers it shows, how to run it again, from what it was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import nbformat

from experiments.publishing.chapter_sources import parse
from experiments.publishing.needs import PROBED
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import LIVE, PROFILES, SIBLINGS


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
        if kind == "bottlenecks" and name in BOTTLENECK_PROFILES:
            found.append(BOTTLENECK_PROFILES[name].summary)
        if kind in SIBLINGS and f"{name}-{kind}" in PROFILES:
            found.append(PROFILES[f"{name}-{kind}"].summary)
    return found


def run_box(stamp: Mapping[str, Any]) -> str:
    """Return the box that says how to run a chapter again: by the command line, or with papermill alone."""
    name, values = stamp["chapter"], stamp["parameters"]
    options = " ".join(f"-p {key} {shlex.quote(_written(value))}" for key, value in values.items())
    trains = " Runs that it needs and that are not there are trained first." if "store" in values else ""
    return (
        f"(run-{name})=\n:::{{admonition}} Run this chapter\n:class: dropdown run-this\n"
        f"From the project's folder, once `make env` has made `.venv`.{trains}\n\n"
        f"```sh\n.venv/bin/python -m experiments chapters {name} {options}\n```\n\n"
        f"The notebook is then `build/notebooks/{name}.ipynb`. With jupytext and papermill alone:\n\n"
        f"```sh\nmkdir -p build\n"
        f".venv/bin/jupytext --to ipynb --output build/{name}.ipynb book/{name}.md\n"
        f".venv/bin/papermill build/{name}.ipynb build/{name}-executed.ipynb {_papermill(values)}\n```\n:::"
    )


def _written(value: Any) -> str:
    """Return a value as the command line reads it back: text as it is, where that is not something else."""
    return str(value) if parse(str(value)) == value else repr(value)


def _papermill(values: Mapping[str, Any]) -> str:
    """Return papermill's options: ``-p`` reads numbers and words, ``-y`` everything else."""
    scalar = (str, int, float, type(None))
    plain = {key: value for key, value in values.items() if isinstance(value, scalar)}
    plain = {key: value for key, value in plain.items() if parse(str(value)) == value}
    options = [f"-p {key} {shlex.quote(str(value))}" for key, value in plain.items()]
    other = {key: value for key, value in values.items() if key not in plain}
    return " ".join([*options, *([f"-y {shlex.quote(json.dumps(other))}"] if other else [])])


def footer(stamp: Mapping[str, Any]) -> str:
    """Return what stands below a page: from what it was made."""
    commit = (stamp["commit"] or "unknown")[:12] + (" with local changes" if stamp["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    return (
        ":::{admonition} Where this page came from\n:class: dropdown provenance\n"
        f"Executed {stamp['started']} in {stamp['seconds']} s at commit {commit}, on {stamp['system']} "
        f"{stamp['machine']} ({stamp['device']}), Python {stamp['python']}, {versions}.\n:::"
    )


def fold_parameters(notebook: nbformat.NotebookNode) -> None:
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
