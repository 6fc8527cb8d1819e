"""The main claims of both papers in plain words, with our results: the first page's summary table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

import pandas as pd

from experiments.reporting.claims import NOT_ATTEMPTED, NOT_MEASURED
from experiments.reporting.declarations import HERE, OURS, TESTS
from experiments.reporting.rests_on import images_and_network
from experiments.reporting.scoreboard import Html, is_judged
from experiments.reporting.tables import MISSING
from experiments.reporting.verdicts import MARKS, OPEN_MARK, UNDECIDED, WORDS
from lpc.errors import unknown_name

_KINDS = ("holds", "partly", "fails")
_CLASSES = {word: kind for words in WORDS.values() for kind, word in zip(_KINDS, words, strict=True)}
_CLASSES[UNDECIDED] = "undecided"
_MARKS = {**dict(zip((*_KINDS, "undecided"), MARKS, strict=True)), "open": OPEN_MARK}


class Headline(NamedTuple):
    """A main claim.

    Attributes
    ----------
    words
        The claim in plain words, without numbers.
    judged
        Ids of the ledger's claims that judge it on our own data, each with a few words on what it measures.
    again
        Ids of the ledger's claims that judge it on the papers' own data; empty if no such runs are declared.
    reason
        Why it is on the first page, and why these claims judge it.
    """

    words: str
    judged: Mapping[str, str]
    again: tuple[str, ...]
    reason: str


HEADLINES: tuple[Headline, ...] = (
    Headline(
        "The images of a class collapse into one point.",
        {"collapse_scale_free": "times tighter for their distance than without the penalty"},
        ("collapse_scale_free_svhn", "collapse_scale_free_cifar10", "collapse_scale_free_cifar100"),
        "The title's claim, freed of scale: as published it falls with mere shrinking, and is a check.",
    ),
    Headline(
        "The points are the vertices of a hypercube.",
        {
            "cube": "unevenness of their distances from zero; a cube has 0",
            "cube_by_adamw": "the axes are AdamW's: times as uneven by an Adam that knows none",
        },
        ("cube_svhn", "cube_cifar10", "cube_cifar100"),
        "The geometry that the paper gives the collapse; and whether it is the penalty's or the optimizer's.",
    ),
    Headline(
        "Networks become many times harder to fool.",
        {
            "robust": "times larger perturbation than without the layer, by DeepFool",
            "attacks_smallest": "the same by the smallest of eleven attacks",
            "others_apart": "tight is not robust: DeepFool's perturbation by tighter centre loss, over IB's",
        },
        ("robust_svhn", "robust_cifar10", "robust_cifar100"),
        "The largest of the promised gains; measured as published, by attacks that look further, and beside "
        "an older loss that pulls classes together.",
    ),
    Headline(
        "They become a little more accurate.",
        {"accuracy_gain": "p of the gain in test accuracy over no layer"},
        ("accuracy_svhn", "accuracy_cifar10", "accuracy_cifar100"),
        "The abstract's claim on generalisation, by the test that it speaks of.",
    ),
    Headline(
        "They know better when they are wrong.",
        {"auroc_mahalanobis": "gain in the AUROC of detecting errors"},
        ("auroc_cifar100",),
        "The abstract's claim on reliability, by the measure that is declared on its own data.",
    ),
    Headline(
        "The collapse creates an information bottleneck.",
        {"entropy_shape": "nats of entropy, at one size, against no penalty"},
        (),
        "What the paper explains its gains by, and shows by an entropy that falls; here freed of scale.",
    ),
    Headline(
        "Without noise an entropy that falls says nothing (Kirsch et al.).",
        {"noise_free_error": "accuracy lost while the latent's entropy falls"},
        ("noise_free_error_mnist",),
        "The second paper's warning, on which the reading of the first one's bottleneck hangs.",
    ),
    Headline(
        "A simple penalty trades the image for the label (Kirsch et al.).",
        {"trade_off": f"nats of the label given up; all would be ln 10 = {math.log(10):.2f}"},
        ("trade_off_cifar10",),
        "The second paper's practical result: surrogates of the information bottleneck that train.",
    ),
)
"""Our choice of headlines: what the two abstracts promise, one per promise, judged by the ledger alone."""


def badge(verdict: str, dataset: str) -> str:
    """Return a verdict as HTML: a mark and words, and a class for its colour.

    Parameters
    ----------
    verdict
        Verdict of the ledger.
    dataset
        Data set of the claim. On the papers' own data the words begin with ``[Re]``, like ReScience's titles.
    """
    kind = _CLASSES.get(verdict, "open")
    words = verdict if dataset in HERE else f"[Re] {verdict}"
    return f'<span class="badge-verdict {kind}">{_MARKS[kind]} {escape(words)}</span>'


def in_a_minute(table: pd.DataFrame, headlines: Sequence[Headline] = HEADLINES) -> Html:
    """Return the table of main claims: measure and tolerance, the paper's value, and ours by data set.

    Each measure has a row of its own. The papers' own data have a column once a claim has been judged on
    them; until then, one line below the table covers all claims.

    Parameters
    ----------
    table
        Table of the ledger.
    headlines
        Main claims.

    Raises
    ------
    ValueError
        If the ledger does not have a claim.
    """
    theirs = pd.DataFrame([_row(table, name) for one in headlines for name in one.again])
    judged = len(theirs) > 0 and bool(is_judged(theirs).any())
    shown = [_alike(table, name) for one in headlines for name in one.judged]
    heads = ["Claim", "The paper's value", *(_head(name, shown) for name in OURS)]
    heads += ["The papers' own data"] * judged
    rows, plain = [], []
    for headline in headlines:
        again = _again([_row(table, name) for name in headline.again])
        for place, (name, words) in enumerate(headline.judged.items()):
            own = _row(table, name)
            limits = f"holds at {own['tolerance']}{own['partly'] and ', '}{own['partly']}"
            link = f'<a href="{own["chapter"]}.html">{escape(words if place else headline.words)}</a>'
            told = f"{link}; {escape(limits)}" if place else f"{escape(words)}; {escape(limits)}"
            told = f'<span class="measure">{told}</span>'
            cells = [escape(str(own["paper"])), *(_ours(_alike(table, name), one) for one in OURS)]
            cells += ["" if place else again] * judged
            first = f'<th scope="row">{"" if place else f"{link} "}{told}</th>'
            labels = [head.partition(" <")[0] for head in heads[1:]]
            rows.append(first + "".join(map(_cell, labels, cells)))
            plain.append(
                {
                    "claim": headline.words,
                    "measures": words,
                    **own[["id", "paper", "tolerance", "measured", "verdict"]],
                }
            )
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    below = (
        ""
        if judged
        else f'<p class="headlines-below">On the papers\' own data: {_again([*_each(theirs)])}</p>'
    )
    caption = '<caption class="visually-hidden">The main claims in plain words, and what was found.</caption>'
    return Html(
        f'<table class="dataframe wrap headlines">{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{below}",
        pd.DataFrame(plain),
    )


def _each(table: pd.DataFrame) -> Iterator[pd.Series]:
    yield from (row for _, row in table.iterrows())


def _cell(label: str, content: str) -> str:
    return f'<td data-label="{escape(label)}">{content}</td>'


def _row(table: pd.DataFrame, name: str) -> pd.Series:
    found = table[table["id"] == name]
    if found.empty:
        raise unknown_name("claim of the first page:", name, list(table["id"]))
    return found.iloc[0]


def _alike(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a claim on our own data: the judged ones or, if there are none, the claim's own."""
    own = _row(table, name)
    same = (table["like"] == own["like"]) & (table["statement"] == own["statement"])
    judged = is_judged(table) | (table["verdict"] == NOT_MEASURED)
    alike = table[same & table["dataset"].isin(OURS)]
    return pd.concat([alike[judged.loc[alike.index] | (alike["id"] == name)]])


def _head(dataset: str, shown: Sequence[pd.DataFrame]) -> str:
    """Return a column's heading: the data set, and the numbers of images, networks and seeds behind it."""
    seeds: dict[str, set[int]] = {}
    for row in (row for own in shown for row in _each(own[own["dataset"] == dataset])):
        if row["n"]:
            seeds.setdefault(images_and_network(str(row["profile"])), set()).add(int(row["n"]))
    behind = [
        f"{words}, {min(n)}{f' to {max(n)}' * (max(n) > min(n))} seed{'s' * (max(n) > 1)}"
        for words, n in seeds.items()
        if words
    ]
    return escape(dataset) + "".join(f' <span class="measure">{escape(one)}</span>' for one in behind)


def _ours(alike: pd.DataFrame, dataset: str) -> str:
    """Return each value and verdict of a claim on a data set; if there are several, name their images."""
    rows = list(_each(alike[alike["dataset"] == dataset]))
    lines = []
    for one in rows:
        told = badge(str(one["verdict"]), dataset)
        value = f"p = {one['measured']}" if one["quantity"] in TESTS and one["measured"] else one["measured"]
        about = images_and_network(str(one["profile"])).split(", ")[0] if len(rows) > 1 else ""
        lines.append(" ".join(part for part in (escape(str(value)), told, escape(about)) if part))
    return "".join(f"<div>{line}</div>" for line in lines) or MISSING


def _again(rows: Sequence[pd.Series]) -> str:
    """Return the verdicts on the papers' own data: a badge per verdict, followed by its data sets."""
    sets: dict[str, list[str]] = {}
    for row in rows:
        sets.setdefault(str(row["verdict"]), []).append(str(row["dataset"]))
    lines = [
        f"{badge(verdict, names[0])} {escape(', '.join(dict.fromkeys(names)))}"
        for verdict, names in sets.items()
    ]
    return "".join(f"<div>{line}</div>" for line in lines or [badge(NOT_ATTEMPTED, "")])
