"""The table of a chapter's answer: its values, verdicts and data come from the ledger alone."""

import pytest

from experiments.publishing.checking.cell_html import Html
from experiments.reporting.answers import rows_of
from experiments.reporting.claims import EMPTY
from experiments.reporting.rests_on import data_of, images_and_network

CLAIM = {
    "statement": "Classes are tight: a < b",
    "paper": "52 times",
    "verdict": "holds here",
    "measured": "4.1 [3.5, 4.8]",
    "needed": EMPTY,
    "dataset": "digits",
    "profile": "laptop",
    "n": "5",
    "same": "tight",
    "quantity": "ratio",
}
WAITS = {"verdict": "not attempted", "measured": EMPTY, "n": "0"}
LEDGER = {
    "tight": CLAIM,
    "fashion": CLAIM
    | {"dataset": "Fashion-MNIST", "profile": "fashion-cpu", "verdict": "undecided", "needed": "9 seeds"},
    "svhn": CLAIM | WAITS | {"dataset": "SVHN", "profile": "paper-svhn"},
    "cifar10": CLAIM | WAITS | {"dataset": "CIFAR10", "profile": "paper-cifar10"},
    "test": CLAIM | {"same": "test", "quantity": "welch", "measured": "0.03", "paper": "p < 0.05"},
    "open": CLAIM | WAITS | {"same": "open", "verdict": "not judged"},
}


def rows(*claims):
    return Html(rows_of(LEDGER, claims)).rows[0][1:]


def test_each_claim_has_a_row_with_ours_beside_the_papers():
    (row,) = rows("tight")
    assert row[0] == "Classes are tight: a < b" and row[2] == "52 times"
    assert row[1] == (
        "4.1 [3.5, 4.8] ✓ holds here digits, MLP, 5 seeds"
        "4.1 [3.5, 4.8] ? undecided Fashion-MNIST, small ResNet-18, 5 seeds; 9 seeds would decide"
        "○ [Re] not attempted SVHN, CIFAR10"
    )
    assert "&lt;" in rows_of(LEDGER, ["tight"])


def test_a_p_says_so_and_what_was_not_judged_has_no_value():
    first, second = rows("test", "open")
    assert first[1] == "p = 0.03 ✓ holds here digits, MLP, 5 seeds"
    assert second[1] == "○ not judged digits, MLP"


def test_an_unknown_claim_is_named():
    with pytest.raises(ValueError, match=r"unknown claim of an answer: 'tigth'\. Did you mean tight"):
        rows_of(LEDGER, ["tigth"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("CIFAR10", "paper-cifar10", 1), "CIFAR10, ResNet-18, 1 seed"),
        (("CIFAR10", "none", 5), "CIFAR10, as printed"),
        (("digits", "laptop", 0), "digits, MLP"),
    ],
)
def test_what_a_verdict_rests_on(given, words):
    assert data_of(*given) == words


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("laptop", "1,797 images, MLP"),
        ("fashion-cpu", "2,000 of 60,000 images, small ResNet-18"),
        ("paper-cifar10", "60,000 images, ResNet-18"),
        ("none", ""),
    ],
)
def test_how_many_images_and_which_network(profile, words):
    assert images_and_network(profile) == words
