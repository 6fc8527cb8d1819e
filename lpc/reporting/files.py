"""Arrays of a report in files: .npz, .csv, .parquet and .safetensors, found by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lpc.errors import missing_extra, unknown_name
from lpc.reporting.tables import arrays_of

KINDS = (".npz", ".safetensors", ".csv", ".parquet")
ROLES: Mapping[str, tuple[str, ...]] = {
    "latents": (
        *("latent", "latents", "train_latent", "train_latents", "features", "train_features", "feature"),
        *("embeddings", "embedding", "z", "pooler_output", "hidden", "x"),
    ),
    "labels": (
        "label",
        "labels",
        "train_label",
        "train_labels",
        "target",
        "targets",
        "y",
        "class",
        "classes",
    ),
    "logits": ("logits", "train_logits", "scores"),
    "weight": ("weight", "classifier_weight", "fc.weight", "w"),
    "bias": ("bias", "classifier_bias", "fc.bias", "b"),
    "test_latents": ("test_latent", "test_latents", "test_features", "test_embeddings"),
    "test_labels": ("test_label", "test_labels", "test_target", "test_targets", "y_test"),
    "test_logits": ("test_logits",),
    "outside": ("outside", "outside_latent", "ood", "ood_latent", "ood_features", "out"),
    "outside_logits": ("outside_logits", "ood_logits"),
}
"""Roles of arrays in a report, each with its usual names, tried in this order and in any case."""


def read(path: Path, given: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Return the arrays of a file by name; a table goes through :func:`~lpc.reporting.tables.arrays_of`.

    Parameters
    ----------
    path
        Path of the file, whose ending gives its kind.
    given
        Names of arrays by role, as given by the user.

    Raises
    ------
    ValueError
        If there is no such file, it has an unknown kind, or it cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'}; expected {', '.join(KINDS)}: "
            "np.savez('features.npz', latents=..., labels=...) writes one"
        )
    if not path.is_file():
        raise ValueError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        found = _READERS[kind](path)
    except ImportError:
        raise
    except Exception as error:  # any error of a library for a damaged file, or one of another kind
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as {kind}: {reason}") from error
    return found if isinstance(found, dict) else arrays_of(found, path, given or {}, ROLES["labels"])


def _npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            raise ValueError("it is not an archive of arrays, as np.savez writes them")
        stream.seek(0)
        archive = np.load(stream, allow_pickle=False)
        return {name: _array_of(archive, name) for name in archive.files}


def _array_of(archive: Any, name: str) -> Any:
    """Return an array of an archive; a stand-in for Python objects, whose loading would run code."""
    try:
        return archive[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        return np.array(None, dtype=object)


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(path, "numpy") as file:
        half = [name for name in file.keys() if file.get_slice(name).get_dtype() in ("BF16", "F8_E4M3")]  # noqa: SIM118
    if half:
        raise ValueError(f"{half[0]!r} has a dtype that numpy lacks; expected float32 or float64")
    return load_file(path)


def _csv(path: Path) -> Any:
    import pandas as pd

    return pd.read_csv(path)


def _parquet(path: Path) -> Any:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise missing_extra("a .parquet file", ["pyarrow"], "parquet") from error


_READERS = {".npz": _npz, ".safetensors": _safetensors, ".csv": _csv, ".parquet": _parquet}


def _fits(role: str, value: Any) -> bool:
    """Whether an array has the dimensions and kind of a role."""
    if role.endswith("labels"):
        return value.ndim == 1
    return value.dtype.kind == "f" and value.ndim == (1 if role == "bias" else 2)


def _may_be(role: str, value: Any) -> bool:
    """Whether an array without a known name can serve as latents or labels if there is no other."""
    if role == "labels":
        return (
            value.ndim == 1 and value.dtype.kind in "iuUSO" and len(np.unique(value.astype(str))) < len(value)
        )
    return _fits(role, value)


def chosen(arrays: Mapping[str, Any], given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the role of each array in a file: as given, or by the names in :data:`ROLES`.

    Parameters
    ----------
    arrays
        Arrays of the file by name.
    given
        Names of arrays by role, as given by the user; None: to be guessed.

    Raises
    ------
    ValueError
        If the file lacks a given name, or has no latents or labels; the message lists what it has.
    """
    names = {name.lower(): name for name in reversed(list(arrays))}
    found = {}
    for role, known in ROLES.items():
        name = given.get(role)
        if name is not None and name not in arrays:
            raise unknown_name(f"array for {role}", name, arrays)
        there = [names[candidate] for candidate in known if candidate in names]
        guess = next((one for one in there if _fits(role, arrays[one])), None)
        if guess is None and role in ("latents", "labels"):
            guess = next(iter(there), None)  # of another form: the report says how to fix it
        if name or guess:
            found[role] = name or str(guess)
    for role in ("latents", "labels"):
        fitting = (name for name, value in arrays.items() if _may_be(role, value))
        left = [name for name in fitting if name not in found.values()]
        if role not in found and len(left) == 1:
            found[role] = left[0]
        if role not in found:
            has = [f"{name} {value.shape} {value.dtype}" for name, value in arrays.items()]
            kind = "a matrix of floats" if role == "latents" else "one integer per point"
            raise ValueError(
                f"the file has no {role}: expected {kind}; name it with --{role} NAME. It has "
                f"{', '.join(has) or 'nothing'}"
            )
    if "bias" in found and "weight" not in found:
        if given.get("bias"):
            raise ValueError("--bias was given without a weight; name the weight with --weight NAME")
        del found["bias"]
    return found


def numbered(found: dict[str, Any]) -> list[str]:
    """Replace labels that are text or whole floats by integers, and return a note about it.

    Parameters
    ----------
    found
        Arrays by role; the labels are replaced in place.

    Raises
    ------
    ValueError
        If labels are missing, class names come with logits or weights, whose order is then unknown, or the
        test set has names that the train set lacks.
    """
    said = []
    known: Any = None
    for role in ("labels", "test_labels"):
        value = found.get(role)
        if value is None or value.ndim != 1:
            continue
        if value.dtype.kind == "f":
            _whole(value, role)
            found[role] = value.astype(np.int64)
        elif value.dtype.kind in "USO":
            text = value.astype(str)
            lacking = np.flatnonzero(np.isin(text, ("nan", "None", "")))
            if len(lacking):
                raise ValueError(f"{role} lack {len(lacking)} values, the first at index {lacking[0]}")
            more = [name for name in ("logits", "weight", "test_logits") if name in found]
            if more:
                raise ValueError(
                    f"{role} are text, such as {str(text[0])!r}, and there are {more[0]}, whose order of "
                    f"classes is unknown; expected integers, the columns of {more[0]}"
                )
            if known is None:
                known = np.unique(text)
                shown = ", ".join(f"{place} = {name}" for place, name in enumerate(known[:5]))
                said.append(f"labels are text: {shown}{', ...' if len(known) > 5 else ''}")
            unknown = np.setdiff1d(text, known)
            if len(unknown):
                raise ValueError(f"{role} hold {str(unknown[0])!r}, which labels do not")
            found[role] = np.searchsorted(known, text)
    return said


def _whole(value: Any, role: str) -> None:
    bad = np.flatnonzero(~(np.isfinite(value) & (value == np.round(value))))
    if len(bad):
        raise ValueError(f"{role} hold {value[bad[0]]:g} at index {bad[0]}; expected integers")
