"""Arrays of a report in files: .npz, .csv, .parquet and .safetensors, their names guessed and said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lpc.errors import missing_extra, unknown_name

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
"""What a report takes, and the names that are looked for, in this order, whatever their case."""


def read(path: Path) -> dict[str, Any]:
    """Return the arrays of a file by name; of a table its columns, and numbered ones together.

    Raises
    ------
    ValueError
        No such file, or one of another kind or that cannot be read.
    """
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; expected {', '.join(KINDS)}")
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    try:
        return _READERS[path.suffix.lower()](path)
    except (OSError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from error


def _npz(path: Path) -> dict[str, Any]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}; is it one of np.savez?") from error


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as .safetensors: {error}") from error


def _csv(path: Path) -> dict[str, Any]:
    import pandas as pd

    try:
        return _columns(pd.read_csv(path), path)
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} cannot be read as .csv: {error}") from error
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None


def _parquet(path: Path) -> dict[str, Any]:
    import pandas as pd

    try:
        return _columns(pd.read_parquet(path), path)
    except ImportError as error:
        raise missing_extra("a .parquet file", ["pyarrow"], "parquet") from error


_READERS = {".npz": _npz, ".safetensors": _safetensors, ".csv": _csv, ".parquet": _parquet}


def _columns(table: Any, path: Path) -> dict[str, Any]:
    """Return the labels, the columns ``logit...`` together, and all other columns of floats as latents."""
    names = {str(name).lower(): name for name in table.columns}
    label = next((names[name] for name in ROLES["labels"] if name in names), None)
    found: dict[str, Any] = {} if label is None else {"label": table[label].to_numpy()}
    numbers = [
        name
        for name in table.columns
        if name is not label and np.issubdtype(table[name].to_numpy().dtype, np.floating)
    ]
    scores = [name for name in numbers if str(name).lower().startswith("logit")]
    rest = [name for name in numbers if name not in scores]
    if not rest:
        raise ValueError(f"{path} has no column of floats besides labels and logits; expected one per node")
    found["latent"] = table[rest].to_numpy(np.float64)
    if scores:
        found["logits"] = table[scores].to_numpy(np.float64)
    return found


def _fits(role: str, value: Any) -> bool:
    """Whether an array has the dimensions and kind of a role; labels of another kind are refused later."""
    if role.endswith("labels"):
        return value.ndim == 1
    return value.dtype.kind == "f" and value.ndim == (1 if role == "bias" else 2)


def chosen(arrays: Mapping[str, Any], given: Mapping[str, str | None]) -> dict[str, str]:
    """Return which array of a file is what: as given, or by the names of :data:`ROLES`.

    Parameters
    ----------
    arrays
        Of the file.
    given
        Names by role, as a user gave them; None: to be guessed.

    Raises
    ------
    ValueError
        A given name that the file lacks, or no latents or labels, with what the file has.
    """
    names = {name.lower(): name for name in reversed(list(arrays))}
    found = {}
    for role, known in ROLES.items():
        name = given.get(role)
        if name is not None and name not in arrays:
            raise unknown_name(f"array for {role}", name, arrays)
        there = (names[candidate] for candidate in known if candidate in names)
        guess = next((one for one in there if _fits(role, arrays[one])), None)
        if name or guess:
            found[role] = name or str(guess)
    for role in ("latents", "labels"):
        fitting = (name for name, value in arrays.items() if _fits(role, value))
        left = [name for name in fitting if name not in found.values()]
        if role not in found and len(left) == 1:
            found[role] = left[0]
        if role not in found:
            has = (
                ", ".join(f"{name} {value.shape} {value.dtype}" for name, value in arrays.items())
                or "nothing"
            )
            kind = "a matrix of floats" if role == "latents" else "one integer per point"
            option = f"--{role} NAME"
            raise ValueError(f"the file has no {role}: expected {kind}; name it with {option}. It has {has}")
    return found
