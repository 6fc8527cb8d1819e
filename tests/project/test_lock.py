"""The lock has every package of the project and every file's hash; its reasons have no stale names."""

import re
from pathlib import Path

from experiments.paths import read_toml

ROOT = Path(__file__).parents[2]
LOCK = ROOT.joinpath("constraints.txt").read_text()
PINNED = re.findall(
    r"^([a-z0-9.-]+)==\S+(?: ;.*?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", LOCK, re.M
)


def names(requirements):
    return {re.split(r"[^\w.-]", one.lower())[0].replace("_", "-") for one in requirements}


def test_every_line_of_the_lock_is_a_version_with_hashes():
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert len(lines) == sum(1 + hashes.count("\n") for _, hashes in PINNED) > 1000
    assert "://" not in LOCK


def test_every_dependency_is_locked():
    project = read_toml(ROOT / "pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    assert names(extras.pop("gpu")) == {"faiss-gpu"} and "faiss-gpu" not in LOCK  # never beside faiss-cpu
    asked = names([*project["dependencies"], *(one for extra in extras.values() for one in extra)])
    assert asked <= {name for name, _ in PINNED} and len(asked) > 40
    installed = re.findall(r"--editable '.\[([\w,]+)\]'", ROOT.joinpath("Makefile").read_text())
    chosen = {one for extra in installed[0].split(",") for one in extras[extra]}
    assert {one for extra in extras.values() for one in extra} == chosen, "the lock is of all extras"


def test_reasons_are_for_packages_of_the_lock():
    page = ROOT.joinpath("book", "decisions.md").read_text()
    _, _, table = page.partition("| package | last release |")
    rows = table.split("\n\n")[0].splitlines()[2:]
    told = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row) if "_" not in name}
    assert len(told) > 20 and told <= {name for name, _ in PINNED}
