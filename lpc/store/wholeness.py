"""Wholeness: the conditions for a finished run, beyond the existence of a result.

A run is finished only if its result says ``finished`` or ``failed``, its spec hashes to the name of its
folder, and its other files are there. A run with a result that lacks any of this is damaged: an error names
the file, because training it again, or selecting among the others, would hide the damage.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lpc.specs import RunSpec, key_of, run_key, spec_from_dict
from lpc.store.atomic import GONE
from lpc.store.checksums import Part, check, opened_object, parts_of
from lpc.store.reading import bytes_if_there, damaged, read_object

ENDED = ("finished", "failed")
"""Possible ends of a run."""
PARTS = ("provenance.json", "history.jsonl", "checkpoint.safetensors")
"""Files of a finished run besides its spec and its result."""


def read_spec(path: Path) -> RunSpec:
    """Return the spec in a run's file after checking that it belongs to the run's folder.

    Raises
    ------
    lpc.store.reading.Damaged
        If the file does not exist, is not whole, or is another run's.
    """
    values = read_object(path)
    check_spec(path, values)
    return _built(path, values)


def check_spec(path: Path, values: dict[str, Any]) -> None:
    """Check that these fields of a spec hash to the name of the folder that they were read from."""
    with suppress(ValueError):
        if key_of(values) == path.parent.name:
            return
    key = run_key(_built(path, values))
    if key != path.parent.name:
        raise damaged(path, f"is the spec of run {key}, not of {path.parent.name}")


def is_of(path: Path, values: dict[str, Any], protocol: int) -> bool:
    """Whether a spec has a protocol; a spec with this protocol must hash to the name of its folder.

    Raises
    ------
    lpc.store.reading.Damaged
        If it does not, or if it differs from the spec of this folder's run in its protocol alone.
    """
    if values.get("protocol", protocol) == protocol:
        check_spec(path, values)
        return True
    try:
        ours = key_of({**values, "protocol": protocol}) == path.parent.name
    except ValueError:  # fields of another protocol
        return False
    if ours:
        raise damaged(path, f"has protocol {values['protocol']!r}, but the run's is {protocol}")
    return False


def _built(path: Path, values: dict[str, Any]) -> RunSpec:
    try:
        return spec_from_dict(values)
    except (ValueError, TypeError) as error:
        raise damaged(path, f"is {error}") from error


class Result(NamedTuple):
    """Content of a run's result file.

    Attributes
    ----------
    values
        Result of the run: metrics by name.
    parts
        Expected digests and sizes of the run's other files; None: written by a version without checksums.
    """

    values: dict[str, Any]
    parts: dict[str, Part] | None


def parsed_result(path: Path, content: bytes) -> Result:
    """Return the content of a run's result file after checking that it says how the run ended."""
    values, _ = opened_object(path, content)
    parts = parts_of(path, values)
    if values.get("status") not in ENDED:
        raise damaged(path, f"has status {values.get('status')!r}, expected {' or '.join(ENDED)}")
    return Result(values, parts)


def parsed_test(path: Path, content: bytes, result: Result | None) -> tuple[dict[str, Any], bool]:
    """Return a run's test metrics, and whether they have a checksum, required if the result has one."""
    values, sealed = opened_object(path, content)
    if not sealed and result is not None and result.parts is not None:
        raise damaged(path, "has no checksum, but the run's result has")
    return values, sealed


def parsed_provenance(path: Path, content: bytes, result: Result | None) -> tuple[dict[str, Any], bool]:
    """Return a run's provenance, and whether it has a checksum: in itself or, formerly, in the result.

    It is in itself, because a program that slept and was taken for dead may replace the file when it wakes.
    """
    values, sealed = opened_object(path, content)
    if not sealed and result is not None and result.parts is not None:
        if not check(path, content, result.parts):
            raise damaged(path, "has no checksum, but the run's result has")
        sealed = True
    return values, sealed


def read_result(directory: Path) -> Result | None:
    """Return a run's result, or None if it has none."""
    content = bytes_if_there(directory / "result.json")
    return None if content is None else parsed_result(directory / "result.json", content)


def check_part(path: Path, size: int | None, result: Result) -> None:
    """Check a file of a finished run; ``size`` is its present size in bytes, None if it is gone."""
    if size is None:
        raise damaged(path, "does not exist, but the run has a result")
    expected = (result.parts or {}).get(path.name)
    if expected is not None and size != expected.size:
        raise damaged(path, f"has {size} bytes, expected {expected.size}")


def has_ended(directory: Path) -> bool:
    """Whether a run has a result and is whole.

    Raises
    ------
    lpc.store.reading.Damaged
        If the run has a result and is not whole.
    """
    result = read_result(directory)
    if result is None:
        return False
    check_spec(directory / "spec.json", read_object(directory / "spec.json"))
    for name in PARTS:
        check_part(directory / name, size_of(directory / name), result)
    return True


def size_of(path: Path) -> int | None:
    """Return the size of a file in bytes, None if it does not exist."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None
