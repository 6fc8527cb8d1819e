"""The main claims of both papers in plain words, with what was found: the first page's minute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import pandas as pd

from experiments.reporting.claims import NOT_MEASURED
from experiments.reporting.declarations import OURS
from experiments.reporting.scoreboard import Html, chapter_title, is_judged
from experiments.reporting.verdicts import MARKS, OPEN_MARK, UNDECIDED, WORDS
from lpc.errors import unknown_name

_KINDS = ("holds", "partly", "fails")
_CLASSES = {word: kind for words in WORDS.values() for kind, word in zip(_KINDS, words, strict=True)}
_CLASSES[UNDECIDED] = "undecided"
_MARKS = {**dict(zip((*_KINDS, "undecided"), MARKS, strict=True)), "open": OPEN_MARK}
COLUMNS = ("claim", "the paper's value", "ours", "on the papers' own data")


class Headline(NamedTuple):
    """A main claim.

    Attributes
    ----------
    words
        The claim in plain words, without numbers.
    judged
        Ids of the ledger's claims about it on our own data, and what each measures, in a few words.
    again
        Ids of its claims on the papers' own data; none where no run of them is declared.
    reason
        Why it stands on the first page, and why these claims judge it.
    """

    words: str
    judged: Mapping[str, str]
    again: tuple[str, ...]
    reason: str


HEADLINES: tuple[Headline, ...] = (
    Headline(
        "The images of a class collapse into one point.",
        {"collapse_scale_free": "spread within classes relative to that between them, LinPen over IB"},
        ("collapse_scale_free_svhn", "collapse_scale_free_cifar10", "collapse_scale_free_cifar100"),
        "The title's claim, freed of scale: as published it falls with mere shrinking, and is a check.",
    ),
    Headline(
        "The points are vertices of a hypercube: that of the optimiser's axes.",
        {
            "cube": "unevenness of the class means at a node, 0 on a cube",
            "cube_by_adamw": "the same by an optimiser without axes, over AdamW's, with a longer budget",
            "cube_accuracy": "test accuracy without axes less AdamW's",
        },
        ("cube_svhn", "cube_cifar10", "cube_cifar100"),
        "The geometry that the paper gives the collapse, and what neither paper has: whose geometry it is.",
    ),
    Headline(
        "Networks become many times harder to fool.",
        {
            "robust": "DeepFool's perturbation, IB over NoPen",
            "attacks_smallest": "the smallest that any attack finds, IB over NoPen",
        },
        ("robust_svhn", "robust_cifar10", "robust_cifar100"),
        "The largest of the promised gains; measured as published, and by attacks that look further.",
    ),
    Headline(
        "They become a little more accurate.",
        {"accuracy_gain": "Welch p of IB's test accuracy above NoPen's"},
        ("accuracy_svhn", "accuracy_cifar10", "accuracy_cifar100"),
        "The abstract's claim on generalisation, by the test that it speaks of.",
    ),
    Headline(
        "They know better when they are wrong.",
        {"auroc_mahalanobis": "AUROC of Mahalanobis confidence, IB less NoPen"},
        ("auroc_cifar100",),
        "The abstract's claim on reliability, by the measure that is declared on its own data.",
    ),
    Headline(
        "The collapse creates an information bottleneck.",
        {"entropy_shape": "nats of entropy at one size, IB less LinPen"},
        (),
        "What the paper explains its gains by, and shows by an entropy that falls; here freed of scale.",
    ),
    Headline(
        "Without noise an entropy that falls says nothing (Kirsch et al.).",
        {"noise_free_error": "accuracy lost while the latent shrinks"},
        ("noise_free_error_mnist",),
        "The second paper's warning, on which the reading of the first one's bottleneck hangs.",
    ),
    Headline(
        "A simple penalty trades the image for the label (Kirsch et al.).",
        {"trade_off": "nats more left open about the label, strong penalty less weak"},
        ("trade_off_cifar10",),
        "The second paper's practical result: surrogates of the information bottleneck that train.",
    ),
)
"""Chosen by us: what the two abstracts promise, one row per promise, judged by the ledger alone."""


def badge(verdict: str, dataset: str) -> str:
    """Return a verdict as HTML: a mark and words, and a class for its colour.

    Parameters
    ----------
    verdict
        Of the ledger.
    dataset
        What it is about. On the papers' own data the words begin with ``[Re]``, as ReScience's titles do.
    """
    kind = _CLASSES.get(verdict, "open")
    words = verdict if dataset in OURS else f"[Re] {verdict}"
    return f'<span class="badge-verdict {kind}">{_MARKS[kind]} {escape(words)}</span>'


def in_a_minute(table: pd.DataFrame, headlines: Sequence[Headline] = HEADLINES) -> Html:
    """Return the main claims, a row each: the paper's value, what was measured, and the verdicts.

    Parameters
    ----------
    table
        The ledger.
    headlines
        The claims.

    Raises
    ------
    ValueError
        A claim that the ledger does not have.
    """
    rows, plain = [], []
    for headline in headlines:
        ours = [line for name in headline.judged for line in _ours(table, name, headline.judged[name])]
        again = _again([_row(table, name) for name in headline.again])
        chapters = dict.fromkeys(str(_row(table, name)["chapter"]) for name in headline.judged)
        links = ", ".join(f'<a href="{name}.html">{escape(chapter_title(name))}</a>' for name in chapters)
        papers = dict.fromkeys(str(_row(table, name)["paper"]) for name in headline.judged)
        cells = [
            f"{escape(headline.words)}<br>{links}",
            "<br>".join(map(escape, papers)),
            "".join(f"<div>{line}</div>" for line in ours),
            again,
        ]
        rows.append("".join(_cell(place, cell) for place, cell in enumerate(cells)))
        plain += [
            {
                "claim": headline.words,
                "measures": words,
                **_row(table, name)[["id", "paper", "measured", "verdict"]],
            }
            for name, words in headline.judged.items()
        ]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    caption = "The main claims in plain words, and what was found. Each is explained in the chapter below it."
    return Html(
        f'<table class="dataframe wrap headlines"><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>",
        pd.DataFrame(plain),
    )


def _cell(place: int, content: str) -> str:
    if place == 0:
        return f'<th scope="row">{content}</th>'
    return f'<td data-label="{escape(COLUMNS[place])}">{content}</td>'


def _row(table: pd.DataFrame, name: str) -> pd.Series:
    found = table[table["id"] == name]
    if found.empty:
        raise unknown_name("claim of the first page:", name, list(table["id"]))
    return found.iloc[0]


def _ours(table: pd.DataFrame, name: str, words: str) -> Iterable[str]:
    """Yield what a claim measures; then value and verdict on every data set of ours where it was judged."""
    own = _row(table, name)
    same = (table["like"] == own["like"]) & (table["statement"] == own["statement"])
    alike = table[same & table["dataset"].isin(OURS)]
    judged = alike[is_judged(alike) | (alike["verdict"] == NOT_MEASURED)]
    yield f'<span class="measure">{escape(words)}</span>'
    for _, one in judged.iterrows() if len(judged) else [(name, own)]:
        number = escape(f"{one['dataset']} {one['measured']}".strip())
        yield f"{number} {badge(str(one['verdict']), str(one['dataset']))}"


def _again(rows: Sequence[pd.Series]) -> str:
    """Return the verdicts on the papers' own data: a badge a verdict, and the data sets it is of."""
    if not rows:
        return "no claim declared"
    sets: dict[str, list[str]] = {}
    for row in rows:
        sets.setdefault(str(row["verdict"]), []).append(str(row["dataset"]))
    lines = [f"{badge(verdict, names[0])} {escape(', '.join(names))}" for verdict, names in sets.items()]
    return "".join(f"<div>{line}</div>" for line in lines)
