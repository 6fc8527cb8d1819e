"""The wheel is complete: unpacked by itself, away from the checkout, every module in it can be imported."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import warm

ROOT = Path(__file__).parents[2]
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
IMPORTS = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
import lpc
assert lpc.__file__.startswith(sys.argv[1]), lpc.__file__
assert lpc.squared_norm.__module__ == "lpc.losses"
failed = {}
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
ours = (module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "lpc")
foreign = [path for path in ours if not path.startswith(sys.argv[1])]
print(json.dumps([failed, foreign]))
"""


def build(project: Path, target: Path) -> zipfile.ZipFile:
    """Build a project's wheel with the backend that is installed, offline."""
    subprocess.run([sys.executable, "-c", BUILD, target], cwd=project, capture_output=True, check=True)
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def project(folder: Path) -> Path:
    """Copy what the wheel is built from into a folder: building leaves files behind, and uses old ones."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "lpc", folder / "lpc", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def modules(folder: Path) -> list[str]:
    """Return the names of all modules of the library in a folder."""
    parts = (path.relative_to(folder).with_suffix("").parts for path in folder.glob("lpc/**/*.py"))
    return sorted(".".join(part for part in names if part != "__init__") for names in parts)


@pytest.mark.slow
def test_every_module_is_in_the_wheel_and_can_be_imported_from_it(tmp_path):
    (tmp_path / "project").mkdir()
    build(project(tmp_path / "project"), tmp_path).extractall(tmp_path / "alone")
    names = modules(tmp_path / "alone")
    assert names == modules(ROOT) and (tmp_path / "alone" / "lpc" / "py.typed").exists()
    done = warm.run("-c", IMPORTS, tmp_path / "alone", *names, cwd=tmp_path)  # which has no module of ours
    assert done.returncode == 0, done.stderr
    failed, foreign = json.loads(done.stdout)
    assert not foreign
    lacking = {name for name, why in failed.items() if "extra" not in why}  # an extra names itself
    assert not lacking, failed


def test_a_folder_that_setuptools_leaves_out_is_noticed(tmp_path):
    """Negative control: a list of packages that somebody forgot to extend."""
    (tmp_path / "project").mkdir()
    path = project(tmp_path / "project") / "pyproject.toml"
    text = path.read_text()
    path.write_text(text.replace('include = ["lpc*"]', 'include = ["lpc", "lpc.evaluation"]'))
    assert path.read_text() != text
    build(path.parent, tmp_path).extractall(tmp_path / "alone")
    left_out = set(modules(ROOT)) - set(modules(tmp_path / "alone"))
    assert {"lpc.store", "lpc.store.run_store"} <= left_out and "lpc.losses" not in left_out
