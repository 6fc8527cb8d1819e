"""The claims ledger: the papers' claims, our measurements, and verdicts by rules fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.paths import LEDGER
from experiments.reporting import paper
from experiments.reporting.declarations import NO_RUN, TESTS, WRITTEN, Claim, read
from experiments.reporting.image_variance import Images, Tables, of_source
from experiments.reporting.significance import holm, welch
from experiments.reporting.tables import number
from experiments.reporting.verdicts import (
    ALPHA,
    NULLS,
    UNDECIDED,
    WORDS,
    Judgement,
    judge,
    judge_p,
)
from experiments.studies import ablation, bottlenecks
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import LIVE, PROFILES, plain, relatives
from experiments.studies.recorded import Recorded, all_recorded, all_recorded_bottlenecks
from experiments.studies.study import Study

NOT_ATTEMPTED = "not attempted"
"""Verdict if no runs exist that could judge the claim."""
NOT_JUDGED = "not judged"
"""Verdict if the claim's profile is trained with its own book, and this book is built with another one."""
NOT_MEASURED = "not measured"
"""Verdict if the runs exist, but the quantity could not be computed for any seed."""

EMPTY = "not measured"
"""Text that a chapter inserts if a column of the ledger is empty."""


class ClaimMismatch(ValueError):
    """A chapter's text assumes a verdict that the runs do not give."""


def quantities(claim: Claim, selected: pd.DataFrame) -> list[float]:
    """Return the claim's quantity: one value per seed, or a single value for a statistical test.

    Missing values are left out, except if a run never reached the terminal phase: its epoch is infinite.
    """
    if claim.quantity == "paper_welch":
        table = paper.welch(claim.dataset, claim.metric, baseline=claim.over[0]).set_index("architecture")
        row = table.T[claim.of[0]]
        return [math.copysign(float(row["p"]), float(row["difference"]))]
    if claim.metric not in selected or (claim.per is not None and claim.per not in selected):
        return []
    value = pd.to_numeric(selected[claim.metric], errors="coerce")
    if claim.metric == "terminal_epoch":
        value = value.fillna(math.inf)
    if claim.per is not None:
        value = value / selected[claim.per]
    means = value.groupby([selected["architecture"], selected["seed"]]).mean()
    columns = {name: means.loc[name] for name in (*claim.of, *claim.over) if name in means.index}
    table = pd.DataFrame(columns).reindex(columns=[*claim.of, *claim.over])
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


def judged(claim: Claim, values: Sequence[float], images: tuple[float, int] | None = None) -> Judgement:
    """Judge a claim by its own values and the tolerance in the ledger.

    Parameters
    ----------
    claim
        The claim.
    values
        Values from :func:`quantities`, at least one.
    images
        Uncertainty due to the test images, as in :func:`experiments.reporting.intervals.interval`.
    """
    if claim.quantity in TESTS:
        return judge_p(values[0])
    limits = claim.limits
    if claim.ratio:
        limits = (max(0.0, limits[0]), limits[1])
    null = NULLS.get(claim.quantity) if claim.null is None else claim.null
    return judge(
        values,
        holds=claim.holds,
        partly=claim.partly,
        null=null,
        limits=limits,
        ratio=claim.ratio,
        images=images,
    )


def verdict(claim: Claim, values: Sequence[float]) -> str:
    """Return the verdict on a claim's values if it had no family, hence without Holm's correction."""
    if not values:
        return NOT_ATTEMPTED
    found = judged(claim, values)
    return claim.words[found.place] if found.p < ALPHA else UNDECIDED


def ledger(
    study: Study,
    path: Path = LEDGER,
    *,
    others: Sequence[Recorded] | None = None,
    beside: str | None = None,
) -> pd.DataFrame:
    """Return one row per claim with the measured values and the verdict.

    Every claim is judged by runs of its own profile: the study's, or recorded ones. Without runs it is
    ``not attempted``, or ``not judged`` if that profile is one that is trained with the book, but this book
    is built with another.

    Parameters
    ----------
    study
        Study of the profile with which the book is built, or a study of bottleneck runs for a page that
        reads no others. The bottleneck runs and the siblings
        (``experiments.studies.profiles.SIBLINGS``) of the profile are read from the same store, once all of
        them have ended.
    path
        Path of the ledger.
    others
        Recorded runs of other profiles; None: all that exist.
    beside
        Second profile, of :data:`LIVE`, with which other pages of the book are made; its runs, in the same
        store, judge its claims. It is ignored if the study itself belongs to such a profile. None: there is
        none.
    """
    here = study.profile.name
    shown = [here] if beside is None or here in LIVE else [here, beside]
    recorded = all_recorded() if others is None else others
    sources: dict[str, Study | Recorded] = {
        one.profile.name: one for one in recorded if one.profile.name != here
    }
    if shown != [here]:
        sources[shown[-1]] = ablation.existing(shown[-1], store=study.store.root)
    sources.update(_relatives(shown, study))
    if study.kind.selects:
        sources[here] = study
    selected = {name: one.selected for name, one in sources.items()}
    selected[NO_RUN] = pd.DataFrame()
    for name, rows in _bottleneck_runs(shown, study).items():
        selected[name] = pd.concat([selected[name], rows]) if name in selected else rows
    declared = {claim.id: claim for claim in read(path)}
    tables: Tables = {}
    rows, judgements = [], {}
    for claim in declared.values():
        runs = selected.get(claim.profile)
        values = [] if runs is None else quantities(claim, runs)
        images = Images("")
        if values and runs is not None:
            images = of_source(claim, runs, sources.get(claim.profile), tables)
            judgements[claim.id] = judged(claim, values, images.variance)
        rows.append(
            {
                "id": claim.id,
                "like": claim.like or claim.id,
                "same": _same(claim, declared),
                "family": _family(claim, declared),
                "kind": claim.kind,
                "quantity": claim.quantity,
                "where": claim.where,
                "dataset": claim.dataset,
                "profile": claim.profile,
                "statement": claim.statement,
                "paper": claim.paper,
                "tolerance": claim.tolerance,
                "partly": claim.partly_text,
                "written": WRITTEN[claim.written],
                "measured": _text(claim, values, judgements.get(claim.id)),
                "n": paper.EXPERIMENTS if claim.quantity == "paper_welch" else _seeds(claim, values, runs),
                "images": images.how,
                "verdict": _word(claim, values, runs),
                "needed": "",
                "why": claim.why,
                "chapter": claim.chapter,
                "prose": claim.prose,
            }
        )
    _decide(rows, declared, judgements)
    return pd.DataFrame(rows)


def _family(claim: Claim, declared: Mapping[str, Claim]) -> str:
    """Return the id of the first claim in a claim's family, which is one claim tested on several runs."""
    while claim.like is not None:
        claim = declared[claim.like]
    return claim.id


def _decide(
    rows: list[dict[str, Any]], declared: Mapping[str, Claim], judgements: Mapping[str, Judgement]
) -> None:
    """Write each verdict: the place of the mean if the family's corrected p decides it, else undecided."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["id"] in judgements:
            families.setdefault(row["family"], []).append(row)
    for members in families.values():
        corrected = holm([judgements[row["id"]].p for row in members])
        for row, p in zip(members, corrected, strict=True):
            found = judgements[row["id"]]
            if p < ALPHA:
                row["verdict"] = declared[row["id"]].words[found.place]
            else:
                row |= {"verdict": UNDECIDED, "needed": found.needed()}


def chance(table: pd.DataFrame) -> tuple[int, int, float]:
    """Return the numbers of decided claims, of their families, and of families that chance would decide.

    If every true value lay on an edge of its tolerance, one family in twenty would still have a verdict.

    Parameters
    ----------
    table
        Table from :func:`ledger`.
    """
    words = {word for three in WORDS.values() for word in three}
    decided = table[(table["kind"] == "claim") & table["verdict"].isin(words)]
    families = table[(table["kind"] == "claim") & table["verdict"].isin({*words, UNDECIDED})]["family"]
    return len(decided), int(families.nunique()), ALPHA * float(families.nunique())


def _same(claim: Claim, declared: Mapping[str, Claim]) -> str:
    """Return the id under which a claim is judged by the runs of several profiles.

    A claim ``like`` one of another profile is the same claim, judged by other runs. A claim ``like`` one of
    its own profile is a claim in its own right, such as WideIB's beside IB's.
    """
    while claim.like is not None and declared[claim.like].profile != claim.profile:
        claim = declared[claim.like]
    return claim.id


def _relatives(shown: Sequence[str], study: Study) -> dict[str, Study]:
    """Return the studies of some profiles' siblings, if the store has all their runs."""
    found = {}
    for place, name in enumerate(shown):
        seeds = len({one.seed for one in study.specs}) if study.kind.selects and not place else None
        for other in relatives(name) if name in PROFILES else ():
            number = None if seeds is None else min(seeds, len(PROFILES[other].seeds))
            runs = ablation.existing(other, seeds=number, store=study.store.root)
            if other not in shown and all(map(runs.store.finished, runs.specs)):
                found[other] = runs
    return found


def _bottleneck_runs(shown: Sequence[str], study: Study) -> dict[str, pd.DataFrame]:
    """Return the ended runs for Kirsch et al.'s figures: those of some profiles, and the recorded ones."""
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
    return NOT_MEASURED if there and not values else NOT_ATTEMPTED


def _text(claim: Claim, values: list[float], found: Judgement | None) -> str:
    """Return the measured value as text: the mean with its interval, or a test's p."""
    if not values:
        return ""
    if claim.quantity in TESTS:
        return number(values[0])
    never = sum(map(math.isinf, values))
    return f"never in {never} of {len(values)}" if never or found is None else str(found.interval)


def _seeds(claim: Claim, values: list[float], runs: pd.DataFrame | None) -> int:
    if claim.quantity == "welch" and values and runs is not None:
        return int((runs["architecture"] == claim.of[0]).sum())
    return len(values)


def check(table: pd.DataFrame) -> None:
    """Raise :class:`ClaimMismatch` if a verdict is not the one that the chapters' text assumes."""
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
    """Return the substitutions for chapters, such as ``{{ claims.<id>.verdict }}``, after :func:`check`.

    Parameters
    ----------
    study, beside
        Arguments of :func:`ledger`.
    """
    table = ledger(study, beside=beside)
    check(table)
    columns = ["verdict", "measured", "n", "needed", "tolerance", "written", "paper", "like", "chapter"]
    columns += ["statement", "profile", "kind", "dataset", "same", "quantity"]
    return {
        "profile": study.profile.name,
        "claims": {
            str(row["id"]): {column: str(row[column]) or EMPTY for column in columns}
            for _, row in table.iterrows()
        },
    }
