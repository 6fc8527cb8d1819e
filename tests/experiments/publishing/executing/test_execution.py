"""Executes a few small chapters for real."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner
from support import warm
from support.warm_forks import fork_workers
from support.warm_forks import warm_kernels as warm_kernels
from support.warm_pages import warm_pages as warm_pages

from experiments.__main__ import cli, main
from experiments.paths import BOOK, ROOT
from experiments.publishing.build import BuildError, build, stage
from experiments.publishing.checking.checks import CheckError
from experiments.publishing.executing import execution
from experiments.publishing.executing.chapter_sources import parse
from experiments.publishing.executing.execution import ChapterError, execute
from experiments.publishing.executing.staleness import fingerprint, is_current
from experiments.publishing.minify import PARTS_OF_MATHJAX
from experiments.publishing.places import PLACES, Places
from experiments.studies import ablation
from lpc.specs import run_key

pytestmark = pytest.mark.book

HEAD = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

{text}

```{{code-cell}} ipython3
:tags: [parameters]
number = 1
word = "one"
```

```{{code-cell}} ipython3
{code}
```
"""


class Project:
    """A folder of chapters with its own table of contents and outputs."""

    def __init__(self, root: Path) -> None:
        self.places = Places(sources=root / "book", toc=root / "_toc.yml", output=root / "build")
        self.sources, self.notebooks = self.places.sources, self.places.notebooks
        self.sources.mkdir()

    def write(self, name: str, code: str, text: str = "Text.") -> None:
        self.sources.joinpath(f"{name}.md").write_text(HEAD.format(title=name, text=text, code=code))
        names = sorted(path.stem for path in self.sources.glob("*.md") if path.stem != "index")
        files = "".join(f"  - file: {name}\n" for name in names)
        self.places.toc.write_text(
            "format: jb-book\nroot: index\n" + (f"chapters:\n{files}" if names else "")
        )

    def execute(self, *names: str, force: bool = False, workers: int = 1, **values: object) -> list[Path]:
        return execute(names or None, values, force=force, places=self.places, workers=workers)

    def output(self, name: str) -> str:
        notebook = nbformat.read(self.notebooks / f"{name}.ipynb", as_version=4)
        return "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))


@pytest.fixture
def cold(tmp_path):
    """A project whose kernels are programs, as for users who execute few chapters."""
    return Project(tmp_path)


@pytest.fixture
def project(tmp_path, warm_kernels):
    return Project(tmp_path)


def test_parameters_reach_the_chapter_and_what_is_current_is_kept(cold):
    project = cold
    project.write("index", "import sys\nprint(number + 1, word, sys.executable)")
    (path,) = project.execute("index", number=41)
    assert project.output("index").split() == ["42", "one", sys.executable]
    stamp = json.loads((project.notebooks / "index.json").read_text())
    assert stamp["parameters"] == {"number": 41, "word": "one"}
    text = json.dumps(stamp)
    assert str(project.sources) not in text
    assert os.uname().nodename not in text
    written = path.stat().st_mtime_ns
    project.execute("index", number=41)
    assert path.stat().st_mtime_ns == written
    project.execute("index", number=1)
    assert project.output("index").split()[0] == "2"


def test_a_cell_that_raises_is_named_and_the_previous_output_stays(project):
    project.write("index", "print(1 / number)")
    project.execute()
    assert project.output("index") == "1.0\n"
    with pytest.raises(ChapterError, match=r"chapter index, cell \d, beginning 'print\(1 / number\)': Zero"):
        project.execute(number=0)
    assert project.output("index") == "1.0\n"
    assert sorted(path.name for path in project.notebooks.iterdir()) == ["index.ipynb", "index.json"]


def test_a_chapter_edited_while_it_executes_is_not_current(project):
    project.write(
        "index", "open('PLACE', 'a').write('More text.')".replace("PLACE", str(project.sources / "index.md"))
    )
    project.execute()
    assert not is_current("index", {"number": 1, "word": "one"}, project.places)


def test_new_prose_and_captions_are_put_around_the_outputs_that_are_there(project, monkeypatch):
    project.write("index", ":tags: [hide-input]\nimport uuid\nprint(uuid.uuid4(), number)")
    project.execute(number=3)
    printed, stamp = project.output("index"), json.loads((project.notebooks / "index.json").read_text())
    executed = []
    monkeypatch.setattr(execution, "execute_one", lambda name, *_, **__: executed.append(name))
    code = "---\ntags: [hide-input]\nmystnb: {figure: {caption: New.}}\n---\nimport uuid\n"
    code += "print(uuid.uuid4(), number)"
    project.write("index", code, text="Other *words*.")
    assert not is_current("index", {"number": 3, "word": "one"}, project.places)
    project.execute(number=3)
    assert project.output("index") == printed and not executed
    cells = nbformat.read(project.notebooks / "index.ipynb", as_version=4).cells
    assert "Other *words*." in cells[0].source and cells[-1].metadata["mystnb"]["figure"]["caption"] == "New."
    assert [cell.metadata.get("tags") for cell in cells[1:3]] == [["parameters"], ["injected-parameters"]]
    changed = {"text", "notebook"}
    new = json.loads((project.notebooks / "index.json").read_text())
    assert {name for name in stamp if new[name] != stamp[name]} == changed
    assert is_current("index", {"number": 3, "word": "one"}, project.places)
    for other in (code.replace("number)", "word)"), code.replace("hide-input", "hide-cell")):
        project.write("index", other, text="Other *words*.")
        project.execute(number=3)
    project.write("index", code, text="Other *words*.")
    project.execute(number=4)
    project.execute(number=3, force=True)
    assert executed == ["index"] * 4 and project.output("index") == printed


def test_a_stamp_cut_short_is_not_current(project):
    project.write("index", "print(number)")
    project.execute()
    values = {"number": 1, "word": "one"}
    assert is_current("index", values, project.places)
    for damaged in (b'{"chapter": "in', b"", b"[]", b"null", b"{}", bytes(range(256)), b'"notebook"'):
        (project.notebooks / "index.json").write_bytes(damaged)
        assert not is_current("index", values, project.places)


def test_a_page_is_made_from_the_runs_it_declares_and_from_no_others(project, tmp_path):
    project.write("index", "print(number)")
    values = {"profile": "smoke", "seeds": 1, "store": str(tmp_path / "runs")}
    own = tmp_path / "runs" / "runs" / run_key(ablation.declared("smoke", seeds=1)[0])

    def after(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath("result.json").write_text("{}")
        return fingerprint("index", values, project.places)

    before = fingerprint("index", values, project.places)
    assert after(own.with_name("0" * 64)) == before
    assert after(own) != before


UNCHECKED = """import warnings
from pathlib import Path
from lpc.store.checksums import say_unchecked
say_unchecked(Path("store"), Path("store/result.json"))
warnings.warn("another warning")"""


def test_an_old_store_is_no_matter_of_the_page(project):
    project.write("index", UNCHECKED)
    project.execute()
    assert "another warning" in project.output("index") and "unchecked" not in project.output("index")


def test_kernels_do_not_depend_on_the_home_folder(cold, tmp_path, monkeypatch):
    project = cold
    monkeypatch.setenv("HOME", str(tmp_path / "missing" / "home"))
    (tmp_path / "missing").write_text("a file, so that nobody can make the folder")
    project.write(
        "index", "import matplotlib, os\nprint(os.environ['MPLCONFIGDIR'] == matplotlib.get_configdir())"
    )
    project.execute()
    assert project.output("index") == "True\n"


STAMPED = """import os, time
from pathlib import Path
began, peer = time.monotonic(), Path("FOLDER") / "PEER"
(Path("FOLDER") / "OWN").touch()
while not peer.exists() and time.monotonic() < began + 500:
    time.sleep(0.05)
print(began, time.monotonic(), os.environ.get("OMP_NUM_THREADS"), peer.exists())"""


@pytest.mark.parametrize("workers", [1, 3])
def test_a_chapter_that_measures_time_runs_alone_after_the_others_and_with_all_threads(
    project, workers, monkeypatch, tmp_path
):
    asked = str((os.cpu_count() or 1) + 1)  # what the user says; the others get their share of the cores
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    fork_workers(monkeypatch, execution)
    peers = {"index": "other", "other": "index"} if workers > 1 else {}  # who waits for whom
    for name in ("index", "atimed", "other", "timed"):
        code = STAMPED.replace("FOLDER", str(tmp_path)).replace("OWN", name)
        project.write(name, code.replace('"PEER"', repr(peers.get(name, ".."))))
    for name in ("atimed", "timed"):
        path = project.sources / f"{name}.md"
        path.write_text(path.read_text().replace("kernelspec:", "lpc:\n  alone: true\nkernelspec:"))
    project.execute(workers=workers)
    began, ended, threads, met = {}, {}, {}, {}
    for name in ("index", "other", "atimed", "timed"):
        first, last, threads[name], met[name] = project.output(name).split()
        began[name], ended[name] = float(first), float(last)
    assert set(met.values()) == {"True"}, "the others do run beside each other"
    assert began["atimed"] > max(ended["index"], ended["other"])
    assert began["timed"] > ended["atimed"]
    assert threads["atimed"] == threads["timed"] == asked
    assert threads["index"] == threads["other"] != asked


def test_a_failing_chapter_does_not_keep_a_timed_one_from_running(project, monkeypatch):
    fork_workers(monkeypatch, execution)
    project.write("index", "print(1 / 0)")
    project.write("timed", "print('timed')")
    path = project.sources / "timed.md"
    path.write_text(path.read_text().replace("kernelspec:", "lpc: {alone: true}\nkernelspec:"))
    with pytest.raises(ChapterError, match="chapter index"):
        project.execute(workers=2)
    assert project.output("timed") == "timed\n"


@pytest.mark.parametrize("wrong", ["{alnoe: true}", "{alone: yes please}", "alone"])
def test_a_header_that_is_not_understood_is_refused_before_anything_runs(project, wrong):
    project.write("index", "print(number)")
    path = project.sources / "index.md"
    path.write_text(path.read_text().replace("kernelspec:", f"lpc: {wrong}\nkernelspec:"))
    with pytest.raises(ValueError, match=r"chapter index has lpc: .* expected alone: true or false"):
        project.execute()
    assert not project.notebooks.exists()


@pytest.mark.parametrize("failures", [1, 3])
def test_a_kernel_that_does_not_start_is_started_again(project, monkeypatch, failures):
    project.write("index", "print(number)")
    calls, real = [], execution.papermill.execute_notebook

    def flaky(*arguments, **options):
        calls.append(arguments)
        if len(calls) <= failures:
            raise RuntimeError("Kernel didn't respond in 60 seconds")
        return real(*arguments, **options)

    monkeypatch.setattr(execution.papermill, "execute_notebook", flaky)
    if failures == 1:
        project.execute("index", number=5)
        assert project.output("index").strip() == "5" and len(calls) == 2
    else:
        with pytest.raises(ChapterError, match=r"its kernel died .*didn't respond.*three times"):
            project.execute("index", number=5)
        assert len(calls) == 3


def test_a_dead_kernel_is_named_and_other_chapters_go_on(project, monkeypatch):
    fork_workers(monkeypatch, execution)
    project.write("index", "print('alive')")
    project.write("zdead", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(ChapterError, match=r"chapter zdead: its kernel died"):
        project.execute(workers=2)
    assert project.output("index") == "alive\n"


INTERRUPTED = """
import signal, sys
from pathlib import Path
from experiments.publishing.executing import execution, forked_kernels
from experiments.publishing.executing.execution import execute
from experiments.publishing.places import Places
from lpc.computing.stopping import exit_status, interrupt

forked_kernels.LIBRARIES = ("ipykernel.kernelapp",)  # for the processes below too: they import this file

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    root, execution.FORKS_PAY = Path(sys.argv[1]), int(sys.argv[3])
    places = Places(sources=root / "book", toc=root / "_toc.yml", output=root / "build")
    try:
        execute(None, {}, places=places, workers=int(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(exit_status())
"""


@pytest.mark.parametrize(("workers", "pay"), [(1, 3), (2, 3), (2, 1)], ids=["one", "two", "two that fork"])
def test_a_signal_ends_chapters_and_their_kernels_and_leaves_nothing(project, tmp_path, workers, pay):
    wait = "import os, time\nPath('FOLDER', f'kernel-{os.getpid()}').touch()\ntime.sleep(500)"
    for name in ("index", "other", "third"):
        project.write(name, "from pathlib import Path\n" + wait.replace("FOLDER", str(tmp_path)))
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with warm.begin(script, tmp_path, workers, pay, cwd=ROOT, env=environment) as process:
        while len(list(tmp_path.glob("kernel-*"))) < workers:
            assert process.poll() is None, process.err
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait()
        said = process.err
    assert process.returncode == 143, said
    assert "Traceback" not in said and "never retrieved" not in said
    kernels = [int(path.name.removeprefix("kernel-")) for path in tmp_path.glob("kernel-*")]
    assert len(kernels) == workers, "the third chapter is not begun"
    for pid in kernels:
        until = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists(), "a kernel lives on"
    assert list(project.notebooks.iterdir()) == []


@pytest.mark.slow
def test_forked_kernels_share_what_is_loaded_and_nothing_else(cold):
    project = cold
    told = "import os, sys\nprint('torch' in sys.modules, os.getpgid(0) == os.getpid(), 'left' in globals())"
    drawn = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    project.write("zdead", "import os\nos.kill(os.getpid(), 9)")
    burnt = "while sum(os.times()[:2]) < 0.5: pass"
    project.write("index", f"{told}\nprint(number, os.environ['IPYTHONDIR'])\nleft = 1\n{drawn}\n{burnt}")
    values, folders = {"number": 1, "word": "one"}, set()
    for number in (3, 4):
        values["number"] = number
        execution.execute_one("index", values, project.places, progress=False, threads=1, forked=True)
        *said, folder = project.output("index").split()
        assert said == ["True", "True", "False", str(number)]
        folders.add(folder)
        assert json.loads((project.notebooks / "index.json").read_text())["cpu_seconds"] >= 0.5
        cells = nbformat.read(project.notebooks / "index.ipynb", as_version=4).cells
        assert ["image/png" in out.data for out in cells[-1].outputs if "data" in out] == [True], "one figure"
    assert len(folders) == 2
    with pytest.raises(ChapterError, match=r"chapter zdead: its kernel died"):
        execution.execute_one("zdead", values, project.places, progress=False, threads=1, forked=True)
    project.execute("index", number=5)
    assert project.output("index").split()[:4] == ["False", "True", "False", "5"], (
        "another kernel has nothing"
    )


@pytest.mark.parametrize(
    ("names", "values", "words"),
    [
        (["indx"], {}, "unknown chapter 'indx'. Did you mean index"),
        (["index"], {"numbr": 2}, "unknown parameter of chapter index: 'numbr'. Did you mean number"),
        ([], {"wrd": 2}, "unknown parameter 'wrd'. Did you mean word"),
    ],
)
def test_unknown_chapters_and_parameters_are_named_before_anything_runs(project, names, values, words):
    project.write("index", "print(number)")
    with pytest.raises(ValueError, match=words):
        project.execute(*names, **values)
    assert not project.notebooks.exists()


def test_a_chapter_needs_one_parameters_cell(project):
    project.write("index", "print(number)")
    path = project.sources / "index.md"
    path.write_text(path.read_text().replace(":tags: [parameters]\n", ""))
    with pytest.raises(ValueError, match="chapter index has 0 cells tagged parameters"):
        project.execute()


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("1e-3", 1e-3), ("None", None), ("True", True), ("smoke", "smoke"), ("{{1}}", "{{1}}")],
)
def test_parameters_are_read_as_python(text, value):
    assert parse(text) == value


def test_stage_adds_a_foot_and_substitutions_and_sets_the_plumbing_aside(project, tmp_path):
    imports = "import math\n```\n\n```{code-cell} ipython3\nprint(number)"
    project.write("index", imports)
    path = project.sources / "index.md"
    text = path.read_text().replace('word = "one"', 'profile = "smoke"')
    path.write_text(text.replace("import math", ":tags: [hide-input]\nimport math"))
    project.sources.joinpath("references.bib").write_text("")
    project.execute(profile="smoke")
    stage(tmp_path / "stage", {"claims": {"x": {"verdict": "holds here"}}}, project.places)
    cells = nbformat.read(tmp_path / "stage" / "index.ipynb", as_version=4).cells
    assert "mean nothing" in cells[1].source and "{warning}" in cells[1].source
    assert "python -m experiments chapters index -p number 1 -p profile smoke\n" in cells[-1].source
    assert all(
        f"{word}" in cells[-1].source for word in ("profile *smoke*", "downloads/index.ipynb", "commit")
    )
    kept = [cell.source for cell in cells if cell.cell_type == "code"]
    assert kept[0] == "print(number)" and kept[2] == "import math" and "smoke" in kept[1]
    tags = [cell.metadata.get("tags", []) for cell in cells]
    assert not any("parameters" in own for own in tags)
    assert [own for own in tags if "plumbing" in own] == [
        ["injected-parameters", "hide-input", "plumbing"],
        ["hide-input", "plumbing"],
    ]
    assert "holds here" in (tmp_path / "stage" / "_config.yml").read_text()
    assert (tmp_path / "stage" / "references.bib").exists()


def test_a_chapter_that_was_not_executed_is_named(project, tmp_path):
    project.write("index", "print(number)")
    with pytest.raises(BuildError, match="chapter index has not been executed"):
        stage(tmp_path / "stage", {}, project.places)


@pytest.mark.usefixtures("warm_pages")
def test_the_build_is_strict_and_keeps_the_previous_pages_and_those_that_nothing_changes(project, tmp_path):
    shutil.copytree(BOOK / "_static", project.sources / "_static")
    (project.sources / "references.bib").write_text("")
    project.write("index", "print(number)", text="{{ claims.x.verdict }} and $x^2$")
    project.execute()
    first = build({"claims": {"x": {"verdict": "holds here"}}}, project.places)
    assert first == tmp_path / "build" / "html" / "index.html"
    page = first.read_text()
    assert "holds here" in page
    scripts = re.findall(r'<script[^>]* src="([^"?]*)', page)
    assert PARTS_OF_MATHJAX in scripts, "formulas need no network"
    assert all((first.parent / script).exists() for script in scripts)
    made = first.stat().st_ino
    assert build({"claims": {"x": {"verdict": "holds here"}}}, project.places) == first
    assert first.stat().st_ino == made, "nothing has changed: the pages are left as they are"
    project.write("index", "print(number)", text="{doc}`nowhere` and {{ claims.y.verdict }}")
    project.execute()
    with pytest.raises(
        CheckError, match=r"index\.md, line 14: .*claims\.y\.verdict .*: no claim has this id"
    ):
        build({"claims": {"x": {"verdict": "holds here"}}}, project.places)
    assert first.read_text() == page
    project.write("index", "print(number)", text="{doc}`nowhere`, {ref}`fig-nowhere` and [there](gone.md)")
    project.execute()
    with pytest.raises(BuildError, match=r"index\.ipynb, cell 0: .*unknown document: 'nowhere'") as caught:
        build({}, project.places)
    for link in ("gone.md", "fig-nowhere"):
        assert re.search(rf"index\.ipynb, cell 0: WARNING: .*{link}", str(caught.value)), "of every dead link"
    assert "\x1b" not in str(caught.value)
    assert first.read_text() == page
    kept = ["html", "links.txt", "notebooks", "sphinx", "sphinx.lock"]
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == kept


@pytest.mark.parametrize("verb", ["train", "status", "chapters", "book", "export"])
def test_every_verb_has_help_with_an_example(verb):
    result = CliRunner().invoke(cli, [verb, "--help"])
    assert result.exit_code == 0
    assert f"python -m experiments {verb}" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--profile", "labtop"], "unknown profile 'labtop'. Did you mean laptop"),
        (["status", "--only", "NoPenn"], "unknown architecture 'NoPenn'. Did you mean NoPen"),
        (["book", "--profile", "smok"], "unknown profile 'smok'. Did you mean smoke"),
        (["chapters", "colapse"], "unknown chapter 'colapse'. Did you mean collapse"),
        (["chapters", "collapse", "-p", "profil", "smoke"], "'profil'. Did you mean profile"),
        (["export", "--profile", "smoke", "--store", "nowhere", "--output", "x.csv"], "train it first"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message_and_exit_status_1(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error
    assert len(error.splitlines()) == 1


def test_a_mistyped_verb_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert "trian" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "words"),
    [(28, "the disk is full; finished work is kept"), (13, "no permission to write there")],
)
def test_a_full_disk_and_a_store_without_permission_are_said_plainly(code, words, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code), "runs")

    monkeypatch.setattr("experiments.studies.study.Study.trained", refuse)
    with pytest.raises(SystemExit) as caught:
        main(["train", "--profile", "smoke"])
    assert caught.value.code == 1
    assert words in capsys.readouterr().err


def test_train_status_and_export_on_a_small_store(tmp_path, capsys):
    store = ["--store", str(tmp_path / "runs"), "--profile", "smoke", "--seeds", "1", "--only", "IB"]

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        return capsys.readouterr().out

    assert "0 of 2 runs finished" in call("status", *store)
    assert "2 runs, 1 selected and measured, 0 failed" in call("train", *store)
    assert "2 of 2 runs finished" in call("status", *store)
    for kind in ("csv", "parquet"):
        path = tmp_path / f"results.{kind}"
        assert "2 rows" in call("export", *store, "--format", kind, "--output", str(path))
        table = pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
        assert table["architecture"].tolist() == ["IB", "IB"]
        assert table["test_accuracy"].notna().sum() == 1
    assert "8 rows" not in call("export", *store, "--epochs", "--output", str(tmp_path / "epochs.csv"))


def test_every_chapter_of_the_book_is_well_formed():
    names = PLACES.page_names()
    assert names[0] == "index"
    assert sorted(names) == sorted(path.stem for path in BOOK.glob("*.md"))


def test_a_cell_that_hangs_fails_by_name_and_leaves_the_good_page(project):
    project.write("index", "print(number)")
    project.execute()
    project.write("index", "import time\ntime.sleep(600)")
    path = project.sources / "index.md"
    path.write_text(path.read_text().replace("kernelspec:", "lpc: {minutes: 0.15}\nkernelspec:"))
    told = r"chapter index, cell beginning 'import time': .* longer than its limit of 0\.15 minutes"
    with pytest.raises(ChapterError, match=told):
        project.execute()
    assert project.output("index") == "1\n"
    assert sorted(one.name for one in project.notebooks.iterdir()) == ["index.ipynb", "index.json"]
