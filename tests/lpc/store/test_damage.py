"""Damage from outside, kind of file by kind of damage: the same result, or one line that names the file."""

import shutil

import pandas as pd
import pytest
import torch
from support.damage import WAYS
from support.ended_runs import end

from lpc.runs import packing
from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import Held, RunStore, holders
from lpc.store.atomic import write_once
from lpc.store.examination import examine
from lpc.store.probes import Probe


def make(seed=0):
    return variant_spec(
        "IB",
        data=DataSpec(name="digits"),
        backbone="mlp",
        backbone_width=8,
        train=TrainSpec(epochs=4, learning_rate=1e-2),
        seed=seed,
    )


DONE, OTHER, HALF = make(0), make(1), make(2)
COHORT = RunStore.cohort([HALF])
FILES = {
    **{
        name: f"runs/{run_key(DONE)}/{name}"
        for name in (
            *("spec.json", "result.json", "test.json", "provenance.json", "history.jsonl"),
            *("checkpoint.safetensors", "stress.probe", "stress.csv"),
        )
    },
    "spec of a run under way": f"runs/{run_key(HALF)}/spec.json",
    "owner": f"runs/{run_key(HALF)}/owner-1.json",
    "members": f"cohorts/{COHORT}/members.json",
    "state": f"cohorts/{COHORT}/state.pt",
    "progress": f"cohorts/{COHORT}/progress.json",
    "heartbeat": "heartbeats/token",
    "listing": "listing-2.json",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with two finished runs, and one under way whose program has died."""
    root = tmp_path_factory.mktemp("damage") / "store"
    store = RunStore(root)
    for spec in (DONE, OTHER):
        end(store, spec, history=[{"epoch": 1}, {"epoch": 2}], accuracy=0.5, provenance={"commit": "a"})
        store.save_test(spec, {"accuracy": 0.75})
        store.save_probe(spec, "stress", Probe({"mean": 0.5}, pd.DataFrame({"a": [1, 2]})), version=1)
    lease = store.lease([HALF])
    cohort = store.begin([HALF])
    store.save_state(cohort, {"weight": torch.arange(9.0), "epoch": 2}, epoch=2)
    beat = lease._heartbeat.read_bytes().replace(f'"pid": {lease._me.pid}'.encode(), b'"pid": 4194999')
    owner = root / FILES["owner"]
    text = owner.read_text().replace(lease._token, "token")
    lease.release(ended="stopped")
    owner.write_text(text.replace(f'"pid": {lease._me.pid}', '"pid": 4194999'))
    (root / FILES["heartbeat"]).write_bytes(beat)
    store.frame()
    (root / FILES["listing"]).touch()
    return root


def lease_again(store):
    try:
        with store.lease([HALF]) as lease:
            return lease.keys
    except Held:
        return "waits for its lease"


@pytest.fixture(scope="module")
def said(whole, tmp_path_factory):
    """What every verb says of the store that is whole."""
    root = tmp_path_factory.mktemp("whole") / "store"
    shutil.copytree(whole, root)
    return {verb: repr(run(RunStore(root))) for verb, run in VERBS.items()}


VERBS = {
    "list": lambda store: store.frame().sort_index(axis=1).to_dict("list"),
    "finished": lambda store: [store.finished(spec) for spec in (DONE, OTHER)],
    "read": lambda store: (store.result(DONE), store.test(DONE), store.provenance(DONE)),
    "history": lambda store: store.history([run_key(DONE), run_key(OTHER)]).to_dict("list"),
    "weights": lambda store: store.load_weights(DONE)["weight"].tolist(),
    "probes": lambda store: store.probes([run_key(DONE)], {"stress": 1}).to_dict("list"),
    "table": lambda store: str(store.probe_table(run_key(DONE), "stress", version=1)),
    "plan": lambda store: packing.plan([DONE, OTHER, HALF], store),
    "state": lambda store: {name: str(one) for name, one in (store.load_state(COHORT, "cpu") or {}).items()},
    "progress": lambda store: store.epochs_done(),
    "holders": lambda store: store.holders(),
    "attempts": lambda store: len(store.attempts(HALF)),
    "lease": lease_again,
}
NOTHING_THERE = {
    ("test.json", "gone"): {"list", "read"},
    ("result.json", "gone"): {"list", "finished", "plan", "read"},
    ("stress.probe", "gone"): {"probes", "table"},
    ("spec of a run under way", "gone"): {"list"},
    ("owner", "gone"): {"attempts"},
    ("members", "gone"): {"progress", "plan"},
    ("state", "gone"): {"state"},
    ("progress", "gone"): {"progress"},
    ("heartbeat", "gone"): set(),
}
"""What a file that is not there changes, by design: it is as if that had not been written yet."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", FILES)
def test_damage_ends_in_the_same_result_or_in_one_line_that_names_the_file(whole, said, tmp_path, kind, way):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    path = root / FILES[kind]
    WAYS[way](path, path.read_bytes())
    listed = {one.path for one in examine(RunStore(root), deep=True).damaged}
    assert {one.path for one in examine(RunStore(root)).damaged} <= listed
    assert listed <= {path}, "nothing else is damaged"
    for verb, run in VERBS.items():
        try:
            found = run(RunStore(root))
        except (ValueError, OSError) as error:
            text = str(error)
            there = (kind, way) not in NOTHING_THERE
            assert not there or listed == {path}, "what a verb stumbles over the doctor sees"
            assert str(path) in text and len(text.splitlines()) == 1, (verb, text)
            continue
        if verb == "lease" and kind in ("heartbeat", "owner"):
            continue
        if verb not in NOTHING_THERE.get((kind, way), ()):
            assert repr(found) == said[verb], (verb, kind, way)


def test_a_damaged_heartbeat_counts_for_its_lease_and_then_blocks_nothing(whole, tmp_path, monkeypatch):
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    (root / FILES["heartbeat"]).write_text("{}")
    assert RunStore(root).holders() == {}
    monkeypatch.setattr(holders, "LEASE", -1.0)
    monkeypatch.setattr(holders, "HEARTBEAT", 0.01)
    with RunStore(root).lease([HALF]) as lease:
        assert lease.keys == [run_key(HALF)]
    assert not (root / FILES["heartbeat"]).exists()


def test_what_is_in_the_way_of_a_folder_or_a_result_is_named_with_its_cure(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "store")
    (root / "runs" / "notes.txt").write_text("nobody's run")
    run, stray, looped = (
        RunStore(root).directory(run_key(DONE)),
        root / "cohorts" / "notes.txt",
        root / "runs",
    )
    shutil.rmtree(run)
    for path in (run, stray):
        path.write_text("")
    looped /= f"{run_key(OTHER)}/spec.json"
    looped.unlink()
    looped.symlink_to(looped)
    found = {error.path: f"{error.what}; {error.mend}" for error in examine(RunStore(root)).damaged}
    assert found.pop(run) == found.pop(stray) == "is a file, expected a folder; move it away"
    assert found == {looped: "is a link that leads back to itself; remove it"}
    (tmp_path / "result.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"a link to nothing is in the way; remove it: .*result.json"):
        write_once(tmp_path / "result.json", b"{}")
