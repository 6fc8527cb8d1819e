"""The verb doctor: its report on a store, its exit status, and what it sweeps."""

import json
import re
import shutil

import pandas as pd
import pytest
import torch
from support.ended_runs import end

from experiments.__main__ import main
from experiments.publishing.executing import scratch
from lpc.runs import packing
from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore, checksums
from lpc.store.atomic import write_json
from lpc.store.examination import examine
from lpc.store.probes import Probe
from lpc.store.writers import mark


def make(seed):
    data, train = DataSpec(name="digits"), TrainSpec(epochs=9, learning_rate=0.01)
    return variant_spec("IB", data=data, backbone="mlp", backbone_width=8, train=train, seed=seed)


DONE, FAILED, HALF = map(make, range(3))
DEAD = f"{mark().split('-')[0]}-4194999-1"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two runs that have ended, one under way; pages whose making was interrupted, pages in the making."""
    monkeypatch.setattr(scratch.leftovers, "__defaults__", ((tmp_path / "build",),))
    monkeypatch.setattr(scratch.sweep, "__defaults__", ((tmp_path / "build",),))
    found = RunStore(tmp_path / "runs")
    end(found, DONE, accuracy=0.5)
    found.save_test(DONE, {"accuracy": 0.5})
    found.save_probe(DONE, "stress", Probe({"mean": 0.5}, pd.DataFrame({"a": [1, 2]})), version=1)
    end(found, FAILED, status="failed", reason="loss is nan")
    cohort = found.begin([HALF])
    found.save_state(cohort, {"weight": torch.arange(2000.0)}, epoch=3)
    return found


@pytest.fixture
def doctor(store, capsys):
    def run(*options, status=0):
        with pytest.raises(SystemExit) as caught:
            main(["doctor", "--store", str(store.root), *options])
        printed = capsys.readouterr()
        assert caught.value.code == status, printed
        return json.loads(printed.out) if "--json" in options else printed.out

    return run


@pytest.mark.parametrize("options", [(), ("--deep",)])
def test_a_whole_store(doctor, store, options):
    out = doctor(*options)
    key = run_key(HALF)[:12]
    assert out == (
        "whole: 2 runs, 1 of them failed in training\n"
        "unfinished: 1 run\n"
        f"  IB, seed 2, learning rate 0.01 ({key}): interrupted, checkpoint after epoch 3 of 9\n"
    )
    with store.lease([HALF]) as lease:
        assert f"({key}): under way by {lease._me}, checkpoint" in doctor()


def spoil(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_everything_that_is_damaged_is_listed_with_its_cure(doctor, store):
    done, half = store.directory(run_key(DONE)), store.directory(run_key(HALF))
    (store.directory(run_key(FAILED)) / "history.jsonl").unlink()
    (half / "spec.json").write_text("[]")
    (done / "owner-1.json").write_text("{}")
    (done / "stress.csv").unlink()
    (store.root / "heartbeats").mkdir(exist_ok=True)
    (store.root / "heartbeats" / ("f" * 32)).write_text("null")
    (store.root / "submissions").mkdir()
    (store.root / "submissions" / "1.json").write_text('{"request": {}}')
    cohort = store.root / "cohorts" / RunStore.cohort([HALF])
    (cohort / "progress.json").write_text("{}")
    found = doctor("--json", status=1)
    assert [one["path"].removeprefix(f"{store.root}/") for one in found["damaged"]] == [
        *sorted(
            (
                f"runs/{run_key(FAILED)}/history.jsonl",
                f"runs/{run_key(HALF)}/spec.json",
            )
        ),
        f"runs/{run_key(DONE)}/stress.csv",
        f"runs/{run_key(DONE)}/owner-1.json",
        f"cohorts/{cohort.name}/progress.json",
        f"heartbeats/{'f' * 32}",
        "submissions/1.json",
    ]
    assert all(one["what"] and one["cure"] for one in found["damaged"])
    cures = {one["path"]: one["cure"] for one in found["damaged"]}
    assert cures[str(half / "spec.json")] == (
        f"remove {half} and {cohort} to train the runs of that cohort from the start"
    )
    assert found["whole"] == [run_key(DONE)] and found["unfinished"] == []
    lines = doctor(status=1).splitlines()
    assert lines[1] == "damaged: 7 files" and sum("; " in line for line in lines[2:9]) == 7


def test_following_every_cure_leaves_a_whole_store(doctor, store, tmp_path):
    """If a cohort's member lacks its spec, removing what the message says is enough to train it again."""
    (store.directory(run_key(HALF)) / "spec.json").unlink()
    with pytest.raises(ValueError, match="remove ") as caught:
        packing.plan([HALF], store)
    for path in re.findall(rf"{tmp_path}/\S+", str(caught.value).split("; ")[1]):
        shutil.rmtree(path)
    assert [plan.specs for plan in packing.plan([HALF], store)] == [[HALF]]
    assert doctor() == "whole: 2 runs, 1 of them failed in training\n"


def test_a_flipped_bit_that_no_length_shows_is_found_by_a_deep_look(doctor, store):
    done = store.directory(run_key(DONE))
    cohort = store.root / "cohorts" / RunStore.cohort([HALF])
    places = {done / "history.jsonl": 5, done / "checkpoint.safetensors": -2, done / "stress.csv": -2}
    places |= {cohort / "state.pt": 500}
    for path, place in places.items():
        spoil(path, place)
    assert doctor("--json")["damaged"] == []
    found = doctor("--deep", "--json", status=1)
    assert {one["path"] for one in found["damaged"]} == set(map(str, places))


def test_where_a_run_comes_from_is_always_read_as_its_length_stands_nowhere(doctor, store):
    path = store.directory(run_key(DONE)) / "provenance.json"
    spoil(path, 0)
    assert [one["path"] for one in doctor("--json", status=1)["damaged"]] == [str(path)]


def test_old_stores_are_whole_and_unchecked(doctor, store, monkeypatch):
    directory = store.directory(run_key(DONE))
    values = store.result(DONE)
    write_json(directory / "result.json", values)
    write_json(directory / "test.json", {"accuracy": 0.5})
    found = doctor("--deep", "--json")
    assert found["unchecked"] == [str(directory / "result.json")] and len(found["whole"]) == 2
    assert "unchecked, written without checksums by an earlier version: 1 file\n" in doctor()
    monkeypatch.setattr(checksums, "_said", set())
    with pytest.warns(checksums.Unchecked):
        store.frame()


def test_what_is_left_over_is_named_and_swept(doctor, store, tmp_path):
    (store.root / f".listing-2.json.{DEAD}.0123456789ab").touch()
    notebooks = tmp_path / "build" / "notebooks"
    for name in (f".executing-{DEAD}-abcdefgh", f".executing-{mark()}-abcdefgh", ".executing-abcdefgh"):
        (notebooks / name).mkdir(parents=True)
    found = doctor("--json")["left_over"]
    assert len(found) == 2 and all(DEAD in one["path"] for one in found)
    assert "left over: 2 items\n" in doctor()
    assert "removed: 2 items\n" in doctor("--sweep")
    assert "left over" not in doctor() and len(list(notebooks.iterdir())) == 2
    assert examine(store).left == []


def test_a_store_that_is_not_there_is_an_error(doctor, store, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--store", str(store.root / "nowhere")])
    assert caught.value.code == 1 and "which is not a folder" in capsys.readouterr().err
