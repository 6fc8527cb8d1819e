import dataclasses
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from lpc.specs import PROTOCOL, DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import listing
from lpc.store.reading import Damaged, cure
from lpc.store.wholeness import PARTS

HOUR = 3600 * 10**9


def spec_of(seed, architecture="IB", **changed):
    spec = variant_spec(
        architecture,
        data=DataSpec(name="digits"),
        backbone="mlp",
        backbone_width=8,
        train=TrainSpec(epochs=1, learning_rate=1e-2),
        seed=seed,
    )
    return dataclasses.replace(spec, **changed)


def write(root, spec, result=None, test=None, *, age=HOUR):
    """Write a run's files, last changed so many nanoseconds ago."""
    directory = root / "runs" / run_key(spec)
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in (
        ("spec.json", dataclasses.asdict(spec)),
        ("result.json", result),
        ("test.json", test),
    ):
        if value is not None:
            put(directory / name, json.dumps(value, indent=1), age=age)
    if result is not None:
        for name in PARTS:
            put(directory / name, "{}", age=age)
    return directory


def put(path, text, *, age=HOUR):
    path.write_text(text)
    then = path.stat().st_mtime_ns - age
    os.utime(path, ns=(then, then))


def plainly(root, protocol=PROTOCOL):
    """Read every file, one after another: what a listing has to be the same as."""
    found = []
    for path in sorted(root.glob("runs/*/spec.json")):
        spec = json.loads(path.read_text())
        if spec["protocol"] != protocol:
            continue
        row = {"key": path.parent.name, "architecture": spec["architecture"]}
        for part in ("data", "model", "train"):
            row |= {f"{part}.{name}": value for name, value in spec[part].items()}
        row |= {"seed": spec["seed"], "protocol": spec["protocol"], "status": "training"}
        for name, prefix in (("result.json", ""), ("test.json", "test_")):
            if (path.parent / name).exists():
                values = json.loads((path.parent / name).read_text())
                values.pop("missing", None)
                row |= {prefix + name: value for name, value in values.items()}
        found.append(row)
    return pd.DataFrame(found)


def listed(root, protocol=PROTOCOL):
    return pd.DataFrame(listing.rows(root, protocol=protocol))


def index_of(root, protocol=PROTOCOL):
    return root / f"listing-{protocol}.json"


@pytest.fixture
def root(tmp_path):
    """Runs of every status, with values that a text format could spoil."""
    rng = np.random.default_rng(0)
    odd = [None, 0.1 + 0.2, 5e-324, -0.0, 1.7976931348623157e308, 2**63 + 1, True, "NaN", "é\n", [1, [2.0]]]
    for seed in range(40):
        result = {
            "status": "finished",
            "epoch": seed,
            "accuracy": float(rng.random()),
            "terminal_epoch": None if seed % 3 else seed,
            "readout_lost": bool(seed % 2),
            "never": None,
            "odd": odd[seed % len(odd)],
            "infinite": math.inf if seed == 4 else 1.0,
            "missing": {"never": "why"},
        }
        if seed % 5 == 0:
            result = {"status": "failed", "reason": "not finite", "epoch": 3}
        test = {"accuracy": 0.5, "missing": {}} if seed % 4 == 1 else None
        write(tmp_path, spec_of(seed, "IB" if seed % 2 else "NoPen"), None if seed % 7 == 0 else result, test)
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    """Files of runs that were read since the list was last cleared."""
    found = []
    content = listing._content
    monkeypatch.setattr(listing, "_content", lambda path: found.append(path) or content(path))
    return found


def test_a_listing_is_what_the_files_say_with_and_without_rows_that_were_kept(root, opened):
    expected = plainly(root)
    for _ in range(2):
        index_of(root).unlink(missing_ok=True)
        opened.clear()
        assert_frame_equal(listed(root), expected)
        assert len(opened) == len(listing.READ) * 40
        opened.clear()
        assert_frame_equal(listed(root), expected)
        assert opened == []
    assert sorted(path.name for path in root.iterdir()) == [index_of(root).name, "runs"]


def test_values_come_back_to_the_bit(root):
    first, second = listing.rows(root, protocol=PROTOCOL), listing.rows(root, protocol=PROTOCOL)
    assert [list(row) for row in first] == [list(row) for row in second]
    assert repr(first) == repr(second)  # tells -0.0 from 0.0, True from 1, 1.0 from 1


def test_a_store_without_runs_has_no_rows(tmp_path):
    assert listing.rows(tmp_path / "none", protocol=PROTOCOL) == []
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    (tmp_path / "runs" / "a file").write_text("")
    for _ in range(2):
        assert listing.rows(tmp_path, protocol=PROTOCOL) == []


@pytest.mark.parametrize("age", [0, HOUR])
def test_what_changed_is_shown(root, age):
    listed(root)
    begun, finished, measured = write(root, spec_of(0, "NoPen")), write(root, spec_of(2, "NoPen")), spec_of(1)
    for name in PARTS:
        put(begun / name, "{}", age=age)
    put(begun / "result.json", '{"status": "finished", "accuracy": 0.125}', age=age)
    put(finished / "test.json", '{"accuracy": 0.25}', age=age)
    (write(root, measured) / "test.json").unlink()
    gone = write(root, spec_of(3))
    shutil.rmtree(gone)
    again = write(root, spec_of(5), {"status": "failed", "reason": "trained again"}, age=age)
    write(root, spec_of(99), {"status": "finished"}, age=age)
    for _ in range(2):
        frame = listed(root).set_index("key")
        assert_frame_equal(frame.reset_index(), plainly(root))
        assert frame.loc[begun.name, "status"] == "finished" and frame.loc[begun.name, "accuracy"] == 0.125
        assert frame.loc[finished.name, "test_accuracy"] == 0.25
        assert pd.isna(frame.loc[run_key(measured), "test_accuracy"])
        assert frame.loc[again.name, "reason"] == "trained again"
        assert gone.name not in frame.index and run_key(spec_of(99)) in frame.index


def test_a_run_that_was_removed_and_trained_again_shows_its_new_result(root):
    key = run_key(spec_of(1))
    old = listed(root).set_index("key").loc[key, "accuracy"]
    shutil.rmtree(root / "runs" / key)
    assert key not in set(listed(root)["key"])
    write(root, spec_of(1), {"status": "finished", "accuracy": old / 2}, age=HOUR // 2)
    assert listed(root).set_index("key").loc[key, "accuracy"] == old / 2


def test_a_file_rewritten_in_place_with_as_many_bytes_is_read_again(root):
    path = write(root, spec_of(1), {"status": "finished", "accuracy": 0.25})
    assert listed(root).set_index("key").loc[path.name, "accuracy"] == 0.25
    put(path / "result.json", (path / "result.json").read_text().replace("0.25", "0.75"), age=HOUR // 2)
    assert listed(root).set_index("key").loc[path.name, "accuracy"] == 0.75


def test_rows_of_files_that_may_change_within_their_time_are_not_kept(root):
    """On a file system that counts seconds, two results can have the same time and size."""
    for age, shown in ((10**9, 0.75), (HOUR, 0.25)):
        path = write(root, spec_of(1), {"status": "finished", "accuracy": 0.25}, age=age) / "result.json"
        when = path.stat().st_mtime_ns
        index_of(root).unlink(missing_ok=True)
        listed(root)
        path.write_text(path.read_text().replace("0.25", "0.75"))
        os.utime(path, ns=(when, when))
        assert listed(root).set_index("key").loc[path.parent.name, "accuracy"] == shown


def test_kept_rows_that_are_damaged_are_never_shown(root, opened):
    expected = listed(root)
    index = index_of(root)
    whole = index.read_bytes()
    digit = whole.index(b'"finished"') + 12  # a number in a row: what follows is still JSON
    place = next(n for n in range(digit, len(whole)) if whole[n : n + 1] in b"123456789")
    changed = whole[:place] + (b"8" if whole[place : place + 1] == b"9" else b"9") + whole[place + 1 :]
    json.loads(changed.split(b"\n")[1])
    for content in (changed, whole[:-1], whole[: len(whole) // 2], b"", b"\n", b"{}", b"\xff\x00" * 50):
        index.write_bytes(content)
        opened.clear()
        assert_frame_equal(listed(root), expected)
        assert len(opened) == len(listing.READ) * 40
        assert index.read_bytes() == whole


def test_rows_of_another_version_are_read_again(root, opened, monkeypatch):
    listed(root)
    monkeypatch.setattr(listing, "_VERSION", b"another")
    opened.clear()
    listed(root)
    assert len(opened) == len(listing.READ) * 40


def test_a_store_that_cannot_be_written_is_listed(root, monkeypatch):
    expected = plainly(root)

    def refuse(*_args, **_keywords):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    assert_frame_equal(listed(root), expected)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", refuse)
    assert_frame_equal(listed(root), expected)
    monkeypatch.undo()
    assert [path.name for path in root.iterdir()] == ["runs"]
    index_of(root).mkdir()
    assert_frame_equal(listed(root), expected)
    assert index_of(root).is_dir()


def test_many_may_list_and_write_at_once(root):
    expected = plainly(root)

    def lists(number):
        if number % 3 == 0:
            index_of(root).unlink(missing_ok=True)
        return listed(root)

    with ThreadPoolExecutor(8) as pool:
        for frame in pool.map(lists, range(48)):
            assert_frame_equal(frame, expected)
    assert not list(root.glob(".listing*"))


def test_protocols_are_listed_apart_and_another_ones_files_are_not_judged(root):
    expected = plainly(root)
    other = write(root, spec_of(0, protocol=99), {"status": "finished", "accuracy": 0.5})
    for _ in range(2):
        assert_frame_equal(listed(root), expected)
        assert listed(root, 99)["key"].tolist() == [other.name]
    put(other / "result.json", '{"status"')
    assert_frame_equal(listed(root), expected)
    with pytest.raises(ValueError, match=r"result\.json is not whole JSON"):
        listed(root, 99)


@pytest.mark.parametrize("name", listing.READ)
def test_a_file_that_is_not_whole_is_named(root, name):
    listed(root)
    path = write(root, spec_of(1), {"status": "finished"}, {"accuracy": 1.0}) / name
    put(path, path.read_text()[:9])
    for _ in range(2):
        with pytest.raises(Damaged, match=f"^{path} is not whole JSON .*; {cure(path)}$"):
            listed(root)


def test_rows_are_kept_again_once_one_in_a_hundred_was_read(tmp_path, opened):
    for seed in range(200):
        write(tmp_path, spec_of(seed), {"status": "finished", "accuracy": 0.5})
    listed(tmp_path)
    for changed, kept in ((2, False), (3, True)):
        for seed in range(changed):
            write(tmp_path, spec_of(seed), {"status": "finished", "accuracy": 0.75}, age=HOUR - changed)
        for expected in (len(listing.READ) * changed, 0 if kept else len(listing.READ) * changed):
            opened.clear()
            assert listed(tmp_path)["accuracy"].sum() == 100 + 0.25 * changed
            assert len(opened) == expected


RESULT = {"status": "finished", "accuracy": 0.5}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("spec.json", None, "does not exist, but the run has a result"),
        ("spec.json", dataclasses.asdict(spec_of(2)), f"is the spec of run {run_key(spec_of(2))}, not of"),
        ("spec.json", [], "holds a list, expected an object"),
        ("spec.json", {"protocol": PROTOCOL}, "is not a run spec of this version"),
        ("result.json", {}, "has status None, expected finished or failed"),
        ("result.json", {"status": "training"}, "has status 'training', expected finished or failed"),
        ("result.json", 3, "holds 3, expected an object"),
        *((part, None, "does not exist, but the run has a result") for part in PARTS),
    ],
)
def test_a_run_with_a_result_that_is_not_whole_is_named_and_never_passed_over(
    tmp_path, kept, name, content, told
):
    other = write(tmp_path, spec_of(0), RESULT)
    directory = write(tmp_path, spec_of(1), RESULT)
    if kept:
        listed(tmp_path)
    if content is None:
        (directory / name).unlink()
    else:
        put(directory / name, json.dumps(content), age=HOUR // 2)
    for _ in range(2):
        with pytest.raises(
            Damaged, match=rf"^{directory}/{name} {told}.*; remove {directory} to run it again"
        ):
            listed(tmp_path)
    shutil.rmtree(directory)
    assert listed(tmp_path)["key"].tolist() == [other.name]


def test_damaged_runs_are_counted_behind_the_first(tmp_path):
    for seed in range(3):
        (write(tmp_path, spec_of(seed), RESULT) / "history.jsonl").unlink()
    with pytest.raises(Damaged, match=rf"\(2 more runs of {tmp_path} are damaged\)$"):
        listed(tmp_path)


def test_a_run_without_a_result_needs_no_more_than_its_spec(tmp_path):
    directory = write(tmp_path, spec_of(0))
    assert listed(tmp_path)["status"].tolist() == ["training"]
    (directory / "spec.json").unlink()
    (directory / "owner-1.json").write_text("{}")
    assert listed(tmp_path).empty
