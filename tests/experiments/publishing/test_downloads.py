"""What pages offer for download, and how they say to run them again, tested on small pages."""

import re
import shlex
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from papermill.cli import _resolve_type
from support import warm
from support.warm_forks import fork_kernels
from support.warm_pages import warm_pages as warm_pages

from experiments.paths import BOOK, ROOT
from experiments.publishing import downloads
from experiments.publishing.build import BuildError, build, stage
from experiments.publishing.checking import external_links
from experiments.publishing.executing.chapter_sources import parse
from experiments.publishing.executing.execution import execute
from experiments.publishing.header_footer import run_box
from experiments.publishing.places import Places
from experiments.reporting import scoreboard
from experiments.reporting.csv_tables import MIME, to_csv
from experiments.reporting.tables import show
from experiments.studies import ablation
from lpc.runs import execute_all

pytestmark = [pytest.mark.book, pytest.mark.usefixtures("warm_pages")]

TWO_LEVELS = pd.DataFrame(
    {
        ("laptop", "a, b"): ["1 ± 2", "<b> & 'c'"],
        ("laptop", "n"): ["007", "–"],
        ("paper", ""): ["", "two\nlines"],
    },
    index=pd.Index(["IB", "NoPen"], name="architecture"),
)
PAGE = """---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Title

Says {{ claims.x.verdict }}, $\\mathbf{{x}}$.

:::{answer} Does it *hold*?
:claims: x
:figure: fig-line

It {{ claims.x.verdict }}.
:::

:::{paper} LPC, Section 2.2
It holds.
:::

```{code-cell} ipython3
:tags: [parameters]
seed = 0
```

```{code-cell} ipython3
import pandas as pd
from experiments.reporting.tables import show
table = pd.DataFrame({"value": ["1"]}, index=pd.Index(["a"], name="what"))
show(table, "One table, of what is in it.")
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig-line, caption: A line.}
  image: {alt: A line that rises from the left to the right.}
---
%config InlineBackend.figure_formats = ["svg", "png"]
import matplotlib.pyplot as plt
plt.plot([1, 2]);
```

```{code-cell} ipython3
:tags: [remove-output]
show(pd.DataFrame({"value": ["2"]}), "Not shown.")
```
"""


def read(csv: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(csv), dtype=str, keep_default_na=False, index_col=0)


def output(value: object) -> tuple[dict, dict]:
    return DisplayFormatter().format(value)


def test_a_table_brings_itself_along_as_csv_that_reads_back_equal():
    data, metadata = output(show(TWO_LEVELS, "Caption & all"))
    assert {"text/html", MIME} <= set(data) and metadata[MIME] == {"caption": "Caption & all"}
    assert "&lt;b&gt;" in data["text/html"], "the page's table is as it was"
    plain = ["laptop: a, b", "laptop: n", "paper"]
    pd.testing.assert_frame_equal(read(data[MIME]), TWO_LEVELS.set_axis(plain, axis="columns"))


def test_a_table_of_claims_has_no_numbers_of_rows_and_one_without_headings_gets_plain_ones():
    table = pd.DataFrame({"claim": ["x < 1"], "verdict": ["✓ holds"]})
    csv = output(scoreboard.styled(table, "Claims."))[0][MIME]
    assert csv == "claim,verdict\nx < 1,✓ holds\n"
    assert to_csv(pd.DataFrame({"": ["1"]}, index=["a"])) == "row,value\na,1\n"
    labels = pd.MultiIndex.from_product([["a"], ["b", "c"]], names=["p", None])
    assert to_csv(pd.DataFrame({"x": [1, 2]}, index=labels)) == "p,row,x\na,b,1\na,c,2\n", "in each row"


class Book:
    """One chapter and one page of text, executed once for the module."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = Places(sources=root / "book", toc=root / "_toc.yml", output=root / "build")
        words = (
            "verdict",
            "measured",
            "statement",
            "dataset",
            "paper",
            "same",
            "quantity",
            "needed",
            "profile",
        )
        claim = {**dict.fromkeys(words, "of x"), "verdict": "holds here", "profile": "laptop", "n": "5"}
        self.claims = {"claims": {"x": claim}}
        shutil.copytree(BOOK / "_static", root / "book" / "_static")
        (root / "book" / "references.bib").write_text("")
        (root / "book" / "index.md").write_text(PAGE)
        self.text("See [it](https://example.org/a?b=1) and <https://example.org/c>.")
        self.places.toc.write_text("format: jb-book\nroot: index\nchapters:\n  - file: words\n")
        execute(["index"], places=self.places, workers=1)

    def text(self, words: str) -> None:
        (self.root / "book" / "words.md").write_text(f"# Words\n\n{words}\n")

    def stage(self, name: str, **options) -> Path:
        stage(self.root / name, self.claims, replace(self.places, **options))
        return self.root / name

    def build(self) -> Path:
        return build(self.claims, self.places).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        fork_kernels(patch)
        return Book(tmp_path_factory.mktemp("downloads"))


def test_each_output_has_its_files_below_it_and_the_page_its_own(made):
    staged = made.stage("staged")
    files = {path.name: path for path in (staged / downloads.FOLDER).iterdir()}
    table = "index-table-1-one-table-of-what-is-in-it.csv"
    assert set(files) == {"index.ipynb", "index.md", "words.md", table, "fig-line.svg", "fig-line.png"}
    assert read(files[table].read_text()).to_dict() == {"value": {"a": "1"}}
    assert files["fig-line.svg"].read_text().lstrip().startswith("<?xml")
    assert files["fig-line.png"].read_bytes().startswith(b"\x89PNG")
    cells = nbformat.read(staged / "index.ipynb", as_version=4).cells
    shown = [place for place, cell in enumerate(cells) if cell.get("outputs")]
    below = [cells[place + 1].source for place in shown]
    assert len(below) == 3 and all(":::{div} downloads" in text for text in below[:2])
    assert table in below[0] and "fig-line.svg" in below[1] and "fig-line.png" in below[1]
    assert "download" not in below[2], "what is not shown is not offered"
    assert "book/words.md <downloads/words.md>" in (staged / "words.md").read_text()


def test_the_notebook_to_take_away_is_as_executed_with_numbers_in_and_no_folder_of_the_machine(made):
    staged = made.stage("taken")
    text = (staged / downloads.FOLDER / "index.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert "Says holds here, $\\mathbf{{x}}$" in notebook.cells[0].source
    assert not any("admonition" in cell.source or "downloads" in cell.source for cell in notebook.cells)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum(MIME in out.get("data", {}) for out in outputs) == 2
    for kept in (text, (staged / "index.ipynb").read_text()):
        assert str(made.root) not in kept and '"papermill": {' not in kept


def test_an_answer_holds_what_the_ledger_says_and_the_pages_figure_which_stands_there_once(made):
    page = BeautifulSoup((made.build() / "index.html").read_text(), "html.parser")
    (answer,) = page.select(".answer")
    assert [one.get_text() for one in answer.select(".answer-question")] == ["Does it hold?"]
    assert "It holds here." in answer.get_text()
    assert [one.get_text() for one in answer.select("tbody th")] == ["of x"]
    assert len(page.select("figure")) == len(page.select("#fig-line")) == 1
    assert [one.get_text() for one in answer.select("#fig-line .caption-number")] == ["Fig. 1 "]
    assert [str(one["alt"])[:16] for one in answer.select("#fig-line img")] == ["A line that rise"]
    (says,) = page.select(".paper-says")
    assert [one.get_text() for one in says.select("p")] == ["LPC, Section 2.2", "It holds."]
    assert not [
        cell for cell in page.select(".cell_output") if not cell.get_text(strip=True) and not cell.img
    ]


def test_the_built_pages_hold_every_file_and_links_are_listed_and_a_dead_one_fails(made):
    pages = made.build()
    for page in ("index", "words"):
        linked = re.findall(r'href="(_downloads/[^"]+)"', (pages / f"{page}.html").read_text())
        assert linked and all((pages / link).exists() for link in linked)
    listed = (made.root / "build" / external_links.FILE).read_text().splitlines()
    assert "https://example.org/a?b=1\twords" in listed and "https://example.org/c\twords" in listed
    before = (pages / "words.html").read_text()
    for words, told in (
        ("{download}`all <nothing.csv>`", "words.md:3: WARNING: download file not readable: .*nothing.csv"),
        ("[there](nowhere.md)", r"words.md:3: WARNING: .*nowhere\.md"),
    ):
        made.text(words)
        with pytest.raises(BuildError, match=told):
            made.build()
    assert (pages / "words.html").read_text() == before


def test_a_repository_makes_the_source_a_link(made, tmp_path):
    config = tmp_path / "_config.yml"
    config.write_text("repository: {url: https://example.org/us/book/, branch: trunk}\n")
    staged = made.stage("linked", config=config)
    assert "(https://example.org/us/book/blob/trunk/book/index.md)" in (staged / "index.ipynb").read_text()
    assert downloads.repository({}) == downloads.repository({"repository": None}) == ""


def test_pages_that_are_not_there_are_named_with_what_makes_them(made, tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text("format: jb-book\nroot: index\nchapters:\n  - file: wrods\n")
    with pytest.raises(
        BuildError, match=r"page wrods is in the table of contents, but .*book has no wrods\.md"
    ):
        made.stage("missing", toc=toc)
    told = (
        r"index has not been executed: .*elsewhere/notebooks has no index\.ipynb "
        r".*-m experiments chapters index$"
    )
    with pytest.raises(BuildError, match=told):
        made.stage("unexecuted", output=tmp_path / "elsewhere")


def test_reference_pages_stand_below_the_api_in_the_staged_contents(made, tmp_path, monkeypatch):
    (made.root / "book" / "api.md").write_text("# API\n")
    toc = tmp_path / "_toc.yml"
    toc.write_text("format: jb-book\nroot: index\nparts:\n- caption: x\n  chapters:\n  - file: api\n")
    monkeypatch.setattr("experiments.publishing.api.api_pages.write", lambda target: ["api-a", "api-b"])
    staged = made.stage("referenced", toc=toc)
    (entry,) = yaml.safe_load((staged / "_toc.yml").read_text())["parts"][0]["chapters"]
    names = ("api-a", "api-b", "api-experiments")
    assert entry == {"file": "api", "sections": [{"file": name} for name in names]}
    assert (staged / "api-experiments.md").exists()


def test_the_runs_behind_a_page_are_one_tidy_file_a_profile(made, tmp_path):
    specs = ablation.declared("smoke", seeds=1, only=("IB",))
    execute_all(specs, ablation.existing("smoke", store=tmp_path / "runs").store, workers=1, progress=False)
    values = {"profile": "smoke", "seeds": 1, "store": str(tmp_path / "runs")}
    files = downloads.Downloads(tmp_path, made.places, {})
    notebook = nbformat.v4.new_notebook()
    links = files.page("index", notebook, {"parameters": values, "needs": ["ablation", "gammas"]})
    told = links[-1]
    assert "{download}`smoke 1 seeds <downloads/runs-smoke-1-seeds.csv>`" in told
    assert "smoke-gammas 1 seeds (none in the store)" in told, "what is missing is said"
    table = pd.read_csv(tmp_path / downloads.FOLDER / "runs-smoke-1-seeds.csv")
    assert table["architecture"].tolist() == ["IB"] and table["status"].tolist() == ["finished"]
    assert files.page("words", notebook, {"parameters": {"seed": 0}, "needs": []})[:1] != links[:1]


def test_the_lines_of_the_box_work_when_they_are_pasted(tmp_path):
    name = "own-latents"
    box = run_box({"chapter": name, "parameters": {"seed": 0}})
    ours, papermill = re.findall(r"```sh\n(.*?)```", box, flags=re.DOTALL)
    assert ours == f".venv/bin/python -m experiments chapters {name} -p seed 0\n"
    done = warm.shell(papermill.replace("build", str(tmp_path / "build")), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    made = nbformat.read(tmp_path / "build" / f"{name}-executed.ipynb", as_version=4)
    assert made.metadata["papermill"]["parameters"] == {"seed": 0}


def test_odd_values_are_written_so_that_both_lines_read_them_back():
    values = {"word": "1", "many": [1, 2], "text": "it's b", "none": None, "rate": 1e-5, "yes": True}
    box = run_box({"chapter": "x", "parameters": values})
    ours, papermill = re.findall(r"```sh\n(.*?)```", box, flags=re.DOTALL)
    words = shlex.split(ours)[5:]
    assert {key: parse(value) for key, value in zip(words[1::3], words[2::3], strict=True)} == values
    words = shlex.split(papermill.splitlines()[-1])[3:]
    found = {}
    while words and words[0] == "-p":
        found[words[1]], words = _resolve_type(words[2]), words[3:]
    assert words[0] == "-y" and {**found, **yaml.safe_load(words[1])} == values
