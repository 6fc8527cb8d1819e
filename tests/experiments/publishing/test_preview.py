"""The pages that readers can see while a first book is made."""

import re
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup
from support.ended_runs import end
from support.warm_forks import warm_kernels as warm_kernels
from support.warm_pages import warm_pages as warm_pages

from experiments.publishing import preview
from experiments.publishing.build import MADE_FROM
from experiments.publishing.executing.execution import execute
from experiments.publishing.places import Places
from experiments.studies.ablation import declared
from experiments.studies.profiles import PROFILES
from lpc.store import RunStore

pytestmark = [pytest.mark.book, pytest.mark.usefixtures("warm_pages", "warm_kernels")]

CHAPTER = """---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# The chapter called NAME

See {doc}`late` and {doc}`words`. It {{ claims.x.verdict }}.

```{code-cell} ipython3
:tags: [parameters]
seed = 0
```

```{code-cell} ipython3
print("printed by NAME")
```
"""
CLAIMS = {"claims": {"x": {"verdict": "holds here"}, "y": {"verdict": "not measured"}}}


@pytest.fixture
def places(tmp_path):
    made = Places(sources=tmp_path / "book", toc=tmp_path / "_toc.yml", output=tmp_path / "build")
    (made.sources / "_static").mkdir(parents=True)
    for name in ("index", "early", "late"):
        (made.sources / f"{name}.md").write_text(CHAPTER.replace("NAME", name))
    (made.sources / "words.md").write_text("# Words\n\nWhat words mean.\n")
    for name in (
        "references.bib",
        *(f"_static/{one}.css" for one in ("book", "verdicts", "explore", "print")),
    ):
        (made.sources / name).write_text("")
    names = "".join(f"  - file: {name}\n" for name in ("early", "late", "words"))
    made.toc.write_text(f"format: jb-book\nroot: index\nchapters:\n{names}")
    execute(["early"], places=made, workers=1)
    return made


def test_first_pages_are_made_where_training_takes_long(places, tmp_path):
    def minutes(name, **values):
        chapter = {"profile": name, "seeds": None, "store": str(tmp_path / "store"), **values}
        return preview.minutes_to_train({"early": chapter}, places)

    laptop, smoke = (PROFILES[name].minutes for name in ("laptop", "smoke"))
    assert laptop is not None and smoke is not None
    assert minutes("laptop") == laptop
    assert minutes("laptop", seeds=1) == pytest.approx(laptop / 3)
    assert not preview.is_wanted(places, minutes("smoke")) and preview.is_wanted(places, minutes("laptop"))
    store = RunStore(tmp_path / "store")
    specs = declared("smoke")
    for spec in specs[: len(specs) // 2]:
        end(store, spec)
    assert minutes("smoke") == pytest.approx(smoke / 2)


def test_what_has_been_executed_is_shown_until_there_is_a_whole_book(places, capsys):
    assert preview.is_wanted(places, 7.0)
    first = preview.show(places, CLAIMS)
    assert first is not None and first == places.output / "html" / "index.html"
    assert preview.is_wanted(places, 7.0)
    assert "2 of 4 pages can be read already" in capsys.readouterr().err
    (page,) = BeautifulSoup(first.read_text(), "html.parser").select("article")
    for mark in page.select("a.headerlink"):
        mark.decompose()
    text = " ".join(page.get_text().split())
    assert "This book is being made: 2 pages can be read, 2 are still to come" in text
    assert re.search("holds here: 1 not measured: 1", text)
    links = {str(link["href"]).partition("#")[0] for link in page.select("a.internal")}
    assert links == {"early.html", "words.html"}
    assert "Still to come The chapter called index The chapter called late" in text
    assert "printed by early" in (first.parent / "early.html").read_text()
    assert not (first.parent / "late.html").exists()
    assert "being made" not in (places.sources / "index.md").read_text(), "the chapter's own text stays"
    (first.parent / MADE_FROM).write_text("a whole book has this")
    assert not preview.is_wanted(places, 7.0)


def test_where_sphinx_fails_the_pages_that_are_there_stay(places, tmp_path, capsys):
    first = preview.show(places, CLAIMS)
    assert first is not None
    before = first.read_text()
    config = tmp_path / "_config.yml"
    config.write_text("sphinx: {extra_extensions: [no_such_extension]}\n")
    assert preview.show(replace(places, config=config), CLAIMS) is None
    assert "no page is shown yet: the pages were not built, the previous ones" in capsys.readouterr().err
    assert first.read_text() == before
    assert sorted(path.name for path in places.output.iterdir()) == ["html", "notebooks"]
