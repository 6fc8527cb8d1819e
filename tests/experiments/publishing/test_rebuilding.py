"""Pages that are built alone are the same as if all were built; if they might not be, all are built."""

import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.warm_pages import warm_pages as warm_pages

from experiments.publishing import build, rebuilding
from experiments.publishing.build import BuildError

pytestmark = [pytest.mark.book, pytest.mark.usefixtures("warm_pages")]

FIRST = """# The first page

See {ref}`there` and {doc}`second`. {cite}`one2020`

:::{figure} picture.svg
:name: fig-first
A picture.
:::
"""
SECOND = """# The second page

(there)=
## A section

Plain words, and {numref}`fig-first`.
"""
SETTINGS = """
title: Small
sphinx:
  extra_extensions: [sphinxcontrib.bibtex]
  config: {bibtex_bibfiles: [references.bib], numfig: true, html_last_updated_fmt: ""}
"""


@pytest.fixture
def staged(tmp_path):
    folder = tmp_path / "staged"
    folder.mkdir()
    (folder / "_config.yml").write_text(SETTINGS)
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: first\nchapters: [{file: second}, {file: cited}]\n"
    )
    (folder / "first.md").write_text(FIRST)
    (folder / "second.md").write_text(SECOND)
    (folder / "cited.md").write_text("# Cited\n\n```{bibliography}\n```\n")
    (folder / "references.bib").write_text(
        "".join(f"@misc{{{name}2020, title={{{name}}}, author={{A}}}}\n" for name in ("one", "two"))
    )
    (folder / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return folder


class Built:
    """Successive builds of one folder, with what each of them built."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0
        self.whole: list[bool] = []
        self.run: Callable[..., Path] = self._run

    def _run(self, *folders: Path, whole: bool = True) -> Path:
        self.whole.append(whole)
        return build.run_sphinx(*folders, whole=whole)

    def __call__(self, staged: Path, *, made_by: str = "us") -> Path:
        self.count, self.whole = self.count + 1, []
        into = self.root / f"made-{self.count}"
        with rebuilding.kept(self.root) as last:
            assert last is not None
            return rebuilding.pages(staged, last, self.run, made_by=made_by, into=into)


@pytest.fixture
def built(tmp_path, staged):
    made = Built(tmp_path)
    made(staged)
    assert made.whole == [True]
    return made


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def pages_of(folder):
    """Return the pages, and the search index, in which the order of pages may differ.

    Versions of styles are left out, because the styles that MyST-NB writes last have none in a first build.
    """
    found = {path.name: re.sub(r"[?]v=\w+", "", path.read_text()) for path in folder.glob("*.html")}
    index = (folder / "searchindex.js").read_text()
    words = json.loads(index[index.index("(") + 1 : index.rindex(")")])
    terms = {word for word, there in words["terms"].items() if there != []}
    return found, terms, sorted(words["docnames"]), sorted(words["titles"])


def test_new_prose_is_built_alone_and_what_others_refer_to_builds_all(built, staged, tmp_path):
    edit(staged / "second.md", "Plain words", "Other words")
    made = built(staged)
    assert built.whole == [False]
    assert "Other words" in (made / "second.html").read_text()
    assert pages_of(made) == pages_of(build.run_sphinx(staged, tmp_path / "anew"))
    edit(staged / "second.md", "## A section", "## Another heading")
    assert "Another heading" in (built(staged) / "first.html").read_text()
    assert built.whole == [False, True]
    edit(staged / "second.md", "(there)=\n", "")
    for tried in ([False, True], [True]):  # what broke a link is told every time
        with pytest.raises(BuildError, match="there"):
            built(staged)
        assert built.whole == tried


@pytest.fixture
def pretended(tmp_path, staged, monkeypatch):
    """Build with a stand-in for Sphinx that makes one page of each file and numbers figures."""

    def run(folder, into, whole=True):
        made.whole.append(whole)
        (pages := into / "_build" / "html").mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.md"):
            numbered = path.read_text().replace(":::{figure}", '<span class="caption-number">Fig. 1 </span>')
            (pages / f"{path.stem}.html").write_text(numbered)
        head = b"# The remainder of this file is compressed using zlib.\n"
        (pages / "objects.inv").write_bytes(head + zlib.compress(b"there std:label\n"))
        return pages

    made = Built(tmp_path)
    made.run = run
    made(staged)
    assert made.whole == [True]
    return made


@pytest.mark.parametrize(
    ("name", "old", "new", "tried"),
    [
        ("second.md", "Plain", "Other", [False]),
        ("first.md", "See", ":::{figure} picture.svg\nBefore.\n:::\n\nSee", [False, True]),
        ("first.md", "one2020", "two2020", [True]),
        ("_config.yml", "Small", "Large", [True]),
        ("references.bib", "title={one}", "title={three}", [True]),
        ("picture.svg", "svg", "other", [True]),
    ],
)
def test_what_others_show_builds_all(pretended, staged, name, old, new, tried):
    edit(staged / name, old, new)
    pretended(staged)
    assert pretended.whole == tried


def test_other_makers_other_files_and_what_was_cut_short_build_all(pretended, staged):
    pretended(staged)
    assert pretended.whole == [False]
    for change in (
        lambda: None,
        lambda: (staged / "another.md").write_text("# Another\n"),
        lambda: (pretended.root / "sphinx" / rebuilding.GOOD).unlink(),
    ):
        change()
        pretended(staged, made_by="a newer version")
        assert pretended.whole == [True]
    edit(staged / "second.md", "Plain", "Other")
    whole = pretended.run
    pretended.run = lambda *folders, **_: (_ for _ in ()).throw(OSError("no space"))
    with pytest.raises(OSError, match="no space"):
        pretended(staged, made_by="a newer version")
    pretended.run = whole
    pretended(staged, made_by="a newer version")
    assert pretended.whole == [True], "nobody knows what the last build left"


def test_two_programs_do_not_share_what_is_remembered(tmp_path):
    with rebuilding.kept(tmp_path) as first, rebuilding.kept(tmp_path) as second:
        assert first is not None and second is None
    with rebuilding.kept(tmp_path) as again:
        assert again is not None


def test_outputs_and_citations_of_a_notebook_count_and_its_words_do_not(tmp_path):
    def write(folder, words, output):
        cell = {"cell_type": "code", "source": "1", "outputs": [output]}
        (tmp_path / folder).mkdir(exist_ok=True)
        text = json.dumps({"cells": [{"cell_type": "markdown", "source": words}, cell]})
        (tmp_path / folder / "page.ipynb").write_text(text)

    write("old", "one", "1")
    for words, output, same in (("two", "1", True), ("one", "2", False), ("{cite}`x`", "1", False)):
        write("new", words, output)
        assert rebuilding.only_prose_changed(tmp_path / "old", tmp_path / "new") == same
    shutil.copytree(tmp_path / "new", tmp_path / "copy")
    assert rebuilding.only_prose_changed(tmp_path / "new", tmp_path / "copy")
