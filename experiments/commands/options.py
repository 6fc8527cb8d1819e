"""Options that several verbs share; those that select runs are passed on as one value."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from experiments.studies.profiles import GROUPS, PAGED, PROFILES, resolve, specs
from experiments.studies.selection import KINDS, Selection
from lpc.errors import on_one_line
from lpc.specs import VARIANTS

profile_option = click.option(
    "--profile",
    "-P",
    default="laptop",
    show_default=True,
    help=f"Profile of the runs: {', '.join(PAGED)}.",
)
seeds_option = click.option("--seeds", type=int, help="Number of seeds (default: the profile's).")


def _folder(_context: click.Context, _option: click.Parameter, given: str) -> str:
    """Return a folder as an absolute path, because chapters take relative ones to lie in the project."""
    if not given.strip():
        raise ValueError("--store is empty; expected a folder")
    return str(on_one_line(given, "--store").absolute())


store_option = click.option(
    "--store", default="runs", show_default=True, callback=_folder, help="Folder of the runs."
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Processes (default: one per core; one on a GPU)."
)

_OF_SELECTION = {
    "profile": click.option(
        "--profile",
        "-P",
        default="laptop",
        show_default=True,
        help=f"Profile of the runs: {', '.join(PROFILES)}; or a group: {', '.join(GROUPS)}.",
    ),
    "dataset": click.option("--dataset", help="Only the profile on this data set, such as CIFAR10."),
    "seeds": seeds_option,
    "only": click.option(
        "--only",
        help=f"Only these architectures, separated by commas: {', '.join(VARIANTS)} (embeddings and gammas "
        "have their own). With --study bottlenecks: the beginnings of names.",
    ),
    "study": click.option(
        "--study",
        type=click.Choice(KINDS),
        default="ablation",
        show_default=True,
        help="Runs behind the LPC paper's tables, or Kirsch et al.'s figures.",
    ),
    "store": store_option,
}
assert set(_OF_SELECTION) == {item.name for item in fields(Selection)}


def names(text: str | None, option: str) -> tuple[str, ...] | None:
    """Return the comma-separated names of an option; None if the option was not given.

    Raises
    ------
    ValueError
        If the option was given but names nothing.
    """
    if text is None:
        return None
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise ValueError(
            f"{option} is {text!r}; expected names separated by commas; leave {option} out for all"
        )
    return found


def _check_names(selection: Selection) -> None:
    """Raise a ValueError for an unknown name before anything imports torch, which takes seconds."""
    if selection.study == Selection.study:
        for chosen in resolve(selection.profile, selection.dataset):
            specs(chosen, seeds=selection.seeds, only=selection.only)


def selecting(*wanted: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a verb options for the selection of runs.

    The verb is called with the resulting :class:`~experiments.studies.selection.Selection`, then with its own
    options by name.

    Parameters
    ----------
    wanted
        Names of the fields of the selection; none given: all.
    """
    options = {name: _OF_SELECTION[name] for name in wanted} or _OF_SELECTION

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**values: Any) -> None:
            given = {name: values.pop(name) for name in options}
            if "only" in given:
                given["only"] = names(given["only"], "--only")
            chosen = Selection(**given)
            _check_names(chosen)
            verb(chosen, **values)

        for option in reversed(options.values()):  # decorators apply from the last to the first
            command = option(command)
        return command

    return decorate


def relative(path: Path) -> str:
    """Return a path as seen from the current folder."""
    return os.path.relpath(path)
