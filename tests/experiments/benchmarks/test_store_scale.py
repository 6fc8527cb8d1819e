import math
import os
import threading
from pathlib import Path

import pandas as pd
import pytest

from experiments.benchmarks import store_scale
from experiments.benchmarks.store_scale import Listing, listing_table, time_listing, write_runs
from experiments.studies import ablation
from lpc.runs import execute
from lpc.specs import run_key
from lpc.store import RunStore
from lpc.store.listing import FILES


@pytest.fixture
def asked(monkeypatch):
    """Requests for files of runs: looked up, and opened (``os.stat`` and ``Path.open``)."""
    counts = {"looked up": 0, "opened": 0, "there": 0}
    stat, opened, lock = os.stat, Path.open, threading.Lock()

    def count(name, amount):
        with lock:  # many threads look
            counts[name] += amount

    def counted_stat(path, *args, **keywords):
        count("looked up", Path(path).name in FILES)
        return stat(path, *args, **keywords)

    def counted_open(path, *args, **keywords):
        ours = path.name in FILES and args[:1] == ("rb",)
        count("opened", ours)
        stream = opened(path, *args, **keywords)
        count("there", ours)
        return stream

    monkeypatch.setattr(os, "stat", counted_stat)
    monkeypatch.setattr(Path, "open", counted_open)
    return counts


def test_runs_are_written_as_the_store_reads_them(tmp_path):
    assert write_runs(tmp_path, 13) == 2 * 13 + 3
    assert len(list(tmp_path.glob("runs/*/*"))) == 5 * 13 + 3
    frame = RunStore(tmp_path).frame()
    assert sorted(frame["seed"]) == list(range(13)) and set(frame["status"]) == {"finished"}
    assert frame["test_metric_0"].notna().sum() == 3
    store = RunStore(tmp_path)
    assert all(store.finished(store.spec(str(key))) for key in frame["key"])


def test_requests_are_those_that_a_listing_makes(tmp_path, asked):
    write_runs(tmp_path, 70)
    first = {"looked up": 0, "opened": 0, "there": 0}
    for expected in (
        {"looked up": 210, "opened": 210, "there": 152},
        {"looked up": 420, "opened": 0, "there": 0},
    ):
        asked.update(first)
        store_scale.rows(tmp_path, protocol=store_scale.PROTOCOL)
        assert asked == expected
    found = time_listing(70, tmp_path)
    assert (found.looks, found.reads) == (420, 152)
    assert [path.name for path in tmp_path.glob("tmp*")] == []


def test_a_slow_file_server_takes_as_long_as_its_requests_need():
    found = Listing(runs=10_000, first=1.0, again=0.5, looks=30_000, reads=22_000)
    assert found.together == 32
    assert found.waiting == pytest.approx(15 + 22)
    assert found.waiting_again == pytest.approx(30)
    assert found._replace(runs=720).together == 23  # parts of 32 runs: fewer than may be under way
    assert found._replace(runs=1).together == 1


def test_the_table_has_a_row_a_size(monkeypatch):
    def taken(runs, _folder):
        return Listing(runs, 1.0, 0.5, 3 * runs, 2 * runs)

    monkeypatch.setattr(store_scale, "time_listing", taken)
    table = listing_table((32, 10_000))
    assert table.index.tolist() == ["32", "10,000"]
    assert table.T["10,000"].tolist() == ["1.00", "0.50", "5.0", "6", "36.0", "2.09", "1.44"]
    assert table.T["32"].tolist() == ["1.00", "0.50", "5.0", "6", "1.1", "1.11", "0.60"]


def test_a_table_is_timed_live(tmp_path):
    table = listing_table((40,), tmp_path)
    assert isinstance(table, pd.DataFrame) and table.index.tolist() == ["40"]
    assert 0 <= float(table.T["40"]["here, again (s)"]) < math.inf  # rounded to hundredths
    found = time_listing(40, tmp_path)
    assert 0 < found.again < math.inf and 0 < found.first < math.inf
    assert not list(tmp_path.iterdir())


def test_no_runs_are_an_error():
    with pytest.raises(ValueError, match="runs is 0; expected 1 or more"):
        time_listing(0)


def test_what_runs_and_processes_take_is_computed_from_the_network():
    table = store_scale.growth((720, 10_000))
    assert (
        table["10,000 runs"]["files and folders"] == "61,667"
    )  # five files and a folder, and a sixth of one
    assert float(table["720 runs"]["weights (GB)"]) == pytest.approx(720 * 4 * 11.17e6 / 1e9, rel=0.01)
    asked = float(table["10,000 runs"]["asked which are missing, on a network (s)"])
    assert asked == pytest.approx(10_000 * (6 * store_scale.LOOK + 2 * store_scale.READ) / 32, rel=0.01)
    busy = store_scale.traffic((300,))["300 processes"]
    size = store_scale.checkpoint_bytes()
    assert float(busy["checkpoints on disk (GB)"]) == pytest.approx(300 * size / 1e9, rel=0.01)
    assert float(busy["written, one every 500 s (MB/s)"]) == pytest.approx(300 * size / 500 / 1e6, rel=0.01)
    assert float(busy["signs of life, one every 15 s (1/s)"]) == 20


def test_a_finished_run_keeps_as_many_files_as_are_counted(tmp_path):
    spec = ablation.declared("smoke", seeds=1)[0]
    execute(spec, RunStore(tmp_path))
    kept = list(RunStore(tmp_path).directory(run_key(spec)).iterdir())
    assert len([path for path in kept if path.is_file()]) == store_scale.KEPT_FILES, kept
