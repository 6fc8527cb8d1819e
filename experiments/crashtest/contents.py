"""The content of a store that must be the same in two stores trained alike."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.crashtest.programs import PROBE, runs
from lpc.specs import run_key
from lpc.store import RunStore
from lpc.store.checksums import digest, opened_object, parts_of


def files(root: Path) -> set[str]:
    """Return all files in a store, except the cached rows and the folders that every store has."""
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    ours = {"runs", "cohorts", "heartbeats"}
    return {name for name in found if name not in ours and not name.startswith("listing-")}


def finished(root: Path) -> dict[str, str]:
    """Return the digests of the results by run key; a run with a result is finished."""
    return {path.parent.name: digest(path.read_bytes()) for path in root.glob("runs/*/result.json")}


def bits(root: Path) -> dict[str, str]:
    """Return the digests, by file, of everything that training, measuring and probing must repeat to the bit.

    Seconds and dates are left out. For a missing or damaged file, the damage is described instead.
    """
    found = {}
    for key in map(run_key, runs()):
        directory = RunStore(root).directory(key)
        for name in ("checkpoint.safetensors", "history.jsonl", f"{PROBE}.csv"):
            found[f"{key}/{name}"] = _digest(directory / name)
        for name in ("result.json", "test.json", f"{PROBE}.probe"):
            found[f"{key}/{name}"] = _object(directory / name)
    return found


def _digest(path: Path) -> str:
    return digest(path.read_bytes()) if path.exists() else "missing"


def _object(path: Path) -> str:
    if not path.exists():
        return "missing"
    try:
        value, _ = opened_object(path, path.read_bytes())
        parts_of(path, value)
    except ValueError as error:
        return str(error)
    return digest(json.dumps(value, sort_keys=True).encode())
