"""Leftovers of killed programs are found and removed; files of a living one, awake or asleep, are not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import warm
from support.ended_runs import end

from lpc.runs import execute_all
from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore, holders, leftovers, writers
from lpc.store.atomic import draft
from lpc.store.writers import draft_named, draft_of, mark

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
DATA = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
TRAIN = TrainSpec(
    epochs=1, batch_size=64, learning_rate=1e-2, record_every=1, gamma_maximum=1.0, metrics="geometry"
)


def make(seed=0):
    return variant_spec("IB", data=DATA, backbone="mlp", backbone_width=8, train=TRAIN, seed=seed)


ONE, TWO, HALF = make(0), make(1), make(2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(holders, "HEARTBEAT", 0.1)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def names(store):
    """What is left, by the first part of its path and its description's first word."""
    found = [one.path.relative_to(store.root.absolute()) for one in store.leftovers()]
    return sorted(path.parts[0] + ("/." if path.name.startswith(".") else "") for path in found)


def files(root):
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


HOLD = """
import sys, time
from pathlib import Path
import torch
from support.ended_runs import end
from lpc.store.writers import draft_of
sys.path.insert(0, {folder!r})
from test_leftovers import HALF, ONE, TWO, RunStore, run_key

store = RunStore(sys.argv[1])
lease = store.lease([ONE, TWO, HALF])
cohort = store.begin([ONE, TWO])
store.save_state(cohort, {{"weight": torch.ones(3)}}, epoch=1)
for spec in (ONE, TWO):
    store.finish(spec, result={{"status": "finished"}}, history=[], provenance={{}}, weights={{}})
store.save_state(store.begin([HALF]), {{"weight": torch.ones(3)}}, epoch=1)
draft_of(store.directory(run_key(HALF)) / "result.json").write_text("half")
draft_of(store.root / "cohorts" / cohort / "state.pt").write_text("half")
print("ready", flush=True)
sys.stdin.readline()
lease.check()
store.end(cohort)
lease.release(ended="stopped")
"""


@pytest.fixture
def program(tmp_path):
    """A program that has finished two runs, is about to say so, and has a third one."""
    command = [sys.executable, "-c", HOLD.format(folder=str(Path(__file__).parent)), str(tmp_path / "store")]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_what_a_killed_program_leaves_is_swept_and_nothing_else(program, tmp_path):
    store = RunStore(tmp_path / "store")
    assert names(store) == [], "it lives"
    program.kill()
    program.wait()
    expected = ["cohorts", "cohorts/.", "heartbeats", "runs", "runs", "runs/."]
    assert names(store) == expected and names(store) == expected, "looking changes nothing"
    before = files(store.root)
    assert [one.error for one in store.sweep()] == [None] * 4, "owner files go with the cohort"
    gone = before - files(store.root)
    assert sorted(path.name for path in gone if path.parts[0] == "runs" and path.name[0] != ".") == (
        ["owner-1.json"] * 2
    )
    assert names(store) == [] and not list((store.root / "heartbeats").iterdir())
    assert list(store.cohorts().values()) == [[run_key(HALF)]]
    assert store.load_state(RunStore.cohort([HALF]), "cpu") is not None
    assert [one.ended for one in store.attempts(HALF)] == ["died"], "attempts at what is unfinished are kept"
    assert store.finished(ONE) and store.finished(TWO) and not store.finished(HALF)


def test_one_that_sleeps_beyond_its_lease_keeps_everything(program, tmp_path):
    store = RunStore(tmp_path / "store")
    program.send_signal(signal.SIGSTOP)
    (heartbeat,) = (store.root / "heartbeats").iterdir()
    for path in store.root.rglob("*"):
        os.utime(path, (1.0, 1.0))
    before = files(store.root)
    assert store.sweep() == [] and files(store.root) == before and heartbeat.exists()
    program.send_signal(signal.SIGCONT)
    program.communicate("go on\n", timeout=500)
    assert program.returncode == 0, "it still had its lease"


def test_who_is_out_of_sight_counts_by_its_lease_and_by_its_runs(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(holders, "_place", lambda: "elsewhere")
        patch.setattr(writers, "place", lambda: "elsewhere")
        lease = store.lease([ONE])
        foreign = draft_of(store.directory(run_key(ONE)) / "result.json")
        foreign.touch()
    lease._released.set()
    lease._beating.join()
    cohort = store.begin([ONE])
    then = time.time() - 10 * leftovers.FORGOTTEN
    os.utime(lease._heartbeat, (then, then))
    assert store.sweep() == [], "its run has not finished: who trains it takes over"
    os.utime(foreign, (then, then))
    assert [one.leftover.path for one in store.sweep()] == [foreign.absolute()]
    store.finish(ONE, result={"status": "finished"}, history=[], provenance={}, weights={})
    now = time.time() - 0.5 * holders.LEASE
    os.utime(lease._heartbeat, (now, now))
    assert store.sweep() == [], "it gave a sign of life within its lease"
    os.utime(lease._heartbeat, (then, then))
    assert names(store) == ["cohorts", "heartbeats", "runs"]
    assert len(store.sweep()) == 2, "owner files go with the cohort"
    assert names(store) == [] and not (store.root / "cohorts" / cohort).exists() and store.finished(ONE)
    assert files(store.directory(run_key(ONE))) == {
        Path(name) for name in ("spec.json", "history.jsonl", "provenance.json", "checkpoint.safetensors")
    } | {Path("result.json")}


def test_a_damaged_heartbeat_goes_after_its_lease_unless_it_beats_on(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    path = (tmp_path / "heartbeats").absolute() / ("f" * 32)
    path.parent.mkdir()
    path.write_text("{}")
    assert names(store) == []
    then = time.time() - holders.LEASE - 30
    os.utime(path, (then, then))
    assert names(store) == ["heartbeats"] and store.sweep(patient=False) == []
    monkeypatch.setattr(leftovers.time, "sleep", lambda _: os.utime(path))
    assert store.sweep() == [] and path.exists(), "a file server that was away leaves everybody silent"
    os.utime(path, (then, then))
    monkeypatch.setattr(leftovers.time, "sleep", lambda _: None)
    assert [one.leftover.path for one in store.sweep()] == [path] and not path.exists()


def test_what_is_left_of_an_ended_cohort_goes_once_nobody_can_be_about_to_begin_it(tmp_path):
    store = RunStore(tmp_path)
    cohort = store.begin([ONE])
    store.save_state(cohort, {"weight": torch.ones(1)}, epoch=1)
    folder = store.root / "cohorts" / cohort
    (folder / "members.json").unlink()  # where a kill may leave store.end
    with store.lease([TWO]):
        assert names(store) == []
    assert names(store) == ["cohorts"]
    found = list(leftovers._Search(store.root, store.has_ended, None).all())
    store.begin([ONE])
    store.save_state(cohort, {"weight": torch.zeros(1)}, epoch=2)
    os.utime(folder / "progress.json", (1, 1))
    assert found[0].remove() is False, "both have been written anew since they were looked at"
    state = store.load_state(cohort, "cpu")
    assert state is not None and float(state["weight"]) == 0.0 and store.progress(cohort) == 2
    (folder / "members.json").unlink()
    assert [one.error for one in store.sweep()] == [None] and not folder.exists()


def test_names_of_drafts(tmp_path, monkeypatch):
    def named(path):
        found = draft_named(path.name)
        return None if found is None else tuple(found)

    mine = draft_of(tmp_path / "checkpoint.safetensors")
    assert named(mine) == ("checkpoint.safetensors", False)
    child = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(os, "getpid", lambda: child.pid)
    theirs = draft_of(tmp_path / "owner-1.json")
    monkeypatch.undo()
    assert named(theirs) == ("owner-1.json", False)
    child.kill()
    child.wait()
    assert named(theirs) == ("owner-1.json", True)
    assert named(tmp_path / theirs.name.replace(mark()[:8], "0" * 8)) == ("owner-1.json", None)
    assert named(tmp_path / ".state.pt.0123456789ab") == ("state.pt", None), "of an earlier version"
    for name in ("spec.json", ".hidden", ".nfs000000001", ".DS_Store"):
        assert named(tmp_path / name) is None
    with draft(tmp_path / "spec.json", lambda path: path.write_text("x")) as temporary:
        assert named(temporary) == ("spec.json", False)


def test_others_hidden_files_are_left_alone(tmp_path):
    store = RunStore(tmp_path)
    end(store, ONE)
    for folder in (tmp_path, store.directory(run_key(ONE)), tmp_path / "cohorts"):
        for name in (".DS_Store", ".nfs000000000001", ".notes.backup00", ".directory"):
            (folder / name).touch()
            os.utime(folder / name, (1, 1))
    assert names(store) == [] and store.sweep() == []


TRAINS = """
import shutil, sys, time
sys.path.insert(0, {folder!r})
from test_leftovers import HALF, ONE, RunStore, run_key
from lpc.store import Held

def leased():
    while True:
        try:
            return RunStore(sys.argv[1]).lease([ONE, HALF])
        except Held:  # by a sweep that saw these runs finished; as training does, wait
            time.sleep(0.01)


store = RunStore(sys.argv[1])
turn = 0
while turn < 10 or not (store.root / "enough").exists():
    turn += 1
    with leased() as lease:
        cohort = store.begin([ONE, HALF])
        for epoch in (1, 2):
            lease.check()
            store.save_state(cohort, {{"turn": turn, "epoch": epoch}}, epoch=epoch)
            found = store.load_state(cohort, "cpu")
            assert (found["turn"], found["epoch"]) == (turn, epoch), "a checkpoint was lost"
        for spec in (ONE, HALF):
            store.finish(spec, result={{"status": "finished"}}, history=[], provenance={{}}, weights={{}})
        lease.check()
        store.end(cohort)
    for spec in (ONE, HALF):
        shutil.rmtree(store.directory(run_key(spec)), ignore_errors=True)
        (store.directory(run_key(spec)) / "result.json").unlink(missing_ok=True)
    store = RunStore(sys.argv[1])
print("trained")
"""


@pytest.mark.parametrize("blind", [False, True])
def test_a_training_that_starts_and_ends_loses_nothing_to_sweeps(tmp_path, monkeypatch, blind):
    """Two processes, one of which sweeps all the time; one that takes everybody for dead does harm."""
    if blind:
        for module in (writers, holders):
            monkeypatch.setattr(module, "has_ended", lambda *_: True)
    source = TRAINS.format(folder=str(Path(__file__).parent))
    sweeps = 0
    with warm.begin("-c", source, tmp_path, cwd=ROOT, env=ENVIRONMENT) as process:
        while process.poll() is None:
            RunStore(tmp_path).sweep()
            sweeps += 1
            if sweeps == 40 and not blind:
                (tmp_path / "enough").touch()
        out, err = process.out, process.err
    if blind:
        assert process.returncode and err
    else:
        assert (out, err) == ("trained\n", "")


def test_a_training_sweeps_the_runs_it_trained(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    dead = f"{mark().split('-')[0]}-4194999-1"
    for key in (run_key(ONE), run_key(TWO)):
        store.directory(key).mkdir(parents=True)
        (store.directory(key) / f".result.json.{dead}.0123456789ab").touch()
    execute_all([ONE], store, progress=False)
    assert [one.path.parent.name for one in store.leftovers()] == [run_key(TWO)]
    looked = []
    monkeypatch.setattr(RunStore, "sweep", lambda *_, **__: looked.append(1))
    execute_all([ONE], store, progress=False)
    assert looked == [], "where nothing was trained there is nothing to sweep"
