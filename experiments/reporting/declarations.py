"""Declarations of the ledger: reads claims and their tolerances from ``claims.toml``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from experiments.paths import LEDGER, read_toml
from experiments.reporting.verdicts import UNDECIDED, WORDS
from experiments.studies import bottlenecks
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import PROFILES
from lpc.errors import unknown_name
from lpc.specs import VARIANTS

OURS = ("digits", "Fashion-MNIST")
"""Our own data sets that have a column on the first page."""
HERE = (*OURS, "MNIST subset")
"""All our own data sets, as opposed to the papers'."""
_OWN = {"id", "like", "prose", "why", "written"}
"""Fields that a claim does not inherit from the claim that it is ``like``."""
NO_RUN = "none"
"""The profile of claims about printed numbers, which need no runs."""
_QUANTITIES = ("value", "ratio", "difference", "lead", "welch", "paper_welch")
TESTS = ("welch", "paper_welch")
"""Quantities that are the p value of a test, not one value per seed."""
KINDS = ("claim", "check")
"""Kinds of entries: claims, which could have failed, and checks, which could not; they are counted apart."""
WRITTEN: Mapping[str, str] = {
    "before": "before the run",
    "pilot": "after a pilot on the same data",
    "after": "after the run",
}
"""Times at which a tolerance was written, and their names in the tables."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of the ledger; the fields are explained at the head of ``claims.toml``."""

    id: str
    where: str
    dataset: str
    statement: str
    paper: str
    profile: str
    chapter: str
    quantity: str
    metric: str
    of: tuple[str, ...]
    holds: tuple[float, float]
    over: tuple[str, ...] = ()
    per: str | None = None
    sign: str = "larger"
    partly: tuple[float, float] | None = None
    null: float | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    kind: str = "claim"
    written: str = "before"
    like: str | None = None
    prose: str | None = None
    why: str = ""

    @property
    def words(self) -> tuple[str, str, str]:
        """The words for the three verdicts on the claim's data set: the papers' own, or one of ours."""
        return WORDS[self.dataset in HERE]

    @property
    def ratio(self) -> bool:
        """Whether its values are ratios, judged by their logarithm."""
        return self.quantity == "ratio" or (self.quantity == "value" and self.per is not None)

    @property
    def tolerance(self) -> str:
        """The interval in which the claim holds, as text."""
        low, high = self.holds
        if math.isinf(high):
            return f"{_edge(low)} or more"
        return f"{_edge(high)} or less" if math.isinf(low) else f"{_edge(low)} to {_edge(high)}"

    @property
    def partly_text(self) -> str:
        """The value from which, or up to which, the claim holds in part, as text; empty: there is none."""
        if self.partly is None:
            return ""
        below = self.partly[0] < self.holds[0]
        return f"in part from {_edge(self.partly[0])}" if below else f"in part to {_edge(self.partly[1])}"


def _edge(value: float) -> str:
    """Return an edge of a tolerance as it was written, such as 10, 0.05 or 1e9."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:g}")


def read(path: Path = LEDGER) -> list[Claim]:
    """Return the ledger's claims.

    Raises
    ------
    ValueError
        If a field, profile, quantity or architecture is unknown or missing, an id occurs twice, or a claim
        refers to one that is not above it in the file.
    """
    known = {item.name for item in fields(Claim)}
    needed = {item.name for item in fields(Claim) if item.default is MISSING}
    claims: dict[str, Claim] = {}
    for entry in read_toml(path)["claim"]:
        where = f"{path.name}, claim {entry.get('id', '?')}"
        for name in entry:
            if name not in known:
                raise unknown_name(f"field in {where}:", name, known)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        if "like" in entry:
            if entry["like"] not in claims:
                raise unknown_name(f"earlier claim in {where}:", entry["like"], claims)
            above = claims[entry["like"]]
            values = {**{name: getattr(above, name) for name in known - _OWN}, **values}
        if absent := sorted(needed - set(values)):
            raise ValueError(f"{where} lacks {', '.join(absent)}")
        claim = Claim(**values)
        if claim.id in claims or not claim.id.isidentifier():
            raise ValueError(f"{where}: the id occurs twice or is not an identifier")
        _check_names(claim, where)
        claims[claim.id] = claim
    return list(claims.values())


def _check_names(claim: Claim, where: str) -> None:
    if claim.profile not in (*PROFILES, *BOTTLENECK_PROFILES, NO_RUN):
        raise unknown_name(f"profile in {where}:", claim.profile, [*PROFILES, *BOTTLENECK_PROFILES, NO_RUN])
    if claim.quantity not in _QUANTITIES:
        raise unknown_name(f"quantity in {where}:", claim.quantity, _QUANTITIES)
    if claim.kind not in KINDS:
        raise unknown_name(f"kind in {where}:", claim.kind, KINDS)
    if claim.written not in WRITTEN:
        raise unknown_name(f"written in {where}:", claim.written, WRITTEN)
    table = PROFILES[claim.profile].variants if claim.profile in PROFILES else VARIANTS
    known = [*table, *(bottlenecks.names(claim.profile) if claim.profile in BOTTLENECK_PROFILES else ())]
    for name in (*claim.of, *claim.over):
        if name not in known:
            raise unknown_name(f"architecture in {where}:", name, known)
    words = (*claim.words, UNDECIDED)
    if claim.prose is not None and claim.prose not in words:
        raise unknown_name(f"prose in {where}:", claim.prose, words)
