"""An unchanged book is recognised as such without being read in full."""

import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from experiments.__main__ import main
from experiments.publishing import plan, unchanged
from experiments.publishing.places import Places
from experiments.publishing.unchanged import Book


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged, "ROOT", tmp_path)
    output = tmp_path / "build"
    files = (
        *("lpc/losses.py", "experiments/results/runs.csv", "book/index.md", "_toc.yml", "_config.yml"),
        *("runs/runs/key/result.json", "build/notebooks/index.ipynb", "build/html/index.html"),
    )
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    places = Places(tmp_path / "book", tmp_path / "_toc.yml", tmp_path / "_config.yml", output)
    made = Book("smoke", "laptop", None, "runs", places)
    assert not made.is_unchanged(), "never built"
    made.remember(made.sources(), made.runs())
    return made


def test_a_book_is_unchanged_until_anything_of_it_changes(book, tmp_path, monkeypatch):
    for name in ("lpc/__pycache__/losses.pyc", "experiments/results/.recording-1/runs.csv", "elsewhere.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("not of the book")
    assert book.is_unchanged()
    for name in (
        *("lpc/losses.py", "experiments/results/runs.csv", "book/index.md", "_toc.yml", "_config.yml"),
        *("runs/runs/key/result.json", "build/notebooks/index.ipynb", "build/html/index.html"),
    ):
        path = tmp_path / name
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_text("other")  # as long as the first, and with its time
        os.utime(path, ns=times)
        assert not book.is_unchanged(), name
        book.remember(book.sources(), book.runs())
        assert book.is_unchanged()
        shutil.move(path, tmp_path / "aside")
        assert not book.is_unchanged(), name
        shutil.move(tmp_path / "aside", path)
        book.remember(book.sources(), book.runs())
    (tmp_path / "runs" / "runs" / "another").mkdir()
    (tmp_path / "runs" / "runs" / "another" / "accuracy.probe").touch()
    assert not book.is_unchanged()


def test_another_book_other_versions_and_damaged_notes_are_looked_at_in_full(book, tmp_path, monkeypatch):
    for other in ({"profile": "laptop"}, {"beside": "smoke"}, {"seeds": 1}, {"store": "others"}):
        assert not book._replace(**other).is_unchanged()
    packages = tmp_path / "packages"
    (packages / "torch-99.dist-info").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(packages)])
        assert not book.is_unchanged()
    assert book.is_unchanged()
    note = book.places.output / unchanged.FILE
    for damaged in (b"", b"[]", b"null", b'{"inputs": 1}', bytes(range(256)), note.read_bytes()[:40]):
        note.write_bytes(damaged)
        assert not book.is_unchanged()


@pytest.mark.parametrize("unchanged_", [True, False])
def test_the_verb_makes_only_what_has_changed_or_is_forced(unchanged_, monkeypatch, capsys, tmp_path):
    made = []
    monkeypatch.setattr(Book, "is_unchanged", lambda self: unchanged_)
    monkeypatch.setattr(plan, "make", lambda profile, **given: made.append(given["force"]) or tmp_path / "x")
    monkeypatch.setattr("experiments.studies.study.Study.trained", lambda *_, **__: None)
    for more in ([], ["--force"]):
        with pytest.raises(SystemExit) as ended:
            main(["book", "--profile", "smoke", "--store", str(tmp_path / "runs"), *more])
        assert ended.value.code == 0
    assert made == ([True] if unchanged_ else [False, True])
    said = capsys.readouterr()
    assert ("nothing that this book depends on has changed" in said.err) == unchanged_
    assert ("build/html/index.html" in said.out) == unchanged_


@pytest.fixture
def make(book, monkeypatch):
    """Make the book; only the order of steps is real: plans, training, chapters and pages are pretended."""
    result = unchanged.ROOT / "runs" / "runs" / "key" / "result.json"

    def write(path):
        return lambda *_, **__: path.write_text(str(os.urandom(8)))

    steps = {"train": write(result), "execute_each": write(book.places.notebooks / "index.ipynb")}
    steps |= {name: lambda *_, **__: [] for name in ("plan", "substitutions", "is_current")}
    for name, step in {**steps, "build": lambda *_, **__: book.first_page}.items():
        monkeypatch.setattr(plan, name, step)
    monkeypatch.setattr(plan.preview, "is_wanted", lambda *_: False)

    def made(**others):
        with monkeypatch.context() as patch:
            for name, step in others.items():
                patch.setattr(plan, name, step)
            plan.make("smoke", beside="laptop", store="runs", places=book.places)
        return book.is_unchanged()

    return SimpleNamespace(book=made, write=write, result=result)


def test_a_book_is_remembered_with_the_runs_that_its_own_chapters_trained(make):
    assert make.book()
    assert make.book(execute_each=make.write(make.result)), "a chapter trained a network"
    assert make.book(build=make.write(make.result)), "another program trained one, of which nothing is shown"


def test_a_book_is_not_remembered_whose_runs_say_something_else_by_now(make):
    assert make.book()
    chapter = SimpleNamespace(chapter="index", values={}, profile=None, why="")
    assert not make.book(
        execute_each=make.write(make.result), plan=lambda *_, **__: [chapter], is_current=lambda *_: False
    )
    assert make.book(plan=lambda *_, **__: [chapter], is_current=lambda *_: True)
    for name in ("plan", "substitutions"):
        said = iter([[], [chapter]])
        later = {name: lambda *_, said=said, **__: next(said)}
        assert not make.book(execute_each=make.write(make.result), **later), name


def test_a_book_is_not_remembered_whose_sources_were_edited_while_it_was_made(make, book):
    assert make.book()
    note = book.places.output / unchanged.FILE
    note.unlink()
    assert not make.book(build=make.write(book.places.sources / "index.md")) and not note.exists()
    for step in ("train", "substitutions", "execute_each", "build"):
        assert not make.book(**{step: make.write(unchanged.ROOT / "lpc" / "losses.py")}), step
        assert make.book()
