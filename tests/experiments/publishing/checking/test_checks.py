"""What keeps a book from being built, offence by offence, on books of a page or two; and the real pages."""

import re
from typing import Any

import jupytext
import nbformat
import pytest

from experiments.paths import BOOK
from experiments.publishing.checking import checks, prose, typed_numbers
from experiments.publishing.checking.cell_html import Html
from experiments.publishing.checking.checks import CheckError
from experiments.publishing.checking.typed_numbers import Register, spans
from experiments.publishing.places import Places
from experiments.reporting import claims, scoreboard
from experiments.reporting.claims import read
from experiments.studies import ablation

CLAIM = {
    "verdict": "holds here",
    "measured": "4.1 ± 0.2",
    "tolerance": "3 or more",
    "like": "tight",
    "chapter": "index",
    "statement": "Classes are tight: at least 3 times",
    "profile": "laptop",
}
FIGURE: dict[str, Any] = {
    "figure": {"name": "fig-one", "caption": "Spread of the classes over epochs, with and without."}
}
ALT: dict[str, Any] = {"image": {"alt": "Two lines that fall over epochs, one of them steeply."}}
SHOWN = "Here {{ claims.tight.measured }} (**{{ claims.tight.verdict }}**)."
HEAD = "---\nkernelspec:\n  {name: python3, display_name: Python 3}\n---\n\n# Title\n\n"


def image(*kinds):
    return nbformat.v4.new_output("display_data", {kind: "drawn" for kind in kinds or ("image/svg+xml",)})


def table(*rows, caption="Verdicts of this page."):
    told = f"<caption>{caption}</caption>" if caption else ""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return nbformat.v4.new_output("execute_result", {"text/html": f"<table>{told}{lines}</table>"})


def cell(*outputs, code="plot()", **mystnb):
    return nbformat.v4.new_code_cell(
        code, outputs=list(outputs), metadata={"mystnb": mystnb} if mystnb else {}
    )


class Book:
    """Pages, and their executed notebooks in a staged folder."""

    def __init__(self, root):
        self.places, self.staged = Places(sources=root / "book", toc=root / "_toc.yml"), root / "stage"
        self.sources = self.places.sources
        self.sources.mkdir()
        self.staged.mkdir()
        self.claims = {"tight": dict(CLAIM)}

    def page(self, text, *cells, name="index"):
        source = self.sources / f"{name}.md"
        source.write_text(HEAD + text + "\n")
        written = [*jupytext.read(source, fmt="md:myst").cells, *cells]
        nbformat.write(nbformat.v4.new_notebook(cells=written), self.staged / f"{name}.ipynb")
        others = sorted(path.stem for path in self.sources.glob("*.md") if path.stem != "index")
        files = "".join(f"  - file: {one}\n" for one in others)
        self.places.toc.write_text(
            "format: jb-book\nroot: index\n" + (f"chapters:\n{files}" if others else "")
        )

    def register(self, text):
        self.sources.joinpath("numbers.toml").write_text(text)

    def offences(self, *, whole=True):
        """Return the lines of the error; none where there is none."""
        given = {"profile": "laptop", "claims": self.claims}
        try:
            checks.check(self.staged, given, self.places, whole=whole)
        except CheckError as error:
            lines = str(error).splitlines()
            assert f"({len(lines) - 1} offences)" in lines[0]
            return [line.strip() for line in lines[1:]]
        return []


@pytest.fixture
def book(tmp_path):
    made = Book(tmp_path)
    made.page(SHOWN)
    return made


def test_a_page_that_has_all_it_needs_passes(book):
    book.page(
        SHOWN,
        cell(image("image/svg+xml", "image/png"), **FIGURE, **ALT),
        cell(table(["a", "b"]), code="show()"),
    )
    assert book.offences() == []


@pytest.mark.parametrize(
    ("mystnb", "words"),
    [
        (FIGURE, "the image has no alt text"),
        ({**FIGURE, "image": {"alt": "  "}}, "the image has no alt text"),
        ({**FIGURE, "image": {"alt": "A line chart."}}, "the image has the alt text 'A line chart.'"),
        ({**FIGURE, "image": {"alt": FIGURE["figure"]["caption"].upper()}}, "has its caption as alt text"),
        (ALT | {"figure": {"name": "fig-one"}}, "an image without caption"),
        (ALT | {"figure": {"caption": FIGURE["figure"]["caption"]}}, "an image without name"),
    ],
)
@pytest.mark.parametrize("kind", ["image/svg+xml", "image/png"])
def test_a_figure_needs_a_name_a_caption_and_an_alt_text_of_its_own(book, mystnb, words, kind):
    book.page(SHOWN, cell(code="x = 1"), cell(image(kind), code="# first\ndraw(x)", **mystnb))
    (line,) = book.offences()
    assert line.startswith("index.ipynb, cell 2, beginning 'draw(x)': ") and words in line
    assert "expected mystnb: " in line


def test_several_images_of_one_cell_share_a_caption_and_are_refused(book):
    book.page(SHOWN, cell(image(), image("image/png"), **FIGURE, **ALT))
    (line,) = book.offences()
    assert "2 images; expected one" in line


def test_two_figures_of_a_name_are_told_with_both_places(book):
    figure = "mystnb:\n  figure:\n    name: fig-one\n    caption: A caption."
    header = f"```{{code-cell}} ipython3\n---\n{figure}\n---\nplot()\n```\n"
    book.page(SHOWN + "\n\n" + header)
    assert book.offences() == []
    book.page(header, name="other")
    (line,) = book.offences()
    assert line.startswith("other.md, line 8: figure fig-one; expected a name not taken by index.md, line 10")


def test_images_of_the_text_need_an_alt_text_too(book):
    book.page(
        SHOWN + "\n\n![](a.svg)\n\n:::{figure} b.svg\n:name: fig-b\n\nA caption.\n:::\n\n![Short.](c.png)"
    )
    found = book.offences()
    assert [line.partition(";")[0] for line in found] == [
        "index.md, line 10: image a.svg has no alt text",
        "index.md, line 12: image b.svg has no alt text",
        "index.md, line 18: image c.png has the alt text 'Short.'",
    ]
    alt = ALT["image"]["alt"]
    book.page(
        SHOWN + f"\n\n![{alt}](a.svg)\n\n:::{{figure}} b.svg\n:alt: {alt}\n:name: fig-b\n\nA caption.\n:::\n"
    )
    assert book.offences() == []


def test_images_in_html_need_a_text_too(book):
    book.page(
        SHOWN + '\n\n<div>\n<p>It is 6.5.</p>\n<img src="a.svg">\n</div>\n\nText <img src="b.svg" alt="B.">.'
    )
    found = [line.partition(";")[0].partition(" in '")[0] for line in book.offences()]
    assert found == [
        "index.md, line 11: the number '6.5'",
        "index.md, line 12: image a.svg has no alt text",
        "index.md, line 15: image b.svg has the alt text 'B.'",
    ]
    html = '<svg viewBox="0 0 1 1"></svg><canvas></canvas><img alt="Words"><svg aria-hidden="true"></svg>'
    book.page(SHOWN, cell(nbformat.v4.new_output("display_data", {"text/html": html})))
    assert [line.split(": ")[1] for line in book.offences()] == [
        "<svg> has no alt text; expected alt, aria-label or aria-hidden",
        "<canvas> has no alt text; expected alt, aria-label or aria-hidden",
    ]


def test_a_dead_link_in_what_a_cell_shows_is_told(book):
    links = [
        f'<a href="{link}">x</a>' for link in ("index.html#top", "gone.html#top", "https://x.org/a.html")
    ]
    book.page(SHOWN, cell(nbformat.v4.new_output("display_data", {"text/html": " ".join(links)}), code="f()"))
    (line,) = book.offences()
    told = "a dead link to gone.html#top; expected a page of the book"
    assert line == f"index.ipynb, cell 1, beginning 'f()': {told}"


def test_a_table_needs_a_caption(book):
    book.page(SHOWN, cell(table(["a"]), table(["b"], caption=""), code="show()"))
    (line,) = book.offences()
    assert (
        line
        == "index.ipynb, cell 1, beginning 'show()': a table without caption; expected show(table, caption)"
    )


def test_a_claim_needs_a_known_verdict_and_a_page(book):
    book.claims["tight"] |= {"verdict": "proved"}
    (line,) = book.offences()
    assert line.startswith(
        "claims.toml, claim tight: the verdict 'proved'; expected one of holds here, holds"
    )
    book.claims["tight"] |= {"verdict": "holds here", "chapter": "colapse"}
    (line,) = book.offences()
    assert "claim tight: chapter 'colapse' is not a page of the book; expected one of index" in line


def test_a_claim_of_which_no_page_shows_the_verdict_is_told(book):
    book.page("Nothing about it.")
    (line,) = book.offences()
    assert line.startswith("index.md, claim tight: no verdict on the page of its chapter")
    book.page("Nothing about it.", cell(table(["claim", "laptop"], [CLAIM["statement"], "✓ 4.1"])))
    assert book.offences() == []


@pytest.mark.parametrize(
    "rows",
    [
        (["claim", "laptop"], [CLAIM["statement"], "–"]),
        (["claim", "fashion"], [CLAIM["statement"], "✓ 4.1"]),
        (["claim", "runs"], [CLAIM["statement"], "digits (laptop-gammas)"]),
        (["claim", "runs"], ["Something else", "digits (laptop)"]),
    ],
)
def test_a_table_of_other_claims_or_other_runs_is_no_verdict(book, rows):
    book.page("Text.", cell(table(*rows)))
    assert len(book.offences()) == 1


def test_a_claim_that_is_like_another_is_shown_on_its_page_or_the_first(book):
    book.page("First page.")
    book.page(SHOWN, name="collapse")
    book.claims["tight"] |= {"chapter": "collapse"}
    book.claims["tight_fashion"] = CLAIM | {"profile": "fashion", "like": "tight", "chapter": "collapse"}
    (line,) = book.offences()
    assert line.startswith("claims.toml, claim tight_fashion: a verdict (holds here) that no page shows")
    rows = ["claim", "runs"], [CLAIM["statement"], "digits (laptop)"], ["the same", "Fashion-MNIST (fashion)"]
    book.page("First page.", cell(table(*rows)))
    assert book.offences() == []


def test_a_part_of_the_book_need_not_show_every_claim_and_entry(book):
    book.page("Text.")
    book.register(ENTRY.replace("index", "other"))
    assert len(book.offences()) == 2
    assert book.offences(whole=False) == []
    book.page("Text, 6.5.")
    assert len(book.offences(whole=False)) == 1


def test_a_measured_value_stands_beside_its_verdict(book):
    book.page("First {{ claims.tight.verdict }}.")
    book.page("\nHere it is\n{{ claims.tight.measured }}.", name="other")
    (line,) = book.offences()
    assert line.startswith(
        "other.md, line 10: {{ claims.tight.measured }} without its verdict; expected claims.tight"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ claims.tigth.verdict }}", "no claim has this id"),
        ("{{ claims.tight.verdct }}", "expected one of verdict, measured"),
        ("{{ profil }}", "expected one of claims.ID.COLUMN, profile, claims"),
    ],
)
def test_a_substitution_of_nothing_is_named_with_its_line(book, text, words):
    book.page(f"{SHOWN} `{{{{ nothing }}}}`\n\nProfile {{{{ profile }}}}.\nAnd $x\n+y$, {text}.\n\n{text}")
    found = book.offences()
    assert [line.partition(":")[0] for line in found] == ["index.md, line 12", "index.md, line 14"]
    assert all(f": {text}" in line and words in line for line in found)


CODE = """
```{code-cell} ipython3
:tags: [parameters]
seed = 0
```

```{code-cell} ipython3
print(1)
```
"""


def test_a_page_that_was_edited_after_it_was_executed_is_told(book):
    book.page(SHOWN + CODE)
    source = book.sources / "index.md"
    text = source.read_text()
    source.write_text(text.replace("seed = 0", "seed = 1"))
    assert book.offences() == [], "parameters are given when it is executed"
    source.write_text(text.replace("Here ", "There "))
    (line,) = book.offences()
    assert line == "index.md, at '# Title': executed from another text; expected to be executed again"
    assert book.offences(whole=False) == []
    source.write_text(text.replace("print(1)", "print(2)"))
    (line,) = book.offences()
    assert line.startswith("index.md, at 'print(2)': executed from another text")


def test_code_that_would_scroll_sideways_is_told_with_its_line(book):
    long = f"x = '{'y' * 79}'"
    head = "mystnb:\n  figure:\n    name: fig-one\n    caption: " + "A caption of many words. " * 5
    book.page(SHOWN + f"\n\n```{{code-cell}} ipython3\n---\n{head}\n---\nx = 1\n{long}\n```\n")
    (line,) = book.offences()
    assert line == "index.md, line 18: code of 85 characters; expected up to 84: it would scroll"
    book.page(SHOWN + f"\n\n```{{code-cell}} ipython3\n{long[:-2]}'\n```\n")
    assert book.offences() == []


# ------------------------------------------------------------------ numbers in prose
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("accuracy of 97.3 % here", ["97.3 %"]),
        ("IB is 29 to 52 times larger", ["29 to 52 times"]),
        ("a factor of 12, then times 1.05 and ×3", ["factor of 12", "times 1.05", "×3"]),
        ("fooled 36 of 50 images", ["36 of 50"]),
        ("after 4 s, 2 hours and 3GB", ["4 s", "2 hours", "3GB"]),
        ("weight decay 5e-4, of 50,000 images", ["5e-4", "50,000"]),
        ("fifty times, ten per cent", ["fifty times", "ten per cent"]),
        ("at epoch 213, 0.3 to 0.9 points", ["epoch 213", "0.3 to 0.9 points"]),
        ("-0.02 nats and +1.5", ["-0.02 nats", "+1.5"]),
        ("It ends at 0.5.", ["0.5"]),
        ("128 nodes, 10 classes, three seeds, 5 rates", []),
        ("Section 2.1, Eqs. 25 to 27, Tables 1 and 2, Appendix A.5, line 14, Observation 8, Theorem 1", []),
        ("Eqs. 7, 28 and 29; Figures 1 to 3; Sections 2 to 4 and 6", []),
        ("CIFAR10, ResNet-18, float32, Python 3.10, submitit 1.5.4, in 2024", []),
        ("Table 2 has 52 times", ["52 times"]),
    ],
)
def test_what_counts_as_a_number(text, found):
    assert [text[begin:end] for begin, end in spans(text)] == found


PROSE = r"""
Text with `code 1.5`, $x = 2.5$, {doc}`a <1.5>`, {{ claims.tight.tolerance }}, [link](page-1.5.html) and
a number 6.5.

$$
y = 3.5
$$

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-one
    caption: |
      A caption with
      7.5 in it.
  image:
    alt: An alt text
      with 8.5 in it, and more words.
---
z = 4.5
```

:::{note}
:class: c-1.5
In a note: 9.5.
:::

| a | b |
|---|---|
| 10.5 | none |

```python
print(5.5)
```
"""


def test_numbers_are_sought_in_prose_and_told_with_their_line(book):
    book.page(SHOWN + "\n" + PROSE)
    found = [re.match(r"index\.md, line (\d+): the number '(.*?)'", line) for line in book.offences()]
    source = book.sources.joinpath("index.md").read_text().splitlines()
    told = [(one[2], source[int(one[1]) - 1]) for one in found if one]
    assert [number for number, _ in told] == ["6.5", "7.5", "8.5", "9.5", "10.5"]
    assert all(number in line for number, line in told)
    assert len(found) == 5


ENTRY = '[[index]]\ntext = "Accuracy rose by 6.5"\nkind = "paper"\nplace = "Table 2"\n'


def test_a_registered_number_passes_where_it_stands_and_nowhere_else(book):
    book.page(SHOWN + "\n\nAccuracy *rose*\nby 6.5.")
    book.register(ENTRY)
    assert book.offences() == []
    book.page("Accuracy rose by 6.5.", name="other")
    (line,) = book.offences()
    assert (
        line.startswith("other.md, line 8: the number '6.5'")
        and "an entry in numbers.toml with its source" in line
    )


def test_an_entry_that_no_page_holds_is_stale(book):
    book.register(ENTRY)
    (line,) = book.offences()
    assert line.startswith("numbers.toml, index: 'Accuracy rose by 6.5' is not on this page")
    book.register(ENTRY.replace("index", "indx"))
    (line,) = book.offences()
    assert line == "numbers.toml, indx: not a page of the book; expected one of index"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("math: 6.46", ""),
        ("math: 13 / 2", ""),
        ("math: 6.4", "gives 6.4; expected 6.5"),
        ("math: [6.5, 1]", "gives 6.5, 1; expected 6.5"),
        ("math: nothing", "gives NameError"),
        ("nowhere: 1", "gives ModuleNotFoundError"),
    ],
)
def test_an_entry_with_a_value_is_compared_with_it_to_the_printed_digits(book, value, words):
    book.page(SHOWN + "\n\nAccuracy rose by 6.5.")
    book.register(f'{ENTRY}value = "{value}"\n')
    found = book.offences()
    assert len(found) == bool(words) and words in "".join(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("paper", "papr"), "kind in numbers.toml, entry 1 of index.*'papr'. Did you mean paper"),
        (("place", "plce"), "field in numbers.toml, entry 1 of index.*'plce'. Did you mean place"),
        (('place = "Table 2"', ""), "numbers.toml, entry 1 of index has no place"),
    ],
)
def test_a_register_that_is_not_understood_is_refused(book, change, words):
    book.register(ENTRY.replace(*change))
    with pytest.raises(ValueError, match=words):
        book.offences()


def test_a_page_that_is_historical_is_not_searched(book):
    book.page("On a date it took 6.5 s.", name="decisions")
    assert len(book.offences()) == 1
    book.register('[historical]\ndecisions = "dated"\n')
    assert book.offences() == []


def test_all_offences_are_told_at_once(book):
    book.page("It is 6.5, {{ claims.x.verdict }}, ![](a.png)", cell(image()), cell(table(["a"], caption="")))
    assert len(book.offences()) == 8


# ------------------------------------------------------------------ the real pages
@pytest.mark.slow
def test_the_real_pages_pass_what_can_be_checked_without_executing_them():
    ledger = {one.id: dict.fromkeys(("verdict", "measured", "n", "tolerance", "paper")) for one in read()}
    pages = checks.read_pages()
    given = {"profile": "laptop", "claims": ledger}
    found = list(checks.source_offences(pages, given))
    assert not found, "\n".join(map(str, found))


def test_the_register_is_needed():
    pages = checks.read_pages()
    assert len(list(typed_numbers.check(pages, Register([], {})))) > 80


def test_every_family_of_claims_has_its_verdict_on_the_page_of_its_chapter():
    inserted = {one.name: {text for _, text in one.inserted} for one in checks.read_pages()}
    ledger = {one.id: {"like": one.like or one.id, "chapter": one.chapter} for one in read()}
    shown = {
        checks._root(name, ledger)
        for page in inserted.values()
        for name in ledger
        if f"claims.{name}.verdict" in page
    }
    assert {checks._root(name, ledger) for name in ledger} == shown


def test_figures_of_the_real_pages_have_names_of_their_own():
    names = [name for path in sorted(BOOK.glob("*.md")) for _, name in prose.read(path).figures]
    assert len(names) > 40 and len(names) == len(set(names))


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_the_first_page_s_tables_show_every_claim(profile, tmp_path):
    table = claims.ledger(ablation.existing(profile, store=tmp_path))
    found = [Html(scoreboard.folded(table).html)]
    if (waiting := scoreboard.styled(scoreboard.waiting(table), "They wait.")) is not None:
        found.append(Html(waiting.to_html()))
    assert all(all(one.captions) for one in found)
    columns = ["id", "like", "statement", "profile"]
    rows = {str(row[0]): dict(zip(columns, map(str, row), strict=True)) for row in table[columns].to_numpy()}
    for name, row in rows.items():
        family = {one["statement"] for one in rows.values() if one["like"] == row["like"]}
        assert any(checks._holds(one, row, family) for one in found), name
        assert not any(checks._holds(one, {"profile": "elsewhere"}, family) for one in found), name
