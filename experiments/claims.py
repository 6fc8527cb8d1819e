"""The claims ledger: what the papers claim, what was measured, and a verdict by a rule fixed beforehand."""

from __future__ import annotations

import math
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler
from scipy.stats import ttest_ind

from experiments import paper
from experiments.ablation import Study
from experiments.tables import mean_sd, number
from lpc.specs import VARIANTS, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

LEDGER = Path(__file__).with_name("claims.toml")

NOT_ATTEMPTED = "not attempted"
NOT_JUDGED = "not judged"
_WORDS = {
    True: ("holds here", "holds in part", "does not hold here"),
    False: ("reproduced", "partly reproduced", "not reproduced"),
}
_OURS = ("digits", "Fashion-MNIST")
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
    quantity: str | None = None
    metric: str | None = None
    of: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    sign: str = "larger"
    holds: tuple[float, float] | None = None
    partly: tuple[float, float] | None = None
    prose: str | None = None
    why: str = ""

    @property
    def words(self) -> tuple[str, str, str]:
        """The three verdicts: for the papers' own data sets, or for ours."""
        return _WORDS[self.dataset in _OURS]

    @property
    def tolerance(self) -> str:
        """The interval in which the claim holds, as text."""
        if self.holds is None:
            return ""
        low, high = self.holds
        if math.isinf(high):
            return f"{number(low)} or more"
        return f"{number(high)} or less" if math.isinf(low) else f"{number(low)} to {number(high)}"


def read(path: Path = LEDGER) -> list[Claim]:
    """Return the ledger's claims.

    Raises
    ------
    ValueError
        An unknown or missing field, quantity or architecture, or an id that stands twice.
    """
    known = {item.name for item in fields(Claim)}
    needed = {item.name for item in fields(Claim) if item.default is MISSING}
    claims: list[Claim] = []
    for entry in tomllib.loads(path.read_text())["claim"]:
        where = f"{path.name}, claim {entry.get('id', '?')}"
        for name in entry:
            if name not in known:
                raise unknown_name(f"field in {where}:", name, known)
        if absent := sorted(needed - set(entry)):
            raise ValueError(f"{where} lacks {', '.join(absent)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        claim = Claim(**values)
        if claim.id in {other.id for other in claims} or not claim.id.isidentifier():
            raise ValueError(f"{where}: the id stands twice or is not an identifier")
        if claim.profile != "paper":
            if claim.quantity not in _QUANTITIES:
                raise unknown_name(f"quantity in {where}:", claim.quantity, _QUANTITIES)
            if claim.holds is None or claim.metric is None or not claim.of:
                raise ValueError(f"{where} lacks one of metric, of, holds")
            for name in (*claim.of, *claim.over):
                if name not in VARIANTS:
                    raise unknown_name(f"architecture in {where}:", name, VARIANTS)
        if claim.prose is not None and claim.prose not in claim.words:
            raise unknown_name(f"prose in {where}:", claim.prose, claim.words)
        claims.append(claim)
    return claims


def quantities(claim: Claim, selected: pd.DataFrame) -> list[float]:
    """Return the claim's quantity, one a seed (one in all for the tests); missing values stay out."""
    assert claim.metric is not None
    if claim.quantity == "paper_welch":
        table = paper.welch(claim.dataset, claim.metric, baseline=claim.over[0]).set_index("architecture")
        row = table.T[claim.of[0]]
        return [math.copysign(float(row["p"]), float(row["difference"]))]
    if claim.metric not in selected:
        return []
    values = selected.assign(value=pd.to_numeric(selected[claim.metric], errors="coerce"))
    table = values.pivot_table(index="seed", columns="architecture", values="value", dropna=False)
    table = table.reindex(columns=[*claim.of, *claim.over])
    own = table[claim.of[0]]
    if claim.quantity == "welch":
        pair = [own.dropna(), table[claim.over[0]].dropna()]
        if min(map(len, pair)) < 2 or all(len(set(values)) == 1 for values in pair):
            return []
        p = float(ttest_ind(pair[0], pair[1], equal_var=False).pvalue)  # type: ignore[union-attr]
        return [math.copysign(p, float(pair[0].mean() - pair[1].mean()))]
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


def ledger(study: Study, path: Path = LEDGER) -> pd.DataFrame:
    """Return one row a claim with what was measured and the verdict.

    Claims are judged by runs of their own profile only; under another profile (smoke) their verdict is
    ``not judged``, and claims that need the paper's data sets are ``not attempted``.
    """
    rows = []
    for claim in read(path):
        judged = claim.profile in (study.profile.name, "none")
        values = quantities(claim, study.selected) if judged else []
        word = verdict(claim, values)
        if not judged:
            word = NOT_ATTEMPTED if claim.profile == "paper" else NOT_JUDGED
        rows.append(
            {
                "id": claim.id,
                "where": claim.where,
                "dataset": claim.dataset,
                "statement": claim.statement,
                "paper": claim.paper,
                "tolerance": claim.tolerance,
                "measured": mean_sd(values) if values else "",
                "n": paper.EXPERIMENTS if claim.quantity == "paper_welch" else _seeds(claim, values, study),
                "verdict": word,
                "why": claim.why,
                "chapter": claim.chapter,
                "prose": claim.prose,
            }
        )
    return pd.DataFrame(rows)


def _seeds(claim: Claim, values: list[float], study: Study) -> int:
    if claim.quantity == "welch" and values:
        return int((study.selected["architecture"] == claim.of[0]).sum())
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


def substitutions(study: Study) -> dict[str, Any]:
    """Return what chapters may insert as ``{{ claims.<id>.verdict }}``, after :func:`check`."""
    table = ledger(study)
    check(table)
    columns = ["verdict", "measured", "n", "tolerance", "paper"]
    return {
        "profile": study.profile.name,
        "claims": {
            str(row["id"]): {column: str(row[column]) or "(not measured)" for column in columns}
            for _, row in table.iterrows()
        },
    }


_MARKS = {0: "✓", 1: "◐", 2: "✗"}


def scoreboard(table: pd.DataFrame) -> Styler:
    """Return the ledger as the front page shows it, each verdict with a mark as well as a word."""
    order = {word: place for words in _WORDS.values() for place, word in enumerate(words)}
    verdicts = [f"{_MARKS[order[word]]} {word}" if word in order else word for word in table["verdict"]]
    seeds = [
        f"{value} (n = {n})" if n else "" for value, n in zip(table["measured"], table["n"], strict=True)
    ]
    shown = pd.DataFrame(
        {
            "verdict": verdicts,
            "claim": table["statement"],
            "where": table["where"] + ", " + table["dataset"],
            "measured": seeds,
            "holds at": table["tolerance"],
            "paper": table["paper"],
            "why": table["why"],
        }
    )
    styled = shown.style.hide(axis="index").set_table_attributes('class="dataframe wrap"')
    return styled.format(escape="html")
