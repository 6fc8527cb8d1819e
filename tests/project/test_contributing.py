"""CONTRIBUTING.md tells the truth: each of its changes fits the code as it is, and does what it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = ROOT.joinpath("CONTRIBUTING.md").read_text()
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
DIFFS = {
    title: re.findall(r"^(`{3,4})diff\n(.*?)^\1$", body, re.MULTILINE | re.DOTALL)
    for title, body in SECTION.findall(TEXT)
}
FILES = ("README.md", "pyproject.toml", "_toc.yml", "_config.yml")
TESTS = ("conftest.py", "typecheck.py", "test_datasets.py", "test_specs.py")


def apply(diff, project):
    command = ["git", "apply", "--verbose"]
    return subprocess.run(command, cwd=project, input=diff, capture_output=True, text=True, check=False)


@pytest.fixture
def changed(request, tmp_path):
    """The project with one section's change."""
    ((_, diff),) = DIFFS[request.param]
    for name in ("lpc", "experiments", "book"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for name in (*FILES, *(f"tests/{name}" for name in TESTS)):
        shutil.copy(ROOT / name, tmp_path / name)
    done = apply(diff, tmp_path)
    assert not done.returncode, f"{request.param!r} does not fit the code any more: {done.stderr}"
    return tmp_path


def run(project, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, capture_output=True, text=True, check=False
    )
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
    specs = tmp_path / "lpc" / "specs.py"
    specs.write_text(specs.read_text().replace('"NonLinIB": Variant(', '"NonlinearIB": Variant('))
    done = apply(diff, tmp_path)
    assert done.returncode and "patch failed: lpc/specs.py" in done.stderr


@pytest.mark.parametrize("changed", ["Add a metric"], indirect=True)
def test_the_metric(changed):
    assert "2 passed" in pytest_in(changed, "tests/test_participation.py")
    lint_imports(changed)
    assert "| `lpc/evaluation/participation.py` |" in (changed / "README.md").read_text()
    module = "experiments.publishing.api_pages"
    code = f"from {module} import TASKS; print('evaluation.participation' in TASKS['Collapse'])"
    assert run(changed, "-c", code) == "True\n"


@pytest.mark.parametrize("changed", ["Add a chapter"], indirect=True)
def test_the_chapter(changed):
    command = re.findall(r"`\.venv/bin/python (-m experiments chapters .*?)`", TEXT)
    assert len(command) == 1
    run(changed, *command[0].split(), "-p", "seeds", "1")
    notebook = changed.joinpath("build", "notebooks", "narrow.ipynb").read_text()
    assert "NarrowIB" in notebook and "tr Sw / tr Sb of training latents" in notebook
    code = (
        "from experiments import chapters, claims; print('narrow' in chapters.chapter_names());"
        "print([(c.metric, c.chapter, c.prose) for c in claims.read() if c.id == 'narrow_tight'])"
    )
    assert run(changed, "-c", code) == "True\n[('trace_ratio', 'narrow', None)]\n"
