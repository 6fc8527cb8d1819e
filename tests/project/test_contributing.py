"""CONTRIBUTING.md is true: each of its changes fits the present code and does what it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import warm

ROOT = Path(__file__).parents[2]
TEXT = ROOT.joinpath("CONTRIBUTING.md").read_text()
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
DIFFS = {
    title: re.findall(r"^(`{3,4})diff\n(.*?)^\1$", body, re.MULTILINE | re.DOTALL)
    for title, body in SECTION.findall(TEXT)
}
FOLDERS = ("lpc", "experiments", "book", "tests")
FILES = ("pyproject.toml", "_toc.yml", "_config.yml")


def apply(diff, project):
    command = ["git", "apply", "--verbose", "--unidiff-zero"]  # neighbours may change
    return subprocess.run(command, cwd=project, input=diff, capture_output=True, text=True, check=False)


@pytest.fixture
def changed(request, tmp_path):
    """Return a copy of the project with one section's change."""
    ((_, diff),) = DIFFS[request.param]
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    done = apply(diff, tmp_path)
    assert not done.returncode, f"{request.param!r} does not fit the code any more: {done.stderr}"
    return tmp_path


def run(project, *arguments):
    done = warm.run(*arguments, cwd=project)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def pytest_in(project, *arguments):
    return run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def lint_imports(project):
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=project, capture_output=True, text=True, check=False)
    assert "0 broken" in done.stdout, done.stdout


def test_every_section_has_its_change():
    assert list(DIFFS) == ["Add a metric", "Add an architecture", "Add a data set", "Add a chapter"]
    assert all(len(found) == 1 for found in DIFFS.values())


def test_a_change_that_does_not_fit_is_noticed(tmp_path):
    ((_, diff),) = DIFFS["Add an architecture"]
    for name in ("lpc", "experiments", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = tmp_path / "lpc" / "architectures.py"
    table.write_text(table.read_text().replace('"NonLinIB": Variant(', '"NonlinearIB": Variant('))
    done = apply(diff, tmp_path)
    assert done.returncode and "patch failed: lpc/architectures.py" in done.stderr


def test_a_metric_touches_three_files_and_one_line_of_one_that_is_there():
    ((_, diff),) = DIFFS["Add a metric"]
    assert len(re.findall(r"^\+\+\+ ", diff, re.MULTILINE)) == 3
    assert len(re.findall(r"^-(?!--)", diff, re.MULTILINE)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["Add a metric"], indirect=True)
def test_the_metric(changed):
    assert "2 passed" in pytest_in(changed, "tests/lpc/evaluation/test_participation.py")
    lint_imports(changed)
    code = (
        "from experiments.publishing.api.api_pages import finder; import lpc;"
        "print('participation_ratio`' in finder(), lpc.evaluation.participation.__name__)"
    )
    assert run(changed, "-c", code) == "True lpc.evaluation.participation\n"


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["Add an architecture"], indirect=True)
def test_the_architecture(changed):
    command = re.findall(r"`\.venv/bin/python (-m experiments train .*?)`", TEXT)
    assert len(command) == 1
    told = run(changed, *command[0].split(), "--seeds", "1", "--workers", "1")
    assert "smoke: 2 runs, 1 selected and measured, 0 failed" in told
    code = "from lpc.figures import LOOKS; from lpc import VARIANTS; print(set(VARIANTS) <= set(LOOKS))"
    paper = "from experiments.studies.profiles import PAPER_ARCHITECTURES as p; print(len(p))"
    assert run(changed, "-c", f"{code}; {paper}") == "True\n8\n"
    assert "1 passed" in pytest_in(changed, "tests/lpc/test_specs.py::test_variants_are_table_3")


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["Add a data set"], indirect=True)
def test_the_data_set(changed):
    told = pytest_in(changed, "tests/lpc/test_datasets.py", "-k", "kmnist")
    assert re.search(r"^\d+ passed", told[-60:], re.MULTILINE)
    code = (
        "from experiments.studies.image_shapes import SHAPES; from lpc.datasets import FILES, LOADERS;"
        "from lpc.architectures import WIDTHS;"
        "print(all('kmnist' in x for x in (SHAPES, FILES, LOADERS, WIDTHS)))"
    )
    assert run(changed, "-c", code) == "True\n"


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["Add a chapter"], indirect=True)
def test_the_chapter(changed):
    command = re.findall(r"`\.venv/bin/python (-m experiments chapters .*?)`", TEXT)
    assert len(command) == 1
    run(changed, *command[0].split(), "-p", "seeds", "1")
    notebook = changed.joinpath("build", "notebooks", "narrow.ipynb").read_text()
    assert "NarrowIB" in notebook and "tr Sw / tr Sb of training latents" in notebook
    code = (
        "from experiments.publishing.places import PLACES; from experiments.reporting import claims;"
        "print('narrow' in PLACES.chapter_names());"
        "print([(c.metric, c.chapter, c.prose) for c in claims.read() if c.id == 'narrow_tight'])"
    )
    assert run(changed, "-c", code) == "True\n[('trace_ratio', 'narrow', None)]\n"
