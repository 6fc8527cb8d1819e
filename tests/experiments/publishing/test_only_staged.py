from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from sphinx.errors import ExtensionError

from experiments.paths import CONFIG, ROOT
from experiments.publishing.build import staged_settings
from experiments.publishing.extensions import only_staged


def begun(folder):
    """Return Sphinx at the point where it sets up extensions, about to read a folder."""
    return cast(Any, SimpleNamespace(srcdir=str(folder)))


def test_a_build_from_the_root_says_what_to_type(tmp_path):
    (tmp_path / "link").symlink_to(ROOT)
    for root in (ROOT, tmp_path / "link"):
        with pytest.raises(ExtensionError, match="Type: make book"):
            only_staged.setup(begun(root))
    assert only_staged.setup(begun(tmp_path))["parallel_read_safe"]
    assert only_staged.setup(begun(ROOT / "book"))["parallel_read_safe"]


def test_the_roots_settings_name_the_extension_where_it_is_and_those_of_the_stage_do_not():
    named = yaml.safe_load(CONFIG.read_text())["sphinx"]["local_extensions"]
    assert named and all((ROOT / folder / f"{name}.py").is_file() for name, folder in named.items())
    assert only_staged.__name__.rpartition(".")[2] in named
    assert "local_extensions" not in staged_settings(CONFIG)["sphinx"]
