"""The claims ledger: what the papers claim, what was measured, and a verdict by a rule fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.paths import LEDGER, read_toml
from experiments.reporting import paper
from experiments.reporting.significance import welch
from experiments.reporting.tables import mean_sd, number
from experiments.studies import ablation, bottlenecks
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import LIVE, PROFILES, plain, relatives
from experiments.studies.recorded import Recorded, all_recorded, all_recorded_bottlenecks
from experiments.studies.study import Study
from lpc.errors import unknown_name
from lpc.specs import VARIANTS

NOT_ATTEMPTED = "not attempted"
"""Nothing has been run that could judge the claim."""
NOT_JUDGED = "not judged"
"""The claim's profile is trained with the book, and its runs are not here: it was built with another."""
NOT_MEASURED = "not measured"
"""The runs are there, but the quantity could not be computed for any seed."""
WORDS = {
    True: ("holds here", "holds in part", "does not hold here"),
    False: ("reproduced", "partly reproduced", "not reproduced"),
}
"""The three verdicts on our own data sets, and on the papers'."""
MARKS = ("✓", "◐", "✗")
"""Marks of the three verdicts, in the order of :data:`WORDS`."""
OPEN_MARK = "○"
"""The mark of a claim without a verdict."""
OURS = ("digits", "Fashion-MNIST")
"""Data sets that are not the papers'."""
_OWN = {"id", "like", "prose", "why"}
"""Fields that a claim does not take from the one it is like."""
NO_RUN = "none"
"""The profile of claims about printed numbers."""
_QUANTITIES = ("value", "ratio", "difference", "lead", "welch", "paper_welch")


class ClaimMismatch(ValueError):
    """What a chapter's text takes for granted is not what the runs say."""


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
    like: str | None = None
    prose: str | None = None
    why: str = ""

    @property
    def words(self) -> tuple[str, str, str]:
        """The three verdicts: for the papers' own data sets, or for ours."""
        return WORDS[self.dataset in OURS]

    @property
    def tolerance(self) -> str:
        """The interval in which the claim holds, as text."""
        low, high = self.holds
        if math.isinf(high):
            return f"{number(low)} or more"
        return f"{number(high)} or less" if math.isinf(low) else f"{number(low)} to {number(high)}"


def read(path: Path = LEDGER) -> list[Claim]:
    """Return the ledger's claims.

    Raises
    ------
    ValueError
        An unknown or missing field, profile, quantity or architecture, an id that stands twice, or a claim
        like one that does not stand above it.
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
            raise ValueError(f"{where}: the id stands twice or is not an identifier")
        _check_names(claim, where)
        claims[claim.id] = claim
    return list(claims.values())


def _check_names(claim: Claim, where: str) -> None:
    if claim.profile not in (*PROFILES, *BOTTLENECK_PROFILES, NO_RUN):
        raise unknown_name(f"profile in {where}:", claim.profile, [*PROFILES, *BOTTLENECK_PROFILES, NO_RUN])
    if claim.quantity not in _QUANTITIES:
        raise unknown_name(f"quantity in {where}:", claim.quantity, _QUANTITIES)
    table = PROFILES[claim.profile].variants if claim.profile in PROFILES else VARIANTS
    known = [*table, *(bottlenecks.names(claim.profile) if claim.profile in BOTTLENECK_PROFILES else ())]
    for name in (*claim.of, *claim.over):
        if name not in known:
            raise unknown_name(f"architecture in {where}:", name, known)
    if claim.prose is not None and claim.prose not in claim.words:
        raise unknown_name(f"prose in {where}:", claim.prose, claim.words)


def quantities(claim: Claim, selected: pd.DataFrame) -> list[float]:
    """Return the claim's quantity, one a seed (one in all for the tests).

    Missing values stay out, but for a terminal phase that a run never reached: that is infinitely late.
    """
    if claim.quantity == "paper_welch":
        table = paper.welch(claim.dataset, claim.metric, baseline=claim.over[0]).set_index("architecture")
        row = table.T[claim.of[0]]
        return [math.copysign(float(row["p"]), float(row["difference"]))]
    if claim.metric not in selected:
        return []
    value = pd.to_numeric(selected[claim.metric], errors="coerce")
    if claim.metric == "terminal_epoch":
        value = value.fillna(math.inf)
    if claim.per is not None:
        value = value / selected[claim.per]
    values = selected.assign(value=value)
    table = values.pivot_table(index="seed", columns="architecture", values="value", dropna=False)
    table = table.reindex(columns=[*claim.of, *claim.over])
    own = table[claim.of[0]]
    if claim.quantity == "welch":
        ours, base = own.dropna(), table[claim.over[0]].dropna()
        p = welch(ours, base)
        return [] if math.isnan(p) else [math.copysign(p, float(ours.mean() - base.mean()))]
    if claim.quantity == "value":
        result = own
    elif claim.quantity == "ratio":
        result = own / table[claim.over[0]]
    elif claim.quantity == "difference":
        result = own - table[claim.over[0]]
    else:
        others = table[list(claim.over)]
        smaller = claim.sign == "smaller"
        result = others.min(axis=1, skipna=False) - own if smaller else own - others.max(axis=1, skipna=False)
    return [float(value) for value in result.dropna()]


def _within(value: float, interval: tuple[float, float] | None) -> bool:
    return interval is not None and interval[0] <= value <= interval[1]


def verdict(claim: Claim, values: list[float]) -> str:
    """Return the verdict on the mean of the values: the claim's interval, decided before the run."""
    if not values:
        return NOT_ATTEMPTED
    mean = sum(values) / len(values)
    good, fair, bad = claim.words
    if _within(mean, claim.holds):
        return good
    return fair if _within(mean, claim.partly) else bad


def ledger(
    study: Study,
    path: Path = LEDGER,
    *,
    others: Sequence[Recorded] | None = None,
    beside: str | None = None,
) -> pd.DataFrame:
    """Return one row a claim with what was measured and the verdict.

    Every claim is judged by runs of its own profile: the study's, or recorded ones. Where there are none it
    is ``not attempted``, or ``not judged`` if the book trains that profile itself and was built with another.

    Parameters
    ----------
    study
        Runs of the profile that the book is built with. Its bottleneck runs are read from the same store, and
        so are those of its siblings (``experiments.studies.profiles.SIBLINGS``), once all of them have ended.
        Bottleneck runs themselves where a page has no others.
    path
        The ledger.
    others
        Recorded runs of other profiles; None: all there are.
    beside
        A profile of :data:`LIVE` with which other pages of the book are made, whose runs lie in the same
        store and judge its claims; None, or a study that is itself of such a profile: no other.
    """
    here = study.profile.name
    shown = [here] if beside is None or here in LIVE else [here, beside]
    recorded = all_recorded() if others is None else others
    selected = {one.profile.name: one.selected for one in recorded if one.profile.name != here}
    if shown != [here]:
        selected[shown[-1]] = ablation.existing(shown[-1], store=study.store.root).selected
    selected.update(_runs_of_relatives(shown, study))
    if study.kind.selects:
        selected[here] = study.selected
    selected[NO_RUN] = pd.DataFrame()
    for name, rows in _bottleneck_runs(shown, study).items():
        selected[name] = pd.concat([selected[name], rows]) if name in selected else rows
    rows = []
    declared = {claim.id: claim for claim in read(path)}
    for claim in declared.values():
        runs = selected.get(claim.profile)
        values = [] if runs is None else quantities(claim, runs)
        rows.append(
            {
                "id": claim.id,
                "like": claim.like or claim.id,
                "same": _same(claim, declared),
                "where": claim.where,
                "dataset": claim.dataset,
                "profile": claim.profile,
                "statement": claim.statement,
                "paper": claim.paper,
                "tolerance": claim.tolerance,
                "measured": _text(values),
                "n": paper.EXPERIMENTS if claim.quantity == "paper_welch" else _seeds(claim, values, runs),
                "verdict": _word(claim, values, runs),
                "why": claim.why,
                "chapter": claim.chapter,
                "prose": claim.prose,
            }
        )
    return pd.DataFrame(rows)


def _same(claim: Claim, declared: Mapping[str, Claim]) -> str:
    """Return the id under which a claim is judged by the runs of several profiles.

    A claim that is like one of another profile is that claim on other runs; one that is like another of its
    own profile is a claim of its own, such as WideIB's beside IB's.
    """
    while claim.like is not None and declared[claim.like].profile != claim.profile:
        claim = declared[claim.like]
    return claim.id


def _runs_of_relatives(shown: Sequence[str], study: Study) -> dict[str, pd.DataFrame]:
    """Return the selected runs of the profiles beside some, those of which the store has all."""
    found = {}
    for place, name in enumerate(shown):
        seeds = len({one.seed for one in study.specs}) if study.kind.selects and not place else None
        for other in relatives(name) if name in PROFILES else ():
            number = None if seeds is None else min(seeds, len(PROFILES[other].seeds))
            runs = ablation.existing(other, seeds=number, store=study.store.root)
            if other not in shown and all(map(runs.store.finished, runs.specs)):
                found[other] = runs.selected
    return found


def _bottleneck_runs(shown: Sequence[str], study: Study) -> dict[str, pd.DataFrame]:
    """Return the ended runs of Kirsch et al.'s figures: of some profiles in the store, and recorded ones."""
    shown = [plain(name) if name in PROFILES else name for name in shown]
    runs = {one.profile.name: one.selected for one in all_recorded_bottlenecks(beside=shown[0])}
    for name in shown:
        if name in BOTTLENECK_PROFILES:
            runs[name] = bottlenecks.existing(name, store=study.store.root).selected
    return {name: rows for name, rows in runs.items() if len(rows)}


def _word(claim: Claim, values: list[float], runs: pd.DataFrame | None) -> str:
    if runs is None:
        return NOT_JUDGED if claim.profile in LIVE else NOT_ATTEMPTED
    there = claim.metric in runs and {*claim.of, *claim.over} <= set(runs["architecture"])
    return NOT_MEASURED if there and not values else verdict(claim, values)


def _text(values: list[float]) -> str:
    never = sum(map(math.isinf, values))
    return f"never in {never} of {len(values)}" if never else mean_sd(values) if values else ""


def _seeds(claim: Claim, values: list[float], runs: pd.DataFrame | None) -> int:
    if claim.quantity == "welch" and values and runs is not None:
        return int((runs["architecture"] == claim.of[0]).sum())
    return len(values)


def check(table: pd.DataFrame) -> None:
    """Raise :class:`ClaimMismatch` where a verdict is not the one the chapters' text takes for granted."""
    judged = ~table["verdict"].isin([NOT_JUDGED, NOT_ATTEMPTED])
    wrong = table[judged & table["prose"].notna() & (table["verdict"] != table["prose"])]
    if len(wrong):
        lines = [
            f"  {row.id}: chapter {row.chapter} says {row.prose!r}, "
            f"the runs say {row.verdict!r} ({row.measured}; holds at {row.tolerance})"
            for row in wrong.itertuples()
        ]
        raise ClaimMismatch(
            "the chapters' text and the ledger disagree:\n"
            + "\n".join(lines)
            + f"\nRewrite the text and `prose` in {LEDGER.name}, or find out what changed the result."
        )


def substitutions(study: Study, *, beside: str | None = None) -> dict[str, Any]:
    """Return what chapters may insert as ``{{ claims.<id>.verdict }}``, after :func:`check`.

    Parameters
    ----------
    study, beside
        As in :func:`ledger`.
    """
    table = ledger(study, beside=beside)
    check(table)
    columns = ["verdict", "measured", "n", "tolerance", "paper", "like", "chapter", "statement", "profile"]
    return {
        "profile": study.profile.name,
        "claims": {
            str(row["id"]): {column: str(row[column]) or "(not measured)" for column in columns}
            for _, row in table.iterrows()
        },
    }
