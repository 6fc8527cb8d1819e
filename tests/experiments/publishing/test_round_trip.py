"""Pages survive being opened and saved as notebooks, in Jupyter or VS Code with jupytext."""

from pathlib import Path

import jupytext
import pytest

from experiments.paths import BOOK
from experiments.publishing.executing.chapter_sources import settings_of
from experiments.publishing.places import PLACES, Places


def saved(path: Path, folder: Path) -> Path:
    """Open a page as a notebook and save it, in the format that jupytext finds for it."""
    notebook = jupytext.read(path)
    target = folder / path.name
    jupytext.write(notebook, target, fmt=notebook.metadata["jupytext"]["text_representation"])
    return target


@pytest.mark.parametrize("name", PLACES.page_names())
def test_a_page_that_is_saved_as_a_notebook_is_the_same_page(name, tmp_path):
    page = BOOK / f"{name}.md"
    before, after = jupytext.read(page), jupytext.read(saved(page, tmp_path))
    assert [(c.cell_type, c.source, c.metadata) for c in before.cells] == [
        (c.cell_type, c.source, c.metadata) for c in after.cells
    ]
    kept = ("kernelspec", "lpc")
    assert [before.metadata.get(key) for key in kept] == [after.metadata.get(key) for key in kept]
    there = Places(sources=tmp_path)
    assert there.is_text(name) == PLACES.is_text(name)
    if not PLACES.is_text(name):
        assert settings_of(name, there) == settings_of(name)


def test_a_page_whose_header_does_not_keep_its_settings_loses_them(tmp_path):
    text = (BOOK / "deepfool.md").read_text()
    assert "  notebook_metadata_filter: lpc\n" in text
    page = tmp_path / "deepfool.md"
    page.write_text(text.replace("  notebook_metadata_filter: lpc\n", ""))
    (tmp_path / "saved").mkdir()
    saved(page, tmp_path / "saved")
    assert settings_of("deepfool", Places(sources=tmp_path / "saved")) != settings_of("deepfool")
