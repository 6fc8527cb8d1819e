"""Tables for the cluster page: the keys of the profile file, and the jobs that a profile becomes."""

from __future__ import annotations

import inspect
import re
import tempfile
from dataclasses import MISSING, fields
from pathlib import Path

import pandas as pd

from experiments.cluster.resources import Resources
from experiments.cluster.submissions import Request
from experiments.cluster.submit import batches
from experiments.paths import CLUSTER_EXAMPLE


def keys() -> pd.DataFrame:
    """Return a row per key of the profile file: its default, how it is written, and what it means.

    Meanings are those of :class:`experiments.cluster.resources.Resources`, examples those of
    ``cluster.example.toml``.
    """
    meanings = _meanings()
    lines = re.findall(r"^(?:# )?(\w+) = (.*?)(?: +#.*)?$", CLUSTER_EXAMPLE.read_text(), flags=re.MULTILINE)
    written = dict(reversed(lines))  # the first of each key
    rows = {}
    for one in fields(Resources):
        default = {None: "the cluster's", (): "none"}.get(one.default, str(one.default))
        if one.default is MISSING:
            default = "required" if one.default_factory is MISSING else "none"
        example = written.get(one.name, "a table: [all.options]")
        default += " s" if one.name == "warning" else ""
        rows[one.name] = {"default": default, "as in": example, "what": meanings[one.name]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("key")


def _meanings() -> dict[str, str]:
    """Return the description of each attribute in the docstring of ``Resources``."""
    text = (inspect.getdoc(Resources) or "").partition("----------\n")[2]
    found = {}
    for names, meaning in re.findall(r"^(\w.*)\n((?:    .*\n?)+)", text, flags=re.MULTILINE):
        found.update(dict.fromkeys(names.split(", "), _one_line(meaning)))
    return found


def _one_line(meaning: str) -> str:
    """Return a meaning on one line, without the default, which has its own column."""
    return re.sub(r"; None: [^.]*\.", ".", " ".join(meaning.split()))


_BEGINS = {
    "train": "at once",
    "retrain": "after all tasks of train {}",
    "finish": "after all jobs",
}


def jobs(profile: str = "paper", *, resources: Path = CLUSTER_EXAMPLE) -> pd.DataFrame:
    """Return the jobs of a profile on an empty store, one row per job: tasks, runs, and when they begin.

    Parameters
    ----------
    profile
        Name of a profile of the experiments, or of a group.
    resources
        Profile file with the resources.
    """
    with tempfile.TemporaryDirectory() as store:
        found = batches(Request(profile=profile, store=store, resources=str(resources)))
    rows = {
        one.name: {
            "tasks": str(len(one.tasks)),
            "runs": str(sum(map(len, one.tasks))),
            "begins": _BEGINS[one.kind].format(one.profile),
        }
        for one in found
    }
    rows[f"lpc-finish-{profile}"] = {"tasks": "1", "runs": "none", "begins": _BEGINS["finish"]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("job")
