import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from experiments.publishing.places import PLACES
from experiments.reporting import claims, headlines, scoreboard
from experiments.reporting.declarations import OURS
from experiments.reporting.headlines import HEADLINES, badge, in_a_minute
from experiments.reporting.verdicts import UNDECIDED, WORDS
from experiments.studies.ablation import existing
from experiments.studies.profiles import LIVE


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return the ledger with recorded runs only: the store has no runs of the laptop profile."""
    return claims.ledger(existing("smoke", store=tmp_path_factory.mktemp("runs")))


def row(name, **changes):
    shared = {"id": name, "like": name, "dataset": "digits", "statement": "s", "paper": "3 <times>"}
    shared |= {"profile": "laptop", "n": 3, "quantity": "ratio", "tolerance": "10 or more", "partly": ""}
    return {**shared, "chapter": "collapse", "measured": "2.50 ± 0.1", "verdict": "holds here", **changes}


def small(*rows):
    return in_a_minute(
        pd.DataFrame(rows), [headlines.Headline("Words.", {"one": "a ratio"}, ("theirs",), "Why.")]
    )


def plain(text):
    return " ".join(text.split())


class Cells(HTMLParser):
    """The text of the table's body, cell by cell."""

    def __init__(self, html):
        super().__init__()
        self.cells, self.depth = [], 0
        self.feed(html.partition("<tbody>")[2])

    def handle_starttag(self, tag, attrs):
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.cells[-1] += data + " "


def test_every_headline_is_judged_by_claims_of_the_ledger_and_types_no_number():
    ledger = {claim.id: claim for claim in claims.read()}
    assert 6 <= len(HEADLINES) <= 8
    for one in HEADLINES:
        assert all(ledger[name].dataset in OURS for name in one.judged)
        assert all(ledger[name].dataset not in OURS for name in one.again)
        assert not re.search(r"\d", one.words) and one.words[-1] == "." and one.reason
        assert {ledger[name].profile for name in one.again} & set(LIVE) == set()
    papers = [any("Kirsch" in ledger[name].where for name in one.judged) for one in HEADLINES]
    assert 0 < sum(papers) < len(papers), "both papers"
    asked = [name for one in HEADLINES for name in list(one.judged)[1:]]
    assert len(asked) >= 3, "beside a promise stands what neither paper asked"
    assert {ledger[name].paper for name in asked} <= {"not given", ledger["robust"].paper + ", by DeepFool"}


def test_the_first_page_shows_what_the_ledger_says_and_nothing_else(table):
    html = in_a_minute(table).html
    cells = Cells(html.partition("</table>")[0]).cells
    judged = [(one, name, words) for one in HEADLINES for name, words in one.judged.items()]
    assert len(cells) == (2 + len(OURS)) * len(judged)
    by_id = table.set_index("id")
    for place, (one, name, words) in enumerate(judged):
        claim, paper, *ours = cells[4 * place : 4 * place + 4]
        own = by_id.loc[name]
        assert claim.startswith(one.words) == (name == next(iter(one.judged)))
        assert words in claim and f"holds at {own['tolerance']}" in claim and own["partly"] in claim
        assert plain(paper) == plain(own["paper"])
        same = table[(table["like"] == own["like"]) & (table["statement"] == own["statement"])]
        for _, other in same[scoreboard.is_judged(same) & same["dataset"].isin(OURS)].iterrows():
            cell = ours[OURS.index(other["dataset"])]
            assert f"{other['measured']} " in cell and other["verdict"] in cell
    below = html.partition("</table>")[2]
    for one in HEADLINES:
        for name in one.again:
            assert by_id.loc[name, "dataset"] in below and by_id.loc[name, "verdict"] == "not attempted"
    assert "[Re] not attempted" in below and html.count("[Re]") == 1, "once"
    assert "not judged" in html, "claims of a profile whose runs are not here"
    assert "2,000 of 60,000 images, small ResNet-18, 2 to 3 seeds" in html
    links = set(re.findall(r'href="([^"]*)\.html"', html))
    assert links <= set(PLACES.chapter_names()) and len(links) >= 5


def test_a_verdict_has_words_a_mark_and_its_own_class():
    seen = [badge(word, "digits") for word in (*WORDS[True], "not attempted", "not judged", UNDECIDED)]
    assert [re.findall(r'class="badge-verdict (\w+)"', one)[0] for one in seen] == [
        "holds", "partly", "fails", "open", "open", "undecided",
    ]  # fmt: skip
    assert "✓ holds here<" in seen[0] and "✗ does not hold here<" in seen[2]
    assert "✗ [Re] not reproduced<" in badge("not reproduced", "SVHN") and "fails" in badge(
        "not reproduced", "SVHN"
    )
    assert "[Re] not attempted<" in badge("not attempted", "CIFAR10") and "[Re]" not in seen[3]


def test_values_of_several_data_sets_stand_beside_each_other_and_text_is_escaped():
    fashion = row(
        "one_fashion", like="one", dataset="Fashion-MNIST", measured="1.10", verdict="does not hold here"
    )
    whole = fashion | {"id": "one_full", "profile": "fashion-full", "measured": "1.20"}
    wide = row("one_wide", like="one", statement="of another architecture", measured="9.99")
    theirs = row("theirs", dataset="SVHN", verdict="partly reproduced")
    found = small(
        row("one", partly="in part from 2"), fashion | {"profile": "fashion-cpu"}, whole, wide, theirs
    )
    claim, paper, digits, clothes, again = Cells(found.html).cells
    assert "3 <times>" in paper and "<times>" not in found.html
    assert (
        plain(claim) == "Words. a ratio; holds at 10 or more, in part from 2"
        and "collapse.html" in found.html
    )
    assert plain(digits) == "2.50 ± 0.1 ✓ holds here"
    lines = (
        "1.10 ✗ does not hold here 2,000 of 60,000 images",
        "1.20 ✗ does not hold here 70,000 images",
    )
    assert plain(clothes) == " ".join(lines)
    assert plain(again) == "◐ [Re] partly reproduced SVHN"
    with pytest.raises(ValueError, match="theirs"):
        small(row("one"))


def test_what_no_run_has_judged_says_so_below_the_table_once():
    html = small(row("one"), row("theirs", dataset="SVHN", verdict="not attempted", measured="")).html
    table, _, below = html.partition("</table>")
    assert "[Re]" not in table and "On the papers' own data: <div>" in below and "SVHN" in below
    assert Cells(table).cells[-1].strip() == "–", "nothing on Fashion-MNIST"


def test_verdicts_on_the_papers_data_are_grouped_with_the_data_sets_that_they_are_of():
    judged = headlines.Headline("Words.", {"one": "a ratio"}, ("svhn", "ten", "hundred"), "Why.")
    rows = [row("one")] + [
        row(name, dataset=name.upper(), verdict=word)
        for name, word in {"svhn": "reproduced", "ten": "not reproduced", "hundred": "reproduced"}.items()
    ]
    again = Cells(in_a_minute(pd.DataFrame(rows), [judged]).html).cells[-1]
    assert plain(again) == "✓ [Re] reproduced SVHN, HUNDRED ✗ [Re] not reproduced TEN"


def test_the_scoreboard_folds_by_chapter_and_keeps_every_claim(table):
    html = scoreboard.folded(table).html
    shown = table[~scoreboard.is_waiting(table)]
    summaries = re.findall(
        r"<summary>([^:]*): (\d+) ✓, (\d+) ◐, (\d+) ✗, (\d+) \?, (\d+) open</summary>", html
    )
    asserted = shown[shown["kind"] == "claim"]
    folds = asserted["chapter"].nunique() + 1
    assert len(summaries) == folds == html.count("<details") == html.count("<caption>")
    assert summaries[-1][0] == scoreboard.CHECKS and scoreboard.tally(table).index.tolist()
    assert (
        sum(int(count) for one in summaries for count in one[1:])
        == len(shown)
        == html.count("<tr>") - len(summaries)
    )
    counted = scoreboard.tally(table)
    for mark, place in zip("✓◐✗?", range(1, 5), strict=True):
        told = sum(int(one[place]) for one in summaries[:-1])
        assert told == sum(int(cell) for cell in counted[mark] if cell != "–"), "the counts are the ledger's"
    for name, own in asserted.groupby("chapter"):
        words = next(one for one in summaries if one[0] == scoreboard.chapter_title(str(name)))
        holds = own["verdict"].isin([WORDS[True][0], WORDS[False][0]]).sum()
        assert int(words[1]) == holds
    assert "<script" not in html and "open>" not in html
