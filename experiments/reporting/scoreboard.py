"""The ledger as the front page shows it: verdicts by profile and by claim, and claims that wait for runs."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import pandas as pd
from pandas.io.formats.style import Styler

from experiments.reporting.claims import NOT_ATTEMPTED, NOT_MEASURED, chance
from experiments.reporting.csv_tables import CsvStyler, bundle
from experiments.reporting.declarations import HERE, NO_RUN
from experiments.reporting.image_variance import HOW
from experiments.reporting.tables import MISSING
from experiments.reporting.verdicts import MARKS, UNDECIDED, WORDS
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import PROFILES

_PLACES = {word: place for words in WORDS.values() for place, word in enumerate(words)} | {UNDECIDED: 3}


CHECKS = "Checks (what cannot fail, or must)"
"""Heading of the checks, which are not claims."""


class Html(NamedTuple):
    """A table as HTML for the page, and as data to download.

    Attributes
    ----------
    html
        The HTML that the page shows.
    table
        The table behind it.
    """

    html: str
    table: pd.DataFrame

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        del include, exclude
        return bundle(self.table, "")


def is_word(verdict: str) -> bool:
    """Return whether runs gave the verdict; undecided counts."""
    return verdict in _PLACES


def is_judged(table: pd.DataFrame) -> pd.Series:
    """Return, for each claim, whether runs have judged it; undecided counts."""
    return table["verdict"].isin(_PLACES)


def tally(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per profile: how many claims hold (✓), hold in part (◐), fail (✗), or are undecided (?).

    Checks are not counted; to count them, pass a table that has only checks.
    """
    rows = {}
    if set(table["kind"]) == {"claim", "check"}:
        table = table[table["kind"] == "claim"]
    named = dict(list(table.groupby("profile")))
    for name in (one for one in dict.fromkeys((*PROFILES, *BOTTLENECK_PROFILES, NO_RUN)) if one in named):
        own = named[name]
        places = own["verdict"].map(_PLACES)
        counts = [f"{int((places == place).sum()) or MISSING}" for place in range(len(MARKS))]
        open_ = own["verdict"][places.isna()].value_counts()
        rows["no run" if name == NO_RUN else name] = [
            ", ".join(dict.fromkeys(own["dataset"])),
            *(counts if places.notna().any() else [MISSING] * len(MARKS)),
            ", ".join(f"{count} {word}" for word, count in open_.items()) or MISSING,
        ]
    columns = ["on", *MARKS, "open"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("profile")


def is_waiting(table: pd.DataFrame) -> pd.Series:
    """Return, for each claim, whether it repeats another on one of our data sets that has not been run."""
    return table["dataset"].isin(HERE) & (table["verdict"] == NOT_ATTEMPTED)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger as the front page shows it, each verdict with a mark as well as a word.

    The claims of a family stand together, whichever runs judge them; those that :func:`is_waiting` marks are
    left out.
    """
    place = {name: first for first, name in enumerate(dict.fromkeys(table["like"]))}
    table = table[~is_waiting(table)]
    table = table.assign(place=table["like"].map(place)).sort_values("place", kind="stable")
    above = table.shift().where(table["like"] == table["like"].shift())
    runs = table["dataset"] + " (" + table["profile"].replace(NO_RUN, "as printed") + ")"
    images = table["images"].map({how: f"; images {how}" for how in HOW}).fillna("")
    seeds = "(n = " + table["n"].astype(str) + images + ")"
    needed = [f"; {text} would decide" if text else "" for text in table["needed"]]
    return pd.DataFrame(
        {
            "verdict": [
                _marked(word, word) + more for word, more in zip(table["verdict"], needed, strict=True)
            ],
            "claim": table["statement"].mask(table["statement"] == above["statement"], "the same"),
            "runs": runs,
            "measured": (table["measured"] + " " + seeds).where(table["measured"] != "", ""),
            "holds at": table["tolerance"] + " (" + table["written"] + ")",
            "in the paper": (table["where"] + ": " + table["paper"]).mask(
                table["paper"] == above["paper"], table["where"].str.partition("; ")[2]
            ),
            "why": table["why"],
        }
    )


def by_chance(table: pd.DataFrame) -> str:
    """Return a text on how many of the decided claims chance alone would have decided."""
    decided, families, expected = chance(table)
    return (
        f"{decided} claims are decided, in {families} families of similar claims. If every true value lay "
        "on an edge of its tolerance, chance alone would still decide about "
        f"{expected:.0f} of the families."
    )


def chapter_title(name: str) -> str:
    """Return a chapter's name as words."""
    return name.replace("-", " ").capitalize()


def folded(table: pd.DataFrame) -> Html:
    """Return :func:`verdicts` folded by chapter, each with its counts; unfolding needs no script.

    Checks are folded below the chapters, with their own counts.

    Parameters
    ----------
    table
        Table of the ledger.
    """
    parts, shown = [], verdicts(table)
    checks = table["kind"] == "check"
    groups = [*table[~is_waiting(table) & ~checks].groupby("chapter", sort=False)]
    groups += [("checks", own) for own in [table[~is_waiting(table) & checks]] if len(own)]
    for name, own in groups:
        places = own["verdict"].map(_PLACES)
        counts = [f"{int((places == place).sum())} {mark}" for place, mark in enumerate(MARKS)]
        counts.append(f"{int(places.isna().sum())} open")
        rows = shown.loc[shown.index.intersection(own.index, sort=False)]
        title = CHECKS if name == "checks" else chapter_title(str(name))
        link = "" if name == "checks" else f'<p><a href="{name}.html">The chapter</a></p>'
        caption = f"<caption>{escape(title)}: verdict, measured value and tolerance of each claim.</caption>"
        html = rows.to_html(index=False, border=0, classes="wrap").replace("<thead>", f"{caption}<thead>")
        html = html.replace(' style="text-align: right;"', "").replace("<th>", '<th scope="col">')
        parts.append(
            f'<details class="claims"><summary>{escape(title)}: {", ".join(counts)}</summary>'
            f"{link}{html}</details>"
        )
    return Html("".join(parts), table)


def waiting(table: pd.DataFrame) -> pd.DataFrame:
    """Return the claims that wait for runs on our own data sets, one row per family."""
    own = table[is_waiting(table)]
    parts = {"profiles": "profile", "claim": "statement", "holds at": "tolerance", "paper": "paper"}
    rows = [
        {heading: "; ".join(dict.fromkeys(alike[column])) for heading, column in parts.items()}
        for _, alike in own.groupby("like", sort=False)
    ]
    return pd.DataFrame(rows, columns=list(parts))


def side_by_side(table: pd.DataFrame, chapter: str) -> pd.DataFrame:
    """Return a chapter's claims, one per row, with every profile's verdict; empty with one profile.

    Parameters
    ----------
    table
        Table of the ledger.
    chapter
        Name of the chapter.
    """
    own = table[(table["chapter"] == chapter) & table["verdict"].isin([*_PLACES, NOT_MEASURED])]
    own = own[own["profile"] != NO_RUN]
    names = list(dict.fromkeys(own["profile"]))
    if len(names) < 2:
        return pd.DataFrame()
    rows = []
    for _, alike in own.groupby("same", sort=False):
        said = dict(zip(alike["profile"], map(_marked, alike["verdict"], alike["measured"]), strict=True))
        rows.append(
            {
                "holds at": "; ".join(dict.fromkeys(alike["tolerance"])),
                "claim": alike["statement"].iloc[0],
                **{name: said.get(name, MISSING) for name in names},
            }
        )
    return pd.DataFrame(rows)


def _marked(verdict: str, measured: str) -> str:
    return f"{MARKS[_PLACES[verdict]]} {measured}" if verdict in _PLACES else verdict


def styled(table: pd.DataFrame, caption: str = "") -> Styler | None:
    """Return a table of claims as pages show it; None, which a notebook does not show, if it has no rows."""
    if table.empty:
        return None
    shown = CsvStyler(table).hide(axis="index").set_table_attributes('class="dataframe wrap"')
    return shown.set_caption(caption).format(escape="html") if caption else shown.format(escape="html")
