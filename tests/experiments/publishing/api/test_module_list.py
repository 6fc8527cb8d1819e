"""The list of modules is complete, and each has its own first sentence."""

import re

import pytest

from experiments.paths import EXPERIMENTS
from experiments.publishing.api import module_list


def test_every_module_and_package_is_on_the_page_with_what_it_says_of_itself():
    page = module_list.page()
    modules = {path.stem for path in EXPERIMENTS.rglob("*.py") if path.name != "__init__.py"}
    assert set(re.findall(r"^   \* - ``(\w+)``$", page, flags=re.MULTILINE)) == modules
    folders = {path.parent for path in EXPERIMENTS.rglob("__init__.py")} - {EXPERIMENTS}
    assert len(re.findall(r"^## `[\w.]+`$", page, flags=re.MULTILINE)) == len(folders)
    assert "   * - ``module_list``\n     - The page that lists the modules of the experiments" in page


def test_a_module_that_says_nothing_is_named(tmp_path):
    (tmp_path / "__init__.py").write_text('"""A package."""')
    (tmp_path / "silent.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"silent\.py has no docstring"):
        module_list.write(tmp_path, tmp_path)
