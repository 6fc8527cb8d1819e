from pathlib import Path

import pandas as pd
import pytest

from experiments.reporting import recorded_tables
from experiments.reporting.recorded_tables import Recorded, file_system, record, recorded
from lpc.store.reading import Damaged

TABLE = pd.DataFrame({"seconds": ["1.00", "2.50"], "runs": [3, 4]}, index=pd.Index(["a", "b"], name="what"))


@pytest.fixture
def place(tmp_path):
    return record("speed", TABLE, folder=tmp_path, results=tmp_path / "results", seed=7)


def test_a_table_comes_back_as_it_was_written_with_where_it_comes_from(place, tmp_path):
    found = recorded("speed", results=tmp_path / "results")
    assert found.table.index.tolist() == ["a", "b"] and found.table.index.name == "what"
    assert found.table["seconds"].tolist() == ["1.00", "2.50"] and found.table["runs"].tolist() == ["3", "4"]
    assert found.about["seed"] == 7 and file_system(tmp_path) in found.about["machine"]
    assert place == tmp_path / "results" / "speed"


def test_the_origin_names_the_commit_and_whether_the_code_differed():
    about = {"date": "2026-01-02", "commit": "0123456789", "dirty": False, "machine": "2 cores"}
    assert Recorded(TABLE, about).origin == "recorded on 2026-01-02, commit 0123456, 2 cores"
    assert "commit 0123456 and changes," in Recorded(TABLE, {**about, "dirty": True}).origin
    assert "commit unknown," in Recorded(TABLE, {**about, "commit": None, "dirty": None}).origin


def test_a_damaged_record_is_one_line_with_its_path(place, tmp_path):
    for name in ("table.csv", "provenance.json"):
        whole = (place / name).read_bytes()
        for content in (b"", b"\x80\x81"):
            (place / name).write_bytes(content)
            with pytest.raises(
                Damaged, match=f"^{place / name} .*; restore the committed file, or record it"
            ):
                recorded("speed", results=tmp_path / "results")
        (place / name).unlink()
        with pytest.raises(Damaged, match=f"^{place / name} does not exist"):
            recorded("speed", results=tmp_path / "results")
        (place / name).write_bytes(whole)


def test_the_file_system_is_that_of_the_nearest_mount(monkeypatch):
    mounts = "root / ext4 rw 0 0\nmem /memory tmpfs rw 0 0\nfar /memory/far nfs4 rw 0 0\n"
    monkeypatch.setattr(recorded_tables.Path, "read_text", lambda *_, **__: mounts)
    kinds = {"/memory/far/a": "nfs4", "/memory/a": "tmpfs", "/memoryless": "ext4", "/": "ext4"}
    assert {path: file_system(Path(path)) for path in kinds} == kinds


def test_every_table_that_is_recorded_can_be_read():
    names = [path.name for path in recorded_tables.MEASURED.iterdir()]
    assert names
    for name in names:
        assert len(recorded(name).table)
