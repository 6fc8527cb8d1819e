"""The boxes of a page: what answers and quotations must have, and which parts of them are prose."""

import pytest

from experiments.publishing.checking import boxes, prose, typed_numbers
from experiments.publishing.checking.checks import source_offences
from experiments.publishing.checking.typed_numbers import Register
from experiments.publishing.places import Places

FIGURE = """```{code-cell} ipython3
---
mystnb:
  figure: {name: fig-one, caption: A caption.}
---
draw()
```
"""
ANSWER = """:::{answer} Do classes collapse?
:claims: tight, wide
:figure: fig-one

They do, by {{ claims.tight.tolerance }}.
:::
"""
PAPER = ":::{paper} LPC, Section 2.2\nThe points are vertices.\n:::\n"


def read(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(f"# Title\n\n{text}\n{FIGURE}")
    return prose.read(path)


def told(tmp_path, text):
    return [str(one) for one in boxes.check(read(tmp_path, text))]


def test_boxes_that_have_all_they_need(tmp_path):
    assert told(tmp_path, ANSWER + "\n" + PAPER) == []
    assert told(tmp_path, ":::{answer} What does it cost?\nLittle.\n:::\n") == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("collapse?", "collapse", "line 3: {answer} 'Do classes collapse'; expected a question, on the same"),
        ("fig-one", "fig-two", "figure 'fig-two' of the answer; expected one of this page's: fig-one"),
        ("tight, wide", "a, b, c, d, e", "the claims a, b, c, d, e; expected up to 4, each once"),
        ("tight, wide", "tight, tight", "the claims tight, tight; expected up to 4, each once"),
        (":figure:", ":picture:", "the option picture of an answer; expected claims or figure"),
        ("They do, by {{ claims.tight.tolerance }}.", "", "{answer} 'Do classes collapse?' is empty"),
        ("# Title", "# Title", None),
    ],
)
def test_what_is_wrong_with_an_answer_is_told_with_its_line(tmp_path, old, new, words):
    found = told(tmp_path, ANSWER.replace(old, new))
    assert len(found) == (words is not None)
    assert all(one.startswith("page.md, line 3: ") and words in one for one in found)


def test_a_page_has_one_answer(tmp_path):
    (one,) = told(tmp_path, ANSWER + "\n" + ANSWER)
    assert one == "page.md, line 10: a second answer; expected one: the other is on line 3"


@pytest.mark.parametrize(
    "place",
    [
        "LPC, Section 2.2",
        "LPC, Table 1",
        "LPC, Eq. 7",
        "LPC, Appendix A.5",
        "Kirsch et al., Figure 3",
        "Kirsch et al., Observation 3",
        "Shwartz-Ziv and Tishby, p. 4",
        "LPC, Abstract",
        "LPC, Sections 3.1 and 3.2",
    ],
)
def test_places_of_papers(tmp_path, place):
    assert told(tmp_path, PAPER.replace("LPC, Section 2.2", place)) == []


@pytest.mark.parametrize(
    "place", ["", "LPC", "Section 2.2", "LPC, Section", "LPC, 2.2", "LPC, Sectional 2.2"]
)
def test_words_of_a_paper_need_the_paper_and_a_place(tmp_path, place):
    (one,) = told(tmp_path, PAPER.replace("LPC, Section 2.2", place))
    assert one.startswith(f"page.md, line 3: {{paper}} {place!r} names no place; expected the paper and")


def test_an_answer_inserts_its_claims_and_its_text_is_prose(tmp_path):
    page = read(tmp_path, ANSWER)
    told = [
        (3, f"claims.{name}.{column}") for name in ("tight", "wide") for column in ("verdict", "measured")
    ]
    assert [one for one in page.inserted if one[0] == 3] == told
    assert (7, "claims.tight.tolerance") in page.inserted
    assert "Do classes collapse?" in [block.text for block in page.blocks]
    ledger = {"tight": {"verdict": "holds here", "measured": "2", "tolerance": "1 or more"}}
    places = Places(sources=tmp_path)
    found = [str(one) for one in source_offences([page], {"claims": ledger}, places)]
    assert found[:2] == [
        f"page.md, line 3: {{{{ claims.wide.{column} }}}}: no claim has this id; expected an id of the ledger"
        for column in ("verdict", "measured")
    ]


def test_a_number_typed_into_a_box_is_found(tmp_path):
    page = read(tmp_path, ANSWER.replace("They do", "They do 4.7 times"))
    (one,) = typed_numbers.check([page], Register([], {}))
    assert one.place == "line 7"
    assert not list(typed_numbers.check([read(tmp_path, PAPER)], Register([], {}))), "a place is no number"
