"""Examination: every file of a store is checked, and damage is listed instead of raised."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lpc.specs import PROTOCOL
from lpc.store import holders, listing, probes
from lpc.store.checksums import Unchecked, check, opened_bytes
from lpc.store.holders import owners, read_owner, sign_of
from lpc.store.leftovers import Leftover, names_in
from lpc.store.reading import Damaged, bytes_if_there, damaged, parsed_lines
from lpc.store.run_store import RunStore
from lpc.store.wholeness import PARTS, parsed_provenance, read_result, read_spec

_T = TypeVar("_T")
_END = 4_096
"""Number of bytes at the end of a state that are read to look for a checksum."""


@dataclass
class Examination:
    """Contents of a store.

    Attributes
    ----------
    whole
        Rows of runs that have ended and are whole, as from :func:`lpc.store.listing.look`.
    unfinished
        Rows of runs that have begun and not ended. ``epoch`` is that of their last checkpoint, ``held`` the
        current owner; None: nobody.
    others
        Number of folders with runs of another protocol, or with runs that have not begun.
    damaged
        Damaged files, one error per file, with the fault and its repair.
    left
        Leftovers of programs that were killed, which nobody needs.
    unchecked
        Files without checksums, written by earlier versions.
    """

    whole: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[dict[str, Any]] = field(default_factory=list)
    others: int = 0
    damaged: list[Damaged] = field(default_factory=list)
    left: list[Leftover] = field(default_factory=list)
    unchecked: list[Path] = field(default_factory=list)

    def _note(self, look: Callable[[], _T]) -> _T | None:
        """Return the result of a look at some files; None if it raises an error, which is noted."""
        try:
            return look()
        except Damaged as error:
            if all(error.path != one.path for one in self.damaged):
                self.damaged.append(error)
            return None


def examine(store: RunStore, *, deep: bool = False, protocol: int = PROTOCOL) -> Examination:
    """Look through a store; nothing is changed.

    Parameters
    ----------
    store
        Store to look through; one that does not exist is empty.
    deep
        Whether to read every byte. If not, histories, weights, tables and states are only checked for
        existence and length.
    protocol
        Protocol of the runs.
    """
    runs = listing.look(store.root, protocol=protocol)
    found = Examination(others=runs.others, damaged=[*runs.damages])
    found.whole = [row for row in runs.rows if row["status"] != "training"]
    found.unfinished = [row for row in runs.rows if row["status"] == "training"]
    found.unchecked = [store.directory(key) / "result.json" for key in runs.unchecked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Unchecked)  # they are listed
        _look_further(store, found, deep)
    found.left = store.leftovers()
    return found


def _look_further(store: RunStore, found: Examination, deep: bool) -> None:
    """Check the files that the rows of runs do not cover."""
    for row in found.whole:
        found._note(lambda key=str(row["key"]): _check_provenance(store.directory(key)))
        if deep:
            _look_deep(store, str(row["key"]), found)
    for key in _names(store.root / "runs"):
        _look_beside(store.directory(key), found, deep)
    epochs: dict[str, int | None] = {}
    for cohort in _names(store.root / "cohorts"):
        keys = found._note(lambda cohort=cohort: store.members(cohort)) or ()
        for key in keys:
            found._note(lambda key=key: read_spec(store.directory(key) / "spec.json"))
        if keys:
            epochs |= dict.fromkeys(keys, found._note(lambda cohort=cohort: store.progress(cohort)))
        _look_at_state(store, cohort, found, deep)
    for name in _names(store.root / "heartbeats"):
        found._note(lambda name=name: _check_heartbeat(store.root / "heartbeats" / name))
    held = store.holders()
    for row in found.unfinished:
        key = str(row["key"])
        row.update(epoch=epochs.get(key), held=str(held[key]) if key in held else None)


def _names(folder: Path) -> list[str]:
    """Return the names in a folder, except hidden ones."""
    return [name for name in names_in(folder) if name[0] != "."]


def _look_beside(directory: Path, found: Examination, deep: bool) -> None:
    """Look at a run's probes and owner files."""
    names = _names(directory)
    for name in names:
        if name.endswith(".probe"):
            probe = name.removesuffix(".probe")
            sealed = found._note(lambda probe=probe: probes.check_whole(directory, probe, deep=deep))
            if sealed is False:
                found.unchecked.append(directory / name)
    for path in owners(directory).values() if any(name.startswith("owner-") for name in names) else ():
        found._note(lambda path=path: read_owner(path))


def _check_provenance(directory: Path) -> None:
    path = directory / "provenance.json"
    content = bytes_if_there(path)
    if content is None:
        raise damaged(path, "does not exist, but the run has a result")
    _, sealed = parsed_provenance(path, content, None)
    if not sealed:
        parsed_provenance(path, content, read_result(directory))


def _look_deep(store: RunStore, key: str, found: Examination) -> None:
    """Read those files of a finished run whose length alone was checked."""
    directory = store.directory(key)
    result = found._note(lambda: read_result(directory))

    def read(path: Path) -> None:
        content = bytes_if_there(path)
        if content is None:
            raise damaged(path, "does not exist, but the run has a result")
        if check(path, content, result.parts if result else None):
            return
        if path.name == "checkpoint.safetensors":
            store.load_weights(read_spec(directory / "spec.json"))
        else:
            parsed_lines(path, content)

    for name in PARTS:
        if name != "provenance.json":
            found._note(lambda name=name: read(directory / name))


def _look_at_state(store: RunStore, cohort: str, found: Examination, deep: bool) -> None:
    path = store.root / "cohorts" / cohort / "state.pt"

    def sealed() -> bool | None:
        try:
            if deep:
                store.load_state(cohort, "cpu")
            with path.open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _END))
                end = stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None  # none yet, or the cohort has ended since; a file there is named already
        except IsADirectoryError as error:
            raise damaged(path, "is a folder, expected a file") from error
        try:
            return opened_bytes(path, end)[1]
        except Damaged:  # there is a checksum, of more than this end
            return True

    if found._note(sealed) is False:
        found.unchecked.append(path)


def _check_heartbeat(path: Path) -> None:
    sign = sign_of(path)
    if sign is not None and sign.holder is None:
        mend = f"it counts as dead {holders.LEASE:g} s after its last sign of life, and is then swept"
        raise damaged(path, "does not say whose it is", mend=mend)
