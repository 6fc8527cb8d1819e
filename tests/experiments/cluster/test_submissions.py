"""Requests, their missing runs, and their jobs in the queue; no scheduler is needed."""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from support.ended_runs import end
from support.pretended_runs import pretend

from experiments.cluster import jobs as queue
from experiments.cluster import slurm, submit, worker
from experiments.cluster.missing_runs import missing, report
from experiments.cluster.submissions import (
    Kind,
    Request,
    SubmittedJob,
    begin,
    difference,
    every,
    read,
    rebuild,
)
from experiments.publishing import plan
from experiments.studies import profiles, recorded
from experiments.studies.profiles import PROFILES, specs
from lpc.computing import stopping
from lpc.computing.stopping import STATUSES
from lpc.specs import run_key
from lpc.store import RunStore, holders

RESOURCES = '[all]\ntime = "1 h"\ntries = 2\nruns_at_once = 2\n'


@pytest.fixture
def request_(tmp_path, monkeypatch):
    """A request for four runs in two cohorts; profile ``alone`` has four that train alone."""
    smoke = replace(PROFILES["smoke"], architectures=("IB", "NoPen"), seeds=(0,))
    monkeypatch.setitem(profiles.PROFILES, "smoke", smoke)
    solo = replace(smoke.train, precision="bfloat16")
    monkeypatch.setitem(profiles.PROFILES, "alone", replace(smoke, name="alone", train=solo, retrain=True))
    (tmp_path / "cluster.toml").write_text(RESOURCES)
    return Request(profile="smoke", store=str(tmp_path / "store"), resources=str(tmp_path / "cluster.toml"))


@pytest.fixture
def scheduler(monkeypatch):
    """A queue that tests fill with jobs: states by task."""
    tasks = {}

    def states(jobs):
        wanted = set(jobs)
        return {
            name: slurm.QueuedTask(name, *rest)
            for name, rest in tasks.items()
            if name.split("_")[0] in wanted
        }

    monkeypatch.setattr(slurm, "states", states)
    monkeypatch.setattr(slurm, "require", lambda: None)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tasks


def ended(store, specs):
    """Write runs that have ended."""
    for spec in specs:
        end(store, spec, validation_accuracy=0.5, validation_cross_entropy=spec.train.learning_rate)


class TestRecords:
    def test_a_record_is_read_back_as_it_was_written(self, request_):
        asked = replace(request_, only=("IB", "NoPen"), seeds=1, dataset="digits", turn=2)
        made = begin(asked).with_job(
            SubmittedJob(kind="train", profile="smoke", tasks={"7_0": ["a", "b"], "7_1": ["c"]})
        )
        made = made.with_job(SubmittedJob(kind="finish", profile="smoke", tasks={"8": []}))
        made.write()
        assert read(request_.store, made.id) == made == rebuild(asdict(made))
        assert [job.id for job in made.jobs] == ["7", "8"]
        later = replace(made, id=made.id + "x")
        later.write()
        assert list(every(request_.store)) == [made, later]
        assert sorted(path.name for path in Path(request_.store, "submissions").iterdir()) == [
            f"{made.id}.json",
            f"{later.id}.json",
        ]

    def test_the_first_turn_says_since_when_and_later_ones_keep_it(self, request_):
        first = begin(request_)
        assert first.request.since == first.created
        assert begin(replace(first.request, turn=2, since="2026-01-01")).request.since == "2026-01-01"
        assert first.id != begin(request_).id

    def test_nobody_else_may_write_where_pickles_lie(self, request_, monkeypatch):
        folder = Path(request_.store) / "submissions"
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        made = begin(request_)
        made.write()
        assert folder.stat().st_mode & 0o777 == 0o700 and not made.folder.exists()
        made.make_folder()
        assert made.folder.stat().st_mode & 0o777 == 0o700
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
        with pytest.raises(ValueError, match=f"^{folder} belongs to another user, who could run code"):
            begin(request_).write()

    def test_unknown_and_broken_records_are_named(self, request_, tmp_path):
        made = begin(request_)
        made.write()
        with pytest.raises(
            ValueError, match=r"there is no submission 'x': .*/empty/submissions has no submissions"
        ):
            read(tmp_path / "empty", "x")
        with pytest.raises(ValueError, match=f"unknown submission in .*'{made.id}x'. Did you mean {made.id}"):
            read(request_.store, f"{made.id}x")
        path = made.folder.with_suffix(".json")
        for text in ("{", "{}", json.dumps({**json.loads(path.read_text()), "more": 1}), "[]"):
            path.write_text(text)
            what = "(is not the record of a submission of this|is not whole JSON|holds a list)"
            with pytest.raises(ValueError, match=f"{made.id}.json {what}.*; remove it once"):
                read(request_.store, made.id)

    def test_how_code_differs_is_said_in_words(self, request_):
        ours = begin(request_).code
        assert difference(ours, ours) is None
        assert difference(ours, json.loads(json.dumps(ours))) is None
        versions = {**ours["versions"], "torch": "1.0"}
        assert (
            difference(ours, {**ours, "versions": versions})
            == f"torch {ours['versions']['torch']} here, 1.0 there"
        )
        other = {**ours, "digest": "0", "commit": "0123456789", "python": "3.9.0"}
        words = difference({**ours, "commit": "abcdefabcdef"}, other)
        assert words is not None and words.startswith(
            "lpc and experiments are at commit abcdefab here, at 01234567 there; Python 3."
        )
        assert "with other local changes" in str(difference(ours, {**ours, "digest": "0"}))


class TestOutstanding:
    def test_what_ended_is_not_missing_and_failures_count_since_the_first_turn(self, request_, monkeypatch):
        store = RunStore(request_.store)
        first, second, *rest = request_.selection.declared()["smoke"]
        ended(store, rest)

        def fail(spec, message):
            with pytest.raises(RuntimeError), store.lease([spec]):
                raise RuntimeError(message)

        fail(first, "long ago")
        asked = replace(request_, since="2999-01-01T00:00:00+00:00")
        assert [one.failures for one in missing(asked)] == [(), ()]
        fail(first, "again")
        one, other = missing(request_)
        assert (one.name, other.name) == (run_key(first), run_key(second))
        assert one.given_up and not other.given_up and other.failures == ()
        assert [text.split(": ", 1)[1] for text in one.failures] == [
            "error: RuntimeError: long ago",
            "error: RuntimeError: again",
        ]
        words = report(request_, [one, other])
        assert words.splitlines()[0] == "profile smoke: 2 runs are missing"
        assert words.count("RuntimeError") == 2 and run_key(second)[:12] in words
        assert report(request_, []) == "profile smoke: all 4 runs have ended"

    def test_what_was_stopped_is_no_failure(self, request_):
        store = RunStore(request_.store)
        spec = request_.selection.declared()["smoke"][0]
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt), store.lease([spec]):
                raise KeyboardInterrupt
        assert missing(request_)[0].failures == ()

    def test_selected_runs_are_missing_until_they_are_trained_again(self, request_):
        asked = replace(request_, profile="alone")
        store = RunStore(request_.store)
        assert [one.name for one in missing(asked)][4:] == ["IB/0", "NoPen/0"]
        ended(store, asked.selection.declared()["alone"])
        assert [one.name for one in missing(asked)] == ["IB/0", "NoPen/0"]


class TestBatches:
    def test_cohorts_are_tasks_runs_alone_are_packed_and_the_chosen_follow(self, request_):
        (train,) = submit.batches(request_)
        assert train.name == "lpc-train-smoke"
        keys = [run_key(spec) for spec in request_.selection.declared()["smoke"]]
        assert sorted(map(sorted, train.tasks)) == sorted([sorted(keys[:2]), sorted(keys[2:])])
        train, again = submit.batches(replace(request_, profile="alone"))
        assert list(map(len, train.tasks)) == [2, 2]
        assert again.tasks == [["IB/0", "NoPen/0"]]

    def test_what_others_have_and_what_was_given_up_is_left_out(self, request_):
        asked = replace(request_, profile="alone")
        specs = asked.selection.declared()["alone"]
        keys = [run_key(spec) for spec in specs]
        train, again = submit.batches(asked, [*keys[:3], "alone IB/0"])
        assert train.tasks == [[keys[3]]] and again.tasks == [["NoPen/0"]]
        for _ in range(2):
            with pytest.raises(RuntimeError), RunStore(request_.store).lease(specs[:1]):
                raise RuntimeError
        first, second = (submit.batches(replace(asked, turn=turn))[0].tasks for turn in (1, 2))
        assert any(keys[0] in task for task in first), "a new request tries again"
        assert not any(keys[0] in task for task in second)

    def test_a_finished_request_has_only_the_last_job_and_not_twice(self, request_, scheduler):
        ended(RunStore(request_.store), request_.selection.declared()["smoke"])
        found, _ = submit.prepare(request_, {})
        assert [one.kind for one in found] == ["finish"]
        begin(request_).with_job(SubmittedJob(kind="finish", profile="smoke", tasks={"8": []})).write()
        scheduler["8"] = ("PENDING", "Dependency", "")
        assert submit.prepare(request_, queue.queued(request_.store)) == ([], [])

    def test_batches_wait_for_those_that_they_need(self, request_, scheduler):
        made = begin(request_)
        jobs: list[tuple[Kind, str, str]] = [
            ("train", "alone", "3_0"),
            ("train", "smoke", "5"),
            ("finish", "smoke", "6"),
        ]
        for kind, profile, name in jobs:
            made = made.with_job(SubmittedJob(kind=kind, profile=profile, tasks={name: ["k"]}))
            scheduler[name] = ("RUNNING", "None", "n")
        made.write()
        there = queue.queued(request_.store)
        sent = [("train", "alone", "9"), ("retrain", "alone", "10")]

        def after(kind):
            return submit._after(submit.Batch(kind, "alone", [["k"]]), there, sent)

        assert after("train") == []
        assert after("retrain") == ["3", "9"]
        assert after("finish") == ["3", "5", "6", "9", "10"]


class TestQueue:
    def submitted(self, request_, **tasks):
        made = begin(request_).with_job(
            SubmittedJob(kind="train", profile="smoke", tasks=tasks or {"3_0": ["a"], "3_1": ["b"]})
        )
        made = made.with_job(SubmittedJob(kind="finish", profile="smoke", tasks={"4": []}))
        made.write()
        return made

    def test_tasks_are_counted_by_what_they_wait_for(self, request_, scheduler):
        assert queue.in_queue(request_.store) == []
        made = self.submitted(request_)
        assert queue.in_queue(request_.store) == []
        scheduler |= {"3_0": ("RUNNING", "None", "node1"), "3_1": ("PENDING", "BeginTime", "")}
        scheduler |= {"4": ("PENDING", "Dependency", ""), "99": ("RUNNING", "None", "node1")}
        assert queue.in_queue(request_.store) == [
            f"job 3 (train smoke, submission {made.id}): 1 running, 1 pending (BeginTime)",
            f"job 4 (finish smoke, submission {made.id}): 1 pending (Dependency)",
        ]

    def test_a_silent_scheduler_is_said_not_taken_for_an_empty_queue(self, request_, scheduler, monkeypatch):
        def silent(jobs):
            raise slurm.SchedulerError("SLURM's controller does not answer")

        self.submitted(request_)
        monkeypatch.setattr(slurm, "states", silent)
        assert queue.in_queue(request_.store) == [
            "the queue is not known: SLURM's controller does not answer"
        ]
        with pytest.raises(slurm.SchedulerError):
            queue.queued(request_.store)

    def test_the_last_job_does_not_see_itself(self, request_, scheduler, monkeypatch):
        self.submitted(request_)
        scheduler |= {"3_1": ("RUNNING", "None", "n"), "4": ("RUNNING", "None", "n")}
        assert list(queue.queued(request_.store)) == ["3", "4"]
        monkeypatch.setenv("SLURM_JOB_ID", "4")
        assert list(queue.queued(request_.store)) == ["3"]

    def test_what_is_named_is_taken_back_and_nothing_else(self, request_, scheduler, monkeypatch):
        cancelled = []
        monkeypatch.setattr(slurm, "cancel", lambda jobs: cancelled.extend(jobs))
        first = self.submitted(request_)
        assert queue.take_back(request_.store) == [f"no job of {request_.store} is in the queue"]
        scheduler |= {"3_0": ("RUNNING", "None", "n"), "4": ("PENDING", "Dependency", "")}
        assert queue.take_back(request_.store, [first.id]) == [
            f"job 3 of submission {first.id} is cancelled",
            f"job 4 of submission {first.id} is cancelled",
        ]
        assert cancelled == ["3", "4"]
        with pytest.raises(ValueError, match="unknown submission"):
            queue.take_back(request_.store, ["2026"])
        other = replace(
            first, id="other", jobs=(SubmittedJob(kind="train", profile="smoke", tasks={"11": ["z"]}),)
        )
        other.write()
        scheduler["11"] = ("RUNNING", "None", "n")
        assert queue.take_back(request_.store, ["other"]) == ["job 11 of submission other is cancelled"]


AGAIN = f"""set -u
squeue() {{ echo "$STATE"; echo "squeue $*" >> calls; }}
scontrol() {{ echo "scontrol $*" >> calls; }}
{submit.AGAIN}
exit $CODE
"""


class TestShell:
    """What a task's shell does once Python has ended."""

    def run(self, folder, code, state="RUNNING", **variables):
        values = {
            "SLURM_JOB_ID": "12",
            "SLURMD_NODENAME": "node1",
            "LPC_SUBMISSION": str(folder),
            "LPC_TRIES": "2",
        }
        values |= {"PATH": os.environ["PATH"], "CODE": str(code), "STATE": state, **variables}
        done = subprocess.run(["bash", "-c", AGAIN], cwd=folder, env=values, check=False)
        calls = folder / "calls"
        found = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return done.returncode, [call for call in found if call.startswith("scontrol")]

    def test_what_succeeded_or_was_cancelled_is_left_alone(self, tmp_path):
        assert self.run(tmp_path, 0) == (0, [])
        for state in ("CANCELLED", "COMPLETING", ""):
            assert self.run(tmp_path, 130, state) == (130, [])
            assert self.run(tmp_path, 1, state) == (1, [])
        assert not list(tmp_path.iterdir())

    def test_what_was_stopped_is_requeued_any_number_of_times(self, tmp_path):
        for code in (130, 138, 143, 143, 130):
            assert code in STATUSES
            assert self.run(tmp_path, code) == (code, ["scontrol requeue 12"])
        assert not list(tmp_path.iterdir())

    def test_a_task_is_requeued_by_the_name_of_its_array(self, tmp_path):
        array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
        assert self.run(tmp_path, 130, **array)[1] == ["scontrol requeue 12_3"]
        self.run(tmp_path, 1, **array)
        assert (tmp_path / "12_3.failed").read_text().endswith(" node1 status 1\n")

    def test_failures_are_counted_up_to_the_tries(self, tmp_path):
        assert self.run(tmp_path, 137) == (137, ["scontrol requeue 12"])
        assert self.run(tmp_path, 130)[1] == ["scontrol requeue 12"]
        assert self.run(tmp_path, 1) == (1, [])
        assert len((tmp_path / "12.failed").read_text().splitlines()) == 2


class TestTasks:
    """What a task does with runs that another node has, or had."""

    def held(self, store, spec, *, silent):
        """Write the lease of a process on another node, whose last sign of life is this many seconds old."""
        lease = store.lease([spec])
        heartbeat, own = lease._heartbeat, lease._gained[run_key(spec)]
        lease._released.set()
        lease._beating.join()  # its thread gives no more signs
        elsewhere = {"host": "node7", "place": "node7 boot pid", "job": "3_0", "cluster": "c"}
        for path in (heartbeat, own):
            path.write_text(json.dumps({**json.loads(path.read_text()), **elsewhere}))
        then = time.time() - silent
        os.utime(heartbeat, (then, then))

    def test_runs_of_a_node_that_fell_silent_are_taken_over_those_of_one_that_lives_are_left(
        self, request_, monkeypatch, capsys
    ):
        monkeypatch.setattr(holders, "HEARTBEAT", 0.1)
        asked = replace(request_, profile="alone", resources=self.one_at_once(request_))
        store = RunStore(request_.store)
        silent, alive, *rest = asked.selection.declared()["alone"]
        ended(store, rest)
        self.held(store, silent, silent=holders.LEASE + 5)
        self.held(store, alive, silent=holders.LEASE / 2)
        values = asdict(begin(asked))
        worker.run(values, "train", "alone", [run_key(silent), run_key(alive), run_key(rest[0])])
        told = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in told] == [
            "training from epoch 0",
            "training from epoch 0",
            "finished already",
            "another program is training it",
        ]
        assert run_key(alive)[:12] in told[-1]
        assert store.finished(silent) and not store.finished(alive)
        assert store.provenance(silent)["attempts"] == 2

    @staticmethod
    def one_at_once(request_):
        path = Path(request_.resources)
        path.write_text(RESOURCES.replace("runs_at_once = 2\n", ""))
        return str(path)

    def test_other_code_trains_nothing(self, request_):
        values = asdict(begin(request_))
        values["code"] = {**values["code"], "digest": "0"}
        with pytest.raises(ValueError, match="this node would mix code: lpc and experiments are at commit"):
            worker.run(values, "train", "smoke", [])
        assert not Path(request_.store).exists()

    def test_a_rate_that_cannot_be_chosen_yet_is_left_out(self, request_, capsys):
        asked = replace(request_, profile="alone")
        worker.run(asdict(begin(asked)), "retrain", "alone", ["IB/0"])
        assert (
            "left out: IB/0, whose learning rates have not all ended: none is chosen yet"
            in capsys.readouterr().out
        )
        assert not (Path(request_.store) / "runs").exists()

    @pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130)])
    def test_a_signal_leaves_with_the_status_that_is_queued_again(
        self, request_, monkeypatch, capsys, number, status
    ):
        monkeypatch.setattr(stopping, "_last", None)

        def stopped(*_, **__):
            with stopping.stop_on_signal() as stop:
                signal.raise_signal(getattr(signal, number))
                assert stop()
            raise worker.Stopped("stopped after epoch 7 of 400")

        monkeypatch.setattr(worker, "execute_all", stopped)
        with pytest.raises(SystemExit) as caught:
            worker.run(asdict(begin(request_)), "train", "smoke", [])
        assert caught.value.code == status
        assert "stopped after epoch 7" in capsys.readouterr().out


def test_a_narrow_request_does_not_replace_a_wider_record(monkeypatch, tmp_path, rng):
    other = replace(PROFILES["smoke"], name="other", architectures=("IB", "NoPen"), seeds=(0,))
    monkeypatch.setitem(PROFILES, "other", other)
    monkeypatch.setattr(recorded, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(worker, "BUILD", tmp_path / "build")
    store = RunStore(tmp_path / "runs")
    for spec in specs(other):
        pretend(store, spec, rng)
    asked = Request(profile="other", only=("IB",), store=str(store.root), pages=False)
    worker.finish(begin(asked))
    assert set(pd.read_csv(tmp_path / "build" / "tables" / "runs.csv")["architecture"]) == {"IB"}
    assert set(pd.read_csv(tmp_path / "results" / "other" / "runs.csv")["architecture"]) == {"IB", "NoPen"}


class TestSiblings:
    @pytest.fixture
    def told(self, tmp_path, scheduler, monkeypatch):
        """Return what a dry run would submit on a cluster without limits that has all data."""
        (tmp_path / "cluster.toml").write_text('[all]\ntime = "1 h"\n[paper-embedding]\nruns_at_once = 5\n')
        monkeypatch.setattr(slurm, "time_limit", lambda partition: None)
        monkeypatch.setattr(slurm, "max_array", lambda: 1_001)
        monkeypatch.setattr(slurm, "test", lambda text: None)
        monkeypatch.setattr(submit, "absent_files", lambda name: [])
        places = {"store": str(tmp_path / "store"), "resources": str(tmp_path / "cluster.toml")}

        def dry_run(**asked):
            lines = []
            assert submit.send(Request(**places, **asked), worker.run, lines.append, dry_run=True) is None
            return [line.splitlines()[0] for line in lines if line.startswith("###")]

        return dry_run

    def test_a_dry_run_without_a_scheduler_shows_the_scripts_unchecked(self, tmp_path, monkeypatch):
        (tmp_path / "cluster.toml").write_text('[all]\ntime = "1 h"\n')
        monkeypatch.setattr(submit, "absent_files", lambda name: [Path("train.gz")])
        monkeypatch.setenv("PATH", str(tmp_path))
        asked = Request(
            profile="smoke",
            only=("IB",),
            store=str(tmp_path / "store"),
            resources=str(tmp_path / "cluster.toml"),
        )
        lines = []
        assert submit.send(asked, worker.run, lines.append, dry_run=True) is None
        text = "\n".join(lines)
        assert "unchecked: no SLURM on this machine: sbatch is not found" in text
        assert "do this first: data set 'digits' is incomplete" in text
        assert "smoke: 4 of 4 runs are missing" in text and " kept, and " in text
        assert "### 1 task, 4 runs of smoke\n#!/bin/bash" in text and "#SBATCH --time=60" in text
        with pytest.raises(slurm.SchedulerError, match="no SLURM on this machine"):
            submit.send(asked, worker.run, lines.append)

    @pytest.mark.slow
    def test_the_release_of_2025_is_submitted_as_the_paper_is(self, told):
        assert told(profile="paper-embedding", dataset="CIFAR10") == [
            "### 105 tasks, 525 runs of paper-cifar10-embedding",
            "### 21 tasks, 105 selected runs of paper-cifar10-embedding again on the full train set",
            "### tables, chapters and book of paper-embedding",
        ]
        assert len(told(profile="paper-embedding")) == 5
        assert told(profile="laptop-gammas", seeds=1, only=("gamma0", "gamma1"))[0].endswith(
            "2 runs of laptop-gammas"
        )

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            ({"profile": "paper-embeding"}, "'paper-embeding'. Did you mean paper-embedding"),
            ({"profile": "paper-embedding", "dataset": "svhn"}, "Known: cifar10, cifar100"),
            ({"profile": "laptop-gammas", "only": ("IB",)}, "architecture of profile laptop-gammas 'IB'"),
            ({"profile": "laptop", "beside": "laptop-gammas"}, "'laptop-gammas'.*Known: smoke, laptop"),
        ],
    )
    def test_what_is_wrong_is_named_before_anything_is_submitted(self, told, asked, words):
        with pytest.raises(ValueError, match=words):
            told(**asked)

    def test_the_pages_of_a_sibling_are_those_of_the_profile_beside_which_it_stands(
        self, tmp_path, monkeypatch
    ):
        made = []
        monkeypatch.setattr(plan, "lacking", lambda name, *, seeds, **_: "seeds" * (seeds != 2))
        monkeypatch.setattr(plan, "make", lambda name, **given: made.append((name, given["seeds"])))
        asked = Request(profile="fashion-embedding", store=str(tmp_path / "store"))
        worker._make_pages(asked, "fashion-embedding", tmp_path)
        assert made == [("fashion", 2)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ["0", "1"]),
        ("2,3", ["2", "3"]),
        ("GPU-5f1c, GPU-77aa", ["GPU-5f1c", "GPU-77aa"]),
        ("MIG-1/7/0,MIG-1/8/0,MIG-1/9/0", ["MIG-1/7/0", "MIG-1/8/0"]),
    ],
)
def test_programs_get_the_gpus_that_are_the_users_own(monkeypatch, given, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert worker.visible_gpus(2) == expected


def test_fewer_gpus_named_than_seen_is_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with pytest.raises(ValueError, match="'2' names 1 GPUs, but torch sees 2"):
        worker.visible_gpus(2)


def test_tasks_share_what_was_compiled_in_the_store_or_where_the_user_says(request_, tmp_path):
    asked = replace(request_, store=str(tmp_path / "a store"))
    resources = submit.read_resources(Path(asked.resources)).of("smoke")
    made = submit.executor(submit.Batch("train", "smoke", [["key"]]), begin(asked), resources, ())
    lines = [line for line in submit.script(made, 1).splitlines() if "inductor" in line]
    shell = "\n".join([*lines, 'echo "$TORCHINDUCTOR_CACHE_DIR"'])
    for given, expected in (({}, f"{tmp_path}/a store/inductor"), ({"TORCHINDUCTOR_CACHE_DIR": "/x"}, "/x")):
        done = subprocess.run(["bash", "-uc", shell], env=given, capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected}\n"
