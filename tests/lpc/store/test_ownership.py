"""Leases: many real programs on one store, some of them killed."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from support import warm

from lpc.computing.stopping import Stopped
from lpc.data import load_images
from lpc.runs import execute_all, execution, packing, training_loop
from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore, atomic, holders, ownership
from lpc.store.holders import has_died, live_holders, this_process
from lpc.store.ownership import Held, Lease, LostLease
from lpc.training import Trainer

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
DATA = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
TRAIN = TrainSpec(
    epochs=3, batch_size=64, learning_rate=1e-2, record_every=1, gamma_maximum=1.0, metrics="geometry"
)


def make(architecture="IB", *, seed=0, **train):
    return variant_spec(
        architecture,
        data=DATA,
        backbone="mlp",
        backbone_width=12,
        train=dataclasses.replace(TRAIN, **train),
        seed=seed,
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(holders, "HEARTBEAT", 0.1)
    monkeypatch.setattr(execution, "POLL", 0.05)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def has_result(root):
    return lambda key: (root / "runs" / key / "result.json").exists()


def elsewhere(monkeypatch, root, *keys, silent=None):
    """Take a lease as a process on another machine, which gave its last sign of life so many seconds ago."""
    with monkeypatch.context() as patch:
        patch.setattr(holders, "_place", lambda: "elsewhere")
        lease = Lease(root, keys, has_result(root))
    if silent is not None:
        silence(lease, silent)
    return lease


def silence(lease, seconds):
    """Stop a lease's signs of life, and let the last one be this many seconds old."""
    lease._released.set()
    lease._beating.join()
    then = time.time() - seconds
    os.utime(lease._heartbeat, (then, then))


def files(root):
    return {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "heartbeats" not in path.parts
    }


def ended(store_or_root, key):
    return [attempt.ended for attempt in holders.attempts(Path(store_or_root), key)]


RACE = """
import os, signal, sys, time
from pathlib import Path
from lpc.store import holders
from lpc.store.ownership import Lease, Held

root, log, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
finished = lambda key: (root / "runs" / key / "result.json").exists()
if mode == "orphaned":
    holders.HEARTBEAT = 0.1
if mode == "unlocked":
    Lease._gain = lambda self, key: self._root / "runs" / key / f"own-{os.getpid()}"

def note(*words):
    with log.open("a") as stream:
        stream.write(" ".join(words) + "\\n")

note("ready")
while log.read_text().count("ready") < 8:
    time.sleep(0.01)
keys = [f"{place:02}" for place in range(50)]
while left := [key for key in keys if not finished(key)]:
    for key in left:
        try:
            with Lease(root, [key], finished) as lease:
                if lease.keys:
                    note("begin", key, str(os.getpid()))
                    if mode == "deadly" and key in "10 11 12" and log.read_text().count(f"begin {key}") == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    while mode == "unlocked" and log.read_text().count("begin 00") < 8:
                        time.sleep(0.01)  # nothing keeps the others from beginning it, too
                    time.sleep(0.002)
                    (root / "runs" / key).mkdir(parents=True, exist_ok=True)
                    (root / "runs" / key / "result.json").write_text("{}")
                    note("end", key, str(os.getpid()))
        except Held:
            pass
"""


def race(tmp_path, mode):
    """Let eight processes finish fifty runs; return (begun, ended) as their common log has it."""
    root, log = tmp_path / "store", tmp_path / "log"
    script = tmp_path / "race.py"
    script.write_text(RACE)
    with ExitStack() as stack:
        command = (script, root, log, mode)
        several = [stack.enter_context(warm.begin(*command, cwd=ROOT, env=ENVIRONMENT)) for _ in range(8)]
        codes = Counter(process.wait() for process in several)
    assert codes == ({-signal.SIGKILL: 3, 0: 5} if mode == "deadly" else {0: 8})
    lines = [line.split() for line in log.read_text().splitlines() if line != "ready"]
    return tuple(Counter(key for word, key, _ in lines if word == kind) for kind in ("begin", "end"))


@pytest.mark.process
@pytest.mark.parametrize("mode", ["alive", "orphaned", "deadly"])
def test_every_run_is_trained_once_however_many_programs_want_it(tmp_path, monkeypatch, mode):
    if mode == "orphaned":  # a dead machine had them all, and every process goes for its heritage
        dead = elsewhere(
            monkeypatch, tmp_path / "store", *(f"{place:02}" for place in range(50)), silent=10_000
        )
        assert dead.keys
    begun, done = race(tmp_path, mode)
    assert done == {f"{place:02}": 1 for place in range(50)}
    again = {"10": 2, "11": 2, "12": 2} if mode == "deadly" else {}
    assert begun == {**done, **again}
    assert not list((tmp_path / "store" / "heartbeats").iterdir())
    assert not list((tmp_path / "store").glob("runs/*/owner*"))


@pytest.mark.process
def test_without_leases_the_race_is_lost(tmp_path):
    """Negative control: the log shows it."""
    begun, _ = race(tmp_path, "unlocked")
    assert begun["00"] == 8


HOLD = """
import sys, time
from pathlib import Path
from lpc.store.ownership import Lease

with Lease(Path(sys.argv[1]), sys.argv[2:], lambda key: False):
    print("leased", flush=True)
    time.sleep(600)
"""


def test_one_killed_on_this_machine_loses_its_runs_at_once(tmp_path, monkeypatch):
    command = [sys.executable, "-c", HOLD, str(tmp_path), "a", "b"]
    victim = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None and victim.stdout.readline() == "leased\n"
    with pytest.raises(Held, match=rf"run b is held by .*:{victim.pid} since 20"):
        Lease(tmp_path, ["b"], has_result(tmp_path))
    assert {key: holder.pid for key, holder in live_holders(tmp_path).items()} == dict.fromkeys(
        "ab", victim.pid
    )
    assert ended(tmp_path, "a") == [None]
    victim.kill()
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    assert live_holders(tmp_path) == {} and ended(tmp_path, "a") == ["died"]
    monkeypatch.setattr(ownership.time, "sleep", lambda _: pytest.fail("waited for a dead process"))
    with Lease(tmp_path, ["a"], has_result(tmp_path)) as lease:
        assert lease.keys == ["a"]
        assert ended(tmp_path, "a") == ["died", None]
        assert live_holders(tmp_path) == {"a": lease._me}
    victim.wait()
    victim.stdout.close()


def test_who_is_out_of_sight_keeps_its_runs_for_its_lease(tmp_path, monkeypatch):
    lease = elsewhere(monkeypatch, tmp_path, "a")
    for silent, lives in ((0, True), (0.7 * holders.LEASE, True), (holders.LEASE + 20, False)):
        silence(lease, silent)
        assert set(live_holders(tmp_path)) == ({"a"} if lives else set())
        assert ended(tmp_path, "a") == [None if lives else "died"]
        if lives:
            with pytest.raises(Held, match="run a is held"):
                Lease(tmp_path, ["a"], has_result(tmp_path))
    with Lease(tmp_path, ["a"], has_result(tmp_path)) as successor:
        assert successor.keys == ["a"]
        with pytest.raises(LostLease, match="taken for dead"):
            lease.check()


def test_a_clock_that_is_wrong_buries_nobody(tmp_path, monkeypatch):
    lease = elsewhere(monkeypatch, tmp_path, "a")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(Held):
        Lease(tmp_path, ["a"], has_result(tmp_path))
    lease.release()


def test_one_that_wakes_up_while_it_is_looked_at_keeps_its_runs(tmp_path, monkeypatch):
    """A file server that was away leaves everybody silent, but alive."""
    lease = elsewhere(monkeypatch, tmp_path, "a", silent=holders.LEASE + 100)
    monkeypatch.setattr(ownership.time, "sleep", lambda _: os.utime(lease._heartbeat))
    with pytest.raises(Held):
        Lease(tmp_path, ["a"], has_result(tmp_path))
    lease.check()


@pytest.mark.parametrize(
    ("before", "after", "dies"),
    [
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, True),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "7"}, False),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "1"}, False),
        (
            {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "one"},
            {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "two", "SLURM_RESTART_COUNT": "1"},
            False,
        ),
        (
            {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"},
            {
                "SLURM_JOB_ID": "9",
                "SLURM_ARRAY_JOB_ID": "5",
                "SLURM_ARRAY_TASK_ID": "2",
                "SLURM_RESTART_COUNT": "2",
            },
            True,
        ),
        ({}, {"SLURM_RESTART_COUNT": "1"}, False),
    ],
)
def test_a_job_that_was_requeued_has_died_where_it_was(tmp_path, monkeypatch, before, after, dies):
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    lease = elsewhere(monkeypatch, tmp_path, "a")
    for name in before:
        monkeypatch.delenv(name)
    for name, value in after.items():
        monkeypatch.setenv(name, value)
    if dies:
        assert live_holders(tmp_path) == {}
        Lease(tmp_path, ["a"], has_result(tmp_path)).release()
    else:
        with pytest.raises(Held):
            Lease(tmp_path, ["a"], has_result(tmp_path))
        lease.release()
    name = before.get("SLURM_ARRAY_JOB_ID", "")
    assert str(lease._me).endswith(
        f":{os.getpid()}" + (f" (job {name + '_2' if name else '7'})" if before else "")
    )


def test_a_process_is_told_from_a_later_one_with_its_number():
    me = this_process()
    ticks = os.sysconf("SC_CLK_TCK")

    def uptime():
        return float(Path("/proc/uptime").read_text().split()[0])

    before = uptime()
    child = subprocess.Popen(["sleep", "600"])
    now = uptime()
    started = holders._started(child.pid)
    assert started is not None and before - 0.1 <= started / ticks <= now + 0.1  # however long it took
    assert me.started is not None and me.started < started
    theirs = dataclasses.replace(me, pid=child.pid, started=started)
    assert not has_died(me, me) and not has_died(theirs, me)
    assert has_died(dataclasses.replace(theirs, started=started - 1), me)
    child.kill()
    child.wait()
    assert has_died(theirs, me)
    assert not has_died(dataclasses.replace(theirs, place="another boot"), me)
    assert not has_died(dataclasses.replace(theirs, place=None), dataclasses.replace(me, place=None))


def test_what_the_kernel_hides_is_not_taken_for_dead(monkeypatch):
    me = this_process()
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as /proc with hidepid shows others' processes

    def not_ours(_pid, _signal):
        raise PermissionError

    assert not has_died(me, me)
    monkeypatch.setattr(os, "kill", not_ours)
    assert not has_died(me, me)


def test_several_runs_are_leased_all_or_not_at_all(tmp_path):
    with Lease(tmp_path, ["b"], has_result(tmp_path)):
        with pytest.raises(Held, match="run b"):
            Lease(tmp_path, ["c", "b", "a"], has_result(tmp_path))
        assert set(live_holders(tmp_path)) == {"b"}
        assert ended(tmp_path, "a") == [] == ended(tmp_path, "c")
        with Lease(tmp_path, ["a", "c"], has_result(tmp_path)) as lease:
            assert lease.keys == ["a", "c"]
    assert live_holders(tmp_path) == {}


def test_what_finishes_while_it_is_leased_is_left_out(tmp_path):
    answers = iter([False, True, True])
    with Lease(tmp_path, ["a"], lambda _: next(answers)) as lease:
        assert lease.keys == []
        lease.check()
    assert not list(tmp_path.glob("runs/*/owner*")) and not list((tmp_path / "heartbeats").iterdir())
    with Lease(tmp_path / "other", ["a"], lambda _: True) as lease:
        assert lease.keys == []
    assert not (tmp_path / "other").exists()


def test_attempts_say_how_they_ended(tmp_path):
    for error in (Stopped("x"), KeyboardInterrupt(), SystemExit(1), ValueError("no such thing"), Held("y")):
        with pytest.raises(type(error)), Lease(tmp_path, ["a"], has_result(tmp_path)):
            raise error
    with Lease(tmp_path, ["a"], has_result(tmp_path)):
        pass
    assert ended(tmp_path, "a") == ["stopped"] * 3 + ["error: ValueError: no such thing"]
    (first, *_) = holders.attempts(tmp_path, "a")
    assert first.holder.pid == os.getpid() and ended(tmp_path, "never begun") == []


def test_one_that_lost_its_lease_writes_nothing(tmp_path, monkeypatch):
    lease = elsewhere(monkeypatch, tmp_path, "a", silent=holders.LEASE + 100)
    lease._released.clear()
    with Lease(tmp_path, ["a"], has_result(tmp_path)):
        before = files(tmp_path)
        with pytest.raises(LostLease), lease:
            lease.check()
        assert files(tmp_path) == before
    assert ended(tmp_path, "a") == ["died"]


def test_a_sleeper_that_wakes_up_leaves_its_checkpoint_alone(tmp_path, monkeypatch):
    store, spec = RunStore(tmp_path), make()
    (plan,) = packing.plan([spec], store)
    splits = load_images(DATA)
    train, seen = Trainer.train_epoch, {}

    def sleeping(self):
        if self.epoch == 2:
            (heartbeat,) = (tmp_path / "heartbeats").glob("[0-9a-f]*")
            heartbeat.unlink()
            seen["rival"] = store.lease([spec])
            seen["files"] = files(tmp_path)
        return train(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", sleeping)
        with pytest.raises(LostLease):
            training_loop.train_plans([plan], store, splits, lambda _: None, lambda: False, workers=1)
    assert files(tmp_path) == seen["files"] and not store.finished(spec)
    assert store.epochs_done() == {run_key(spec): 2}
    seen["rival"].release()
    execute_all([spec], store, progress=False)
    whole = RunStore(tmp_path / "whole")
    execute_all([spec], whole, progress=False)
    expected, found = whole.load_weights(spec), store.load_weights(spec)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_loss_is_told_and_the_runs_are_left_to_who_has_them(tmp_path, monkeypatch):
    store, spec = RunStore(tmp_path), make()
    train = Trainer.train_epoch

    def sleeping(self):
        if self.epoch == 1:
            (heartbeat,) = (tmp_path / "heartbeats").glob("[0-9a-f]*")
            heartbeat.unlink()
            store.lease([spec])
        return train(self)

    monkeypatch.setattr(Trainer, "train_epoch", sleeping)
    with pytest.warns(UserWarning, match="taken for dead"):
        execute_all([spec], store, progress=False, wait=False)
    assert not store.finished(spec) and ended(tmp_path, run_key(spec)) == ["died", None]


def test_a_plan_that_is_out_of_date_is_not_trained(tmp_path):
    store, (a, b, c) = RunStore(tmp_path), (make(seed=seed) for seed in range(3))
    (plan,) = packing.plan([a, b], store)
    store.begin([b, c])  # another program, stopped since
    before = files(tmp_path)
    splits = load_images(DATA)
    with pytest.raises(Held, match=rf"run {run_key(b)} was begun in cohort .* plan again"):
        training_loop.train_plans([plan], store, splits, lambda _: None, lambda: False, workers=1)
    changed = {path.name for path in files(tmp_path).keys() - before.keys()}
    assert changed == {"owner-1.json"} and ended(tmp_path, run_key(a)) == []
    execute_all([a], other := RunStore(tmp_path / "other"), progress=False)
    with pytest.raises(Held, match="have finished since"):
        training_loop.train_plans([plan], other, splits, lambda _: None, lambda: False, workers=1)
    (alone,) = packing.plan([a], RunStore(tmp_path / "none"))
    training_loop.train_plans(
        [alone], other, splits, lambda _: pytest.fail("trained again"), lambda: False, workers=1
    )


def test_an_error_in_training_is_kept_with_the_attempt(tmp_path, monkeypatch):
    store, spec = RunStore(tmp_path), make()

    def broken(self):
        raise RuntimeError("device-side assert")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", broken)
        with pytest.raises(RuntimeError, match="device-side"):
            execute_all([spec], store, progress=False)
    assert [attempt.ended for attempt in store.attempts(spec)] == ["error: RuntimeError: device-side assert"]
    execute_all([spec], store, progress=False)
    assert store.provenance(spec)["attempts"] == 2 and store.attempts(spec) == []


def test_without_waiting_what_others_have_is_left(tmp_path, monkeypatch):
    store, mine, theirs = RunStore(tmp_path), make("WideIB"), make("IB")
    lease = elsewhere(monkeypatch, tmp_path, run_key(theirs))
    execute_all([mine, theirs, make("IB", seed=1)], store, progress=False, wait=False)
    assert [store.finished(spec) for spec in (mine, theirs, make("IB", seed=1))] == [True, False, True]
    assert store.holders()[run_key(theirs)] == lease._me
    assert not (store.directory(run_key(theirs)) / "spec.json").exists()
    lease.release()


def test_a_signal_ends_waiting(tmp_path, monkeypatch, capsys):
    store, spec = RunStore(tmp_path), make()
    lease = elsewhere(monkeypatch, tmp_path, run_key(spec))
    found, original = [], RunStore.holders

    def signalled(self):
        found.append(original(self))
        if len(found) == 3:
            signal.raise_signal(signal.SIGTERM)
        return found[-1]

    monkeypatch.setattr(RunStore, "holders", signalled)
    with pytest.raises(
        Stopped, match=rf"stopped while waiting for 1 runs held by .*:{os.getpid()}; call again"
    ):
        execute_all([spec], store)
    assert "waiting for 1 runs held by" in capsys.readouterr().err
    assert ended(tmp_path, run_key(spec)) == [None]
    lease.release()


def test_who_waits_takes_over_where_the_holder_dies(tmp_path, monkeypatch):
    store, spec = RunStore(tmp_path), make()
    lease = elsewhere(monkeypatch, tmp_path, run_key(spec))
    looks, original = [], RunStore.holders

    def dies_at_the_third_look(self):
        assert not self.directory(run_key(spec)).joinpath("spec.json").exists(), "begun while another has it"
        looks.append(list(original(self)))
        if len(looks) == 3:
            silence(lease, holders.LEASE + 20)
        return original(self)

    monkeypatch.setattr(RunStore, "holders", dies_at_the_third_look)
    execute_all([spec], store, progress=False)
    assert looks == 3 * [[run_key(spec)]] and store.finished(spec)
    assert store.provenance(spec)["attempts"] == 2


TOGETHER = """
import sys, time
from pathlib import Path
from lpc.runs import execute_all, execution, training_loop
from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore

log, original, execution.POLL = Path(sys.argv[2]), training_loop._Training.begin_epoch, 0.2

def noted(training):
    with log.open("a") as stream:
        for spec in training.plan.specs:
            stream.write(f"{run_key(spec)} {training.trainer.epoch}\\n")
    original(training)

training_loop._Training.begin_epoch = noted
data = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
train = TrainSpec(
    epochs=20, batch_size=64, learning_rate=1e-2, record_every=5, gamma_maximum=1.0, metrics="geometry"
)
specs = [
    variant_spec(name, data=data, backbone="mlp", backbone_width=12, train=train, seed=seed)
    for seed in map(int, sys.argv[3]) for name in ("IB", "WideIB", "NoPenDropout")
]
Path(sys.argv[4]).touch()
while not all(Path(name).exists() for name in sys.argv[4:]):
    time.sleep(0.01)
store = RunStore(sys.argv[1])
execute_all(specs, store, progress=False)
assert all(store.finished(spec) for spec in specs)
"""


@pytest.mark.process
def test_two_programs_that_want_the_same_runs_share_them(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    ready = [str(tmp_path / name) for name in ("one", "two")]
    places = (tmp_path / "store", tmp_path / "log")
    with ExitStack() as stack:
        alone = {**ENVIRONMENT, **warm.ONE_CORE}
        several = [
            stack.enter_context(warm.begin(script, *places, seeds, *order, cwd=ROOT, env=alone))
            for seeds, order in (("012", ready), ("123", ready[::-1]))
        ]
        assert [process.wait() for process in several] == [0, 0], [process.err for process in several]
    store = RunStore(tmp_path / "store")
    assert store.frame()["status"].tolist() == ["finished"] * 12
    trained = Counter((tmp_path / "log").read_text().splitlines())
    assert len(trained) == 12 * 20 and set(trained.values()) == {1}
    assert {store.provenance(store.spec(key))["attempts"] for key in store.frame()["key"]} == {1}
    assert store.cohorts() == {} and store.holders() == {}


def test_holders_are_read_without_a_look_at_the_runs(tmp_path, monkeypatch):
    leases = [Lease(tmp_path, [f"{place}", f"{place}'"], has_result(tmp_path)) for place in range(5)]
    monkeypatch.setattr(holders, "owners", lambda _: pytest.fail("looked at a run"))
    assert set(live_holders(tmp_path)) == {f"{place}{end}" for place in range(5) for end in ("", "'")}
    monkeypatch.undo()
    for lease in leases:
        lease.release()


def test_a_file_gets_its_name_once(tmp_path, monkeypatch):
    path, link = tmp_path / "name", os.link
    for place, first in enumerate((True, False)):
        with atomic.draft(path, atomic.as_json(place)) as temporary:
            assert atomic.name_exclusively(temporary, path) is first
    assert json.loads(path.read_text()) == 0 and list(tmp_path.iterdir()) == [path]

    def repeated(source, target):
        link(source, target)
        raise FileExistsError  # the answer was lost, and NFS asked again

    monkeypatch.setattr(os, "link", repeated)
    with atomic.draft(tmp_path / "other", atomic.as_json(1)) as temporary:
        assert atomic.name_exclusively(temporary, tmp_path / "other")

    def none(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    with pytest.raises(OSError, match=r"has no hard links.*third"):
        Lease(tmp_path, ["third"], has_result(tmp_path))
    assert not list((tmp_path / "heartbeats").iterdir())


def test_who_finds_its_files_removed_by_a_successor_has_lost_its_lease(tmp_path):
    store = RunStore(tmp_path)

    def end_with(error, *, taken_over):
        with store.lease([make()]) as lease:
            if taken_over:
                lease._heartbeat.unlink()
            raise error

    gone, full = FileNotFoundError(errno.ENOENT, "gone"), OSError(errno.ENOSPC, "full")
    with pytest.raises(FileNotFoundError, match="gone"):
        end_with(gone, taken_over=False)
    with pytest.raises(LostLease, match="was taken for dead"):
        end_with(gone, taken_over=True)
    with pytest.raises(OSError, match="full"):
        end_with(full, taken_over=True)


def test_a_refused_claim_writes_nothing_of_its_own(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    with store.lease([make()]):
        monkeypatch.setattr(ownership, "write_json", lambda *_: pytest.fail("a heartbeat was written"))
        monkeypatch.setattr(ownership, "draft", lambda *_: pytest.fail("an owner was written"))
        with pytest.raises(Held, match=f"run {run_key(make())} is held by .*:{os.getpid()}"):
            store.lease([make()])
        monkeypatch.undo()
    with store.lease([make()]) as lease:
        assert lease.keys == [run_key(make())]
