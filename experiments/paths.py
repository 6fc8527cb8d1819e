"""Paths of this project, and a reader for its TOML files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lpc.errors import on_one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

EXPERIMENTS = Path(__file__).parent
"""This package: its code, the ledgers and the committed results."""
ROOT = EXPERIMENTS.parent
"""Root of the project: code, pages, tests."""

BOOK = ROOT / "book"
"""Sources of the pages."""
TOC = ROOT / "_toc.yml"
"""The book's table of contents."""
CONFIG = ROOT / "_config.yml"
"""The book's settings."""
BUILD = ROOT / "build"
"""Everything that is made from the pages."""
PICTURE = BOOK / "_static" / "latents.png"
"""The picture in the README."""

LEDGER = EXPERIMENTS / "claims.toml"
"""Claims of the papers, with their tolerances."""
ERRATA = EXPERIMENTS / "errata.toml"
"""Places where the 2024 paper disagrees with itself or with its release."""
PAPER_TABLES = EXPERIMENTS / "paper_tables"
"""Tables 1 and 2 of the 2024 paper as CSV files."""
CLUSTER_EXAMPLE = EXPERIMENTS / "cluster.example.toml"
"""A cluster's profile file to copy and fill in."""

RESULTS = EXPERIMENTS / "results"
"""Recorded results; one folder per profile."""
CEILINGS = RESULTS / "ceilings.csv"
"""Ceilings of boundary distances as measured by the verb ``ceiling``."""
EPOCH_TIMES = RESULTS / "epoch_times.csv"
"""Times of an epoch as measured by the verb ``time``."""
MEASURED = RESULTS / "measured"
"""Tables measured once, such as the store's performance at the scale of a cluster."""
GPU_CHECKS = RESULTS / "gpu"
"""Results of GPU checks: one JSON and one Markdown file per device."""
TRANSCRIPT = RESULTS / "cluster" / "transcript.txt"
"""A recorded submission to a cluster."""


def in_project(folder: str | Path) -> Path:
    """Return a folder as an absolute path; a relative one lies in the project.

    Raises
    ------
    ValueError
        If the name is empty or has line breaks.
    """
    if not str(folder).strip():
        raise ValueError(f"the folder's name is {str(folder)!r}; expected a path")
    return ROOT / on_one_line(folder, "the folder's name").expanduser()


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    ValueError
        If the file is not TOML, or not UTF-8; the message names it.
    OSError
        If the file cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte-order mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
