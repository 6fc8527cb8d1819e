"""The table in a chapter's answer: its main claims, with our values beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from experiments.reporting.claims import EMPTY, NOT_MEASURED
from experiments.reporting.declarations import HERE, TESTS
from experiments.reporting.headlines import badge
from experiments.reporting.rests_on import data_of
from experiments.reporting.scoreboard import is_word
from experiments.reporting.verdicts import UNDECIDED
from lpc.errors import unknown_name

COLUMNS = ("Claim", "Ours", "The paper's")


def rows_of(ledger: Mapping[str, Mapping[str, str]], claims: Sequence[str]) -> str:
    """Return a table of claims as HTML: value, verdict and data on every data set, and the paper's value.

    Parameters
    ----------
    ledger
        Entries of the ledger by claim id, from :func:`experiments.reporting.claims.substitutions`.
    claims
        Ids of the claims, the main one first.

    Raises
    ------
    ValueError
        If the ledger does not have a claim.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    rows = []
    for name in claims:
        if name not in ledger:
            raise unknown_name("claim of an answer:", name, list(ledger))
        own = ledger[name]
        alike = [one for one in ledger.values() if one["same"] == own["same"]]
        there = [one for one in alike if one is own or _is_measured(one)]
        waiting = [one for one in alike if not any(one["dataset"] == two["dataset"] for two in there)]
        ours = "".join(f"<div>{line}</div>" for line in (*map(_ours, there), *_again(waiting)))
        rows.append(
            f'<tr><th scope="row">{escape(own["statement"])}</th>'
            f'<td data-label="{COLUMNS[1]}">{ours}</td>'
            f'<td data-label="{COLUMNS[2]}">{escape(own["paper"])}</td></tr>'
        )
    return (
        '<table class="answer-claims"><caption class="visually-hidden">What was measured, beside the '
        f"paper's values.</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _is_measured(one: Mapping[str, str]) -> bool:
    return is_word(one["verdict"]) or one["verdict"] == NOT_MEASURED


def _ours(one: Mapping[str, str]) -> str:
    """Return a claim's line for one data set: value, verdict, data, and which runs would decide it."""
    value = one["measured"] if is_word(one["verdict"]) else ""
    value = f"p = {value}" if value and one["quantity"] in TESTS else value
    told = [data_of(one["dataset"], one["profile"], int(one["n"]))]
    if one["verdict"] == UNDECIDED and one["needed"] != EMPTY:
        told.append(f"{one['needed']} would decide")
    parts = [f"<b>{escape(value)}</b>"] if value else []
    return " ".join([*parts, badge(one["verdict"], one["dataset"]), _small("; ".join(told))])


def _again(others: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the lines for data sets on which the claim has not been judged, one line per verdict."""
    sets: dict[tuple[str, bool], list[str]] = {}
    for one in others:
        sets.setdefault((one["verdict"], one["dataset"] in HERE), []).append(one["dataset"])
    return [
        f"{badge(verdict, names[0])} {_small(', '.join(dict.fromkeys(names)))}"
        for (verdict, _), names in sets.items()
    ]


def _small(text: str) -> str:
    return f'<span class="answer-data">{escape(text)}</span>'
