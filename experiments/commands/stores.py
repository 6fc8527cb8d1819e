"""The verb that examines a store: its content, its damage, and leftovers that may be removed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from experiments.commands.options import relative, store_option

if TYPE_CHECKING:
    from lpc.store.examination import Examination
    from lpc.store.leftovers import Leftover, Swept

SHOWN = 20
"""Largest number of lines that are shown of each kind; ``--json`` has all."""


@click.command()
@store_option
@click.option("--sweep", is_flag=True, help="Remove leftovers that no program can still need.")
@click.option("--deep", is_flag=True, help="Read every byte, including weights, histories and states.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def doctor(store: str, sweep: bool, deep: bool, as_json: bool) -> None:
    """List the whole, damaged and leftover files of a store.

    Unfinished runs and runs without checksums are listed, too. The exit status is 1 if something is damaged;
    each such line says how to repair it. Leftovers are files of killed programs, in the store and among the
    pages being made. Only --sweep removes anything, and never what a running or sleeping program may still
    need. Training sweeps its own runs in the same way.

    \b
    Examples:
      python -m experiments doctor
      python -m experiments doctor --store runs --deep
      python -m experiments doctor --sweep
    """
    from experiments.cluster import submissions
    from experiments.publishing.executing import scratch
    from lpc.store import RunStore
    from lpc.store.examination import examine
    from lpc.store.leftovers import Swept

    there = RunStore(store)
    if not there.root.is_dir():
        raise ValueError(f"--store is {store!r}, which is not a folder; expected the folder of a run store")
    found = examine(there, deep=deep)
    found.damaged += submissions.damages(store)
    found.left += scratch.leftovers()
    swept: list[Swept] = []
    if sweep:
        swept = [*there.sweep(), *(Swept(one, None) for one in scratch.sweep())]
        gone = {one.leftover.path for one in swept if one.error is None}
        found.left = [one for one in found.left if one.path not in gone]
    if as_json:
        click.echo(json.dumps(_as_json(found, swept), indent=1))
    else:
        for line in _lines(found, swept):
            click.echo(line)
    sys.exit(1 if found.damaged else 0)


def _lines(found: Examination, swept: list[Swept]) -> Iterable[str]:
    failed = sum(row["status"] == "failed" for row in found.whole)
    yield f"whole: {_count(found.whole, 'run')}" + (
        f", {failed} of them failed in training" if failed else ""
    )
    yield from _part("damaged", "file", map(str, found.damaged))
    yield from _part("unfinished", "run", map(_unfinished, found.unfinished))
    if found.others:
        yield f"not checked: {found.others} runs, of another protocol or not begun"
    yield from _part("left over", "item", map(_left, found.left))
    yield from _part(
        "unchecked, written without checksums by an earlier version", "file", map(str, found.unchecked)
    )
    removed = [one.leftover for one in swept if one.error is None]
    yield from _part("removed", "item", map(_left, removed))
    kept = [f"{_left(one.leftover)}: {one.error}" for one in swept if one.error is not None]
    yield from _part("not removed", "item", kept)


def _part(title: str, unit: str, lines: Iterable[str]) -> Iterable[str]:
    """Yield a line with the number of lines, then the first of them; nothing if there are none."""
    every = list(lines)
    if not every:
        return
    yield f"{title}: {_count(every, unit)}"
    yield from (f"  {line}" for line in every[:SHOWN])
    if every[SHOWN:]:
        yield f"  and {len(every) - SHOWN} more; --json lists all"


def _count(items: Sequence[object], unit: str) -> str:
    return f"{len(items)} {unit}{'s' * (len(items) != 1)}"


def _unfinished(row: dict[str, Any]) -> str:
    epoch, held = row["epoch"], row["held"]
    return (
        f"{row['architecture']}, seed {row['seed']}, learning rate {row['train.learning_rate']:g} "
        f"({row['key'][:12]}): "
        + (f"under way by {held}" if held else "interrupted")
        + ("" if epoch is None else f", checkpoint after epoch {epoch} of {row['train.epochs']}")
    )


def _left(one: Leftover) -> str:
    return f"{relative(one.path)}: {one.what}"


def _as_json(found: Examination, swept: list[Swept]) -> dict[str, Any]:
    def left(one: Leftover) -> dict[str, Any]:
        return {"path": str(one.path), "what": one.what}

    told = ("key", "architecture", "seed", "train.learning_rate", "epoch", "held")
    return {
        "whole": [row["key"] for row in found.whole],
        "damaged": [{"path": str(one.path), "what": one.what, "cure": one.mend} for one in found.damaged],
        "unfinished": [{name: row.get(name) for name in told} for row in found.unfinished],
        "others": found.others,
        "left_over": [left(one) for one in found.left],
        "unchecked": [str(path) for path in found.unchecked],
        "swept": [{**left(one.leftover), "error": one.error} for one in swept],
    }
