import hashlib
import json
import warnings

import pytest
import torch
from support.ended_runs import end

from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore, checksums
from lpc.store.probes import Probe
from lpc.store.reading import Damaged

VALUES = {"status": "finished", "accuracy": 0.1 + 0.2, "odd": [None, -0.0, "é\n"], "missing": {"a": "why"}}


def make(seed=0):
    return variant_spec(
        "IB",
        data=DataSpec(name="digits"),
        backbone="mlp",
        backbone_width=8,
        train=TrainSpec(epochs=1, learning_rate=1e-2),
        seed=seed,
    )


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "store")


def test_an_object_comes_back_and_its_digest_is_that_of_what_follows(tmp_path):
    for value in (VALUES, {}, {"sha": "256"}):
        content = checksums.sealed_object(value)
        assert checksums.opened_object(tmp_path, content) == (value, True)
        (first, second), rest = content.split(b"\n")[:2], content[len(b'{\n "sha256": "') + 64 :]
        assert first == b"{" and json.loads(b"{" + second.rstrip(b",") + b"}") == {
            "sha256": hashlib.sha256(rest).hexdigest()
        }
        assert json.loads(content) == {"sha256": json.loads(content)["sha256"], **value}


def test_every_flipped_bit_of_an_object_is_found(tmp_path):
    content = checksums.sealed_object(VALUES)
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            with pytest.raises(Damaged, match=f"^{tmp_path} is not "):
                checksums.opened_object(tmp_path, bytes(changed))


def test_every_flipped_bit_of_bytes_and_of_their_digest_is_found(tmp_path):
    body = bytes(range(256))
    content = body + checksums.seal(body)
    assert checksums.opened_bytes(tmp_path, content) == (body, True)
    for place in range(len(content) - 1):  # behind the digest is the end of a line, which says nothing
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            with pytest.raises(Damaged, match=f"^{tmp_path} is not what was written: its SHA-256 is another"):
                checksums.opened_bytes(tmp_path, bytes(changed))


def test_what_has_no_digest_is_read_unchecked(tmp_path):
    old = (json.dumps(VALUES, indent=1) + "\n").encode()
    assert checksums.opened_object(tmp_path, old) == (VALUES, False)
    for body in (b"", b"short", bytes(range(256))):
        assert checksums.opened_bytes(tmp_path, body) == (body, False)


READERS = {
    "result.json": lambda store, spec: store.result(spec),
    "test.json": lambda store, spec: store.test(spec),
    "provenance.json": lambda store, spec: store.provenance(spec),
    "history.jsonl": lambda store, spec: store.history([run_key(spec)]).to_dict("list"),
    "checkpoint.safetensors": lambda store, spec: store.load_weights(spec),
    "stress.probe": lambda store, spec: store.probe(run_key(spec), "stress", version=1),
    "stress.csv": lambda store, spec: store.probe_table(run_key(spec), "stress", version=1).to_dict("list"),
}


def whole(store, spec):
    import pandas

    weights = {"weight": torch.arange(64.0)}
    history = [{"epoch": 1, "accuracy": 0.25}, {"epoch": 2, "accuracy": 0.5}]
    end(store, spec, accuracy=0.5, history=history, provenance={"commit": "a" * 40}, weights=weights)
    store.save_test(spec, {"accuracy": 0.75})
    store.save_probe(spec, "stress", Probe({"mean": 0.5}, pandas.DataFrame({"a": [1, 2]})), version=1)
    return store.directory(run_key(spec))


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_in_the_middle_of_a_file_is_found_when_it_is_read(store, name):
    directory, spec = whole(store, make()), make()
    before = READERS[name](store, spec)
    assert "sha256" not in before and "files" not in before
    path = directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"^{path} is not .*; remove "):
        READERS[name](store, spec)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert str(READERS[name](store, spec)) == str(before)


def test_a_file_of_another_length_is_found_without_reading_it(store):
    path = whole(store, make()) / "history.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")
    size = path.stat().st_size
    for look in (store.frame, lambda: store.finished(make())):
        with pytest.raises(Damaged, match=f"^{path} has {size} bytes, expected {size - 1}; remove"):
            look()


def test_a_flipped_bit_of_a_state_is_found_and_the_old_one_is_never_taken_for_the_new(store):
    cohort = store.begin([make()])
    path = store.root / "cohorts" / cohort / "state.pt"
    for epoch in (1, 2):
        store.save_state(cohort, {"weight": torch.arange(64.0), "epoch": epoch}, epoch=epoch)
        assert store.load_state(cohort, "cpu")["epoch"] == epoch
    content = path.read_bytes()
    place = content.index(torch.arange(64.0).numpy().tobytes()) + 17
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(Damaged, match=f"^{path} is not what was written.*; remove {path.parent} to train"):
        store.load_state(cohort, "cpu")
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.arange(64.0)) is False, (
        "without the checksum, the changed state is read"
    )


def test_a_store_without_checksums_is_read_and_said_to_be_unchecked_once(store, monkeypatch):
    monkeypatch.setattr(checksums, "_said", set())
    directory, spec = whole(store, make()), make()
    for name in ("result.json", "test.json", "stress.probe"):
        values, _ = checksums.opened_object(directory / name, (directory / name).read_bytes())
        values.pop("files", None)
        (directory / name).write_text(json.dumps(values, indent=1) + "\n")
    with pytest.warns(UserWarning, match=f"^unchecked: .*result.json has no checksum.*{store.root} are read"):
        frame = store.frame()
    assert frame.loc[0, "test_accuracy"] == 0.75
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.result(spec) == {"status": "finished", "accuracy": 0.5}
        assert torch.equal(store.load_weights(spec)["weight"], torch.arange(64.0))
        for read in READERS.values():
            read(RunStore(store.root), spec)
        assert len(RunStore(store.root).frame()) == 1
