import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch

from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore
from lpc.store.reading import Damaged


def make(seed=0, **changed):
    spec = variant_spec(
        "IB",
        data=DataSpec(name="digits"),
        backbone="mlp",
        backbone_width=8,
        train=TrainSpec(epochs=1, learning_rate=1e-2),
        seed=seed,
    )
    return dataclasses.replace(spec, **changed)


def finish(store, spec, **result):
    store.finish(
        spec,
        result={"status": "finished", "accuracy": 0.5, **result},
        history=[{"epoch": 1, "accuracy": 0.25}, {"epoch": 2, "accuracy": 0.5}],
        provenance={"commit": None},
        weights={"weight": torch.arange(4.0)},
    )


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "store")


def test_a_run_is_a_row_from_its_beginning_to_its_end(store):
    spec = make()
    assert store.frame().empty
    cohort = store.begin([spec])
    assert store.frame()["status"].tolist() == ["training"]
    assert not store.finished(spec)
    assert store.cohorts() == {cohort: [run_key(spec)]}
    finish(store, spec, trace_ratio=None, missing={"trace_ratio": "why"})
    store.end(cohort)
    assert store.finished(spec) and not store.measured(spec)
    assert store.cohorts() == {}
    store.save_test(spec, {"accuracy": 0.75, "missing": {}})
    row = store.frame().iloc[0]
    assert (row["key"], row["status"]) == (run_key(spec), "finished")
    assert (row["accuracy"], row["test_accuracy"]) == (0.5, 0.75)
    assert row["train.learning_rate"] == 1e-2 and row["architecture"] == "IB"
    assert "missing" not in row.index


def test_a_missing_value_is_missing_and_not_a_number(store):
    for seed, ratio in enumerate((None, 0.0)):
        store.begin([make(seed)])
        finish(store, make(seed), trace_ratio=ratio)
    frame = store.frame().set_index("seed")
    assert frame["trace_ratio"].isna().to_dict() == {0: True, 1: False}
    assert frame.loc[1, "trace_ratio"] == 0.0


def test_history_is_one_row_an_epoch(store):
    store.begin([make()])
    finish(store, make())
    history = store.history()
    assert history["epoch"].tolist() == [1, 2] and history["key"].unique().tolist() == [run_key(make())]


def test_another_protocol_is_never_mixed_in(store):
    spec, other = make(), make(protocol=99)
    store.begin([spec, other])
    finish(store, spec)
    finish(store, other)
    assert store.frame()["key"].tolist() == [run_key(spec)]
    assert store.history()["key"].unique().tolist() == [run_key(spec)]
    assert store.frame(protocol=99)["key"].tolist() == [run_key(other)]


def test_weights_come_back_and_foreign_or_truncated_ones_do_not(store):
    spec, other = make(), make(1)
    store.begin([spec, other])
    finish(store, spec)
    finish(store, other)
    assert torch.equal(store.load_weights(spec)["weight"], torch.arange(4.0))
    path = store.directory(run_key(spec)) / "checkpoint.safetensors"
    path.write_bytes((store.directory(run_key(other)) / "checkpoint.safetensors").read_bytes())
    with pytest.raises(ValueError, match=f"checkpoint of run {run_key(other)}, expected {run_key(spec)}"):
        store.load_weights(spec)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is missing, truncated"):
        store.load_weights(spec)


def test_cohort_state_comes_back_and_foreign_or_truncated_ones_do_not(store):
    first, second = store.begin([make()]), store.begin([make(1)])
    assert store.load_state(first, "cpu") is None
    assert store.epochs_done() == {}
    store.save_state(first, {"epoch": 3, "history": [{"accuracy": None}]}, epoch=3)
    assert set(store.epochs_done().values()) == {3}
    assert list(store.epochs_done()) == store.cohorts()[first]
    assert store.load_state(first, "cpu") == {"cohort": first, "epoch": 3, "history": [{"accuracy": None}]}
    path = store.root / "cohorts" / first / "state.pt"
    foreign = store.root / "cohorts" / second / "state.pt"
    foreign.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=f"checkpoint of cohort {first}, expected {second}"):
        store.load_state(second, "cpu")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"state\.pt is truncated or not a checkpoint"):
        store.load_state(first, "cpu")
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(ValueError, match=r"state\.pt is truncated or not a checkpoint"):
        store.load_state(first, "cpu")


def test_a_directory_with_another_runs_spec_is_an_error(store):
    store.begin([make()])
    path = store.directory(run_key(make())) / "spec.json"
    path.write_text(json.dumps(dataclasses.asdict(make(5))))
    with pytest.raises(ValueError, match=f"spec of run {run_key(make(5))}"):
        store.spec(run_key(make()))
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"spec\.json is not whole JSON"):
        store.spec(run_key(make()))


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(store, monkeypatch):
    cohort = store.begin([make()])
    store.save_state(cohort, {"epoch": 1}, epoch=1)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save_state(cohort, {"epoch": 2}, epoch=2)
    monkeypatch.undo()
    state = store.load_state(cohort, "cpu")
    assert state is not None and state["epoch"] == 1
    names = sorted(path.name for path in (store.root / "cohorts" / cohort).iterdir())
    assert names == ["members.json", "progress.json", "state.pt"]


def test_what_other_programs_remove_meanwhile_is_no_error(store, monkeypatch):
    first, second = store.begin([make()]), store.begin([make(1)])
    store.save_state(first, {"epoch": 3}, epoch=3)
    path = store.root / "cohorts" / second / "members.json"
    original, errors = Path.read_bytes, [FileNotFoundError(2, "gone"), OSError(errno.ESTALE, "stale handle")]

    def ended(self):
        if self == path:
            raise errors.pop()
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", ended)
        assert store.cohorts(afresh=True) == {first: [run_key(make())]}
        assert store.epochs_done() == {run_key(make()): 3}
        errors.append(OSError(errno.EIO, "the disk is broken"))
        with pytest.raises(OSError, match="broken"):
            store.cohorts()
    store.end(second)
    store.end(second)
    assert set(store.cohorts()) == {first}
    assert not list(store.root.glob("cohorts/.*"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("spec.json", None, "does not exist"),
        ("spec.json", "{}", "is not a run spec"),
        ("spec.json", json.dumps(dataclasses.asdict(make(1))), f"is the spec of run {run_key(make(1))}"),
        ("result.json", "{}", "has status None"),
        ("result.json", "[]", "holds a list"),
        ("result.json", '{"sta', "is not whole JSON"),
        ("provenance.json", None, "does not exist"),
        ("history.jsonl", None, "does not exist"),
        ("checkpoint.safetensors", None, "does not exist"),
    ],
)
def test_a_run_that_is_not_whole_is_neither_finished_nor_trained_again(store, name, content, told):
    store.end(store.begin([make()]))
    finish(store, make())
    path = store.directory(run_key(make())) / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    for ask in (store.finished, lambda spec: store.lease([spec])):
        with pytest.raises(Damaged, match=f"^{path} {told}.*; remove {path.parent} to run it again$"):
            ask(make())
    assert not list((store.root / "heartbeats").glob("*"))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(store, mask, mode):
    before = os.umask(mask)
    try:
        cohort = store.begin([make()])
        store.save_state(cohort, {"epoch": 1}, epoch=1)
        finish(store, make())
        store.save_test(make(), {"accuracy": 0.5})
    finally:
        os.umask(before)
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(files) == 9 and {path.stat().st_mode & 0o777 for path in files} == {mode}, files


def test_a_run_that_has_its_result_keeps_it_whoever_wakes_later(store):
    store.begin([make()])
    finish(store, make())
    directory = store.directory(run_key(make()))
    before = (directory / "result.json").read_bytes()
    for attempts in (2, 3):
        store.finish(
            make(),
            result={"status": "finished", "accuracy": attempts},
            history=[{"epoch": 1, "accuracy": 0.25}, {"epoch": 2, "accuracy": 0.5}],
            provenance={"attempts": attempts},
            weights=store.load_weights(make()),
        )
        assert (directory / "result.json").read_bytes() == before
        assert RunStore(store.root).finished(make()) and store.provenance(make()) == {"attempts": attempts}, (
            "whole by itself, whose ever it is"
        )
    (directory / "provenance.json").write_text("{}")
    with pytest.raises(Damaged, match=r"provenance.json has no checksum, but the run's result has"):
        store.provenance(make())
    assert not list(directory.glob(".*"))
