"""The verbs submit, status and cancel, as users type them in a copy of the project, on a real SLURM."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import warm
from support.slurm_node import job_processes, reason_absent, start_controller, stop_controller, until
from support.slurm_node import one_node as one_node

from experiments.cluster import slurm
from experiments.paths import ROOT
from experiments.studies import profiles
from experiments.studies.learning_rates import select
from lpc.specs import run_key
from lpc.store import RunStore

pytestmark = pytest.mark.skipif(reason_absent() is not None, reason=str(reason_absent()))

PROFILES = """

_smoke = replace(PROFILES["smoke"], architectures=("IB", "NoPen"), seeds=(0,))
_longer = replace(_smoke.train, epochs=5)
_slow = replace(_smoke.train, epochs=12, record_every=4, decay_start=6, precision="bfloat16")
PROFILES = {
    **PROFILES,
    "smoke": _smoke,
    "again": replace(_smoke, name="again", train=_longer, retrain=True, architectures=("IB",)),
    "slow": replace(
        _smoke, name="slow", train=_slow, architectures=("NoPen",), learning_rates=(5e-3,), seeds=(0, 1, 2, 3)
    ),
}
"""
WAITS = 4
"""The epoch, with a checkpoint, after which new trainings wait while there is a file ``STORE.wait``."""
WAITING = f"""

_usual = _Training.begin_epoch


def _waits(self):
    from pathlib import Path

    from lpc.computing.stopping import was_asked

    self.fresh = getattr(self, "fresh", self.trainer.epoch == 0)
    signal = Path(f"{{self.store.root}}.wait")
    while self.fresh and self.trainer.epoch == {WAITS} and signal.exists() and not was_asked():
        time.sleep(0.01)
    _usual(self)


_Training.begin_epoch = _waits
"""
CHAPTER = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Runs

```{code-cell} ipython3
:tags: [parameters]
profile = "smoke"
seeds = None
store = "runs"
```

```{code-cell} ipython3
from experiments.studies.ablation import study
len(study(profile, seeds=seeds, store=store).selected)
```

IB is accurate: {{ claims.accurate.verdict }}.
"""
LEDGER = """
[[claim]]
id = "accurate"
where = "Table 2"
dataset = "CIFAR10"
statement = "IB is accurate"
paper = "yes"
profile = "paper-cifar10"
chapter = "index"
quantity = "value"
metric = "test_accuracy"
of = ["IB"]
holds = [0.5, 1.0]
"""
"""The claims that the book of one chapter answers."""
SERVER = """
import gc, json, os, sys, traceback
gc.disable()
from experiments.cluster import submit, worker
from experiments.publishing import build
from experiments.publishing.executing import execution
from experiments.__main__ import main
gc.freeze()
gc.enable()
for line in sys.stdin:
    asked = json.loads(line)
    if not (child := os.fork()):
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(asked[name], os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
        os.environ.update(asked["environment"], OMP_NUM_THREADS="1")
        status = 1
        try:
            main(asked["arguments"])
        except SystemExit as ended:
            status = ended.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # to take all of torch down takes a second
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Commands of a copy, one after another, in processes in which all is imported already."""
RESOURCES = """
[all]
time = "20 min"
warning = "1 min"
cpus = 1
setup = ["export OMP_NUM_THREADS=1"]
"""


class Project:
    """A copy of the project, with a book of one chapter and profiles that take seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__", "results")
        for name in ("lpc", "experiments"):
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
        shutil.copy(ROOT / "book" / "references.bib", root / "book")
        shutil.copy(ROOT / "_config.yml", root)
        (root / "_toc.yml").write_text("format: jb-book\nroot: index\n")
        (root / "experiments" / "claims.toml").write_text(LEDGER)
        (root / "book" / "index.md").write_text(CHAPTER)
        with (root / "experiments" / "studies" / "profiles.py").open("a") as stream:
            stream.write(PROFILES)
        with (root / "lpc" / "runs" / "training_loop.py").open("a") as stream:
            stream.write(WAITING)
        self.server = self.begin("-c", SERVER, stdin=subprocess.PIPE)

    @property
    def environment(self):
        """Variables of commands, with those that tell where SLURM is once it is there."""
        return {**os.environ, "OMP_NUM_THREADS": "1", "LPC_DEVICE": "cpu"}

    def begin(self, *arguments, stdin=None):
        """Begin a command."""
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=self.root,
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments, status=0, **environment):
        """Return what a verb prints or, if it fails, its error; nothing is imported again for it."""
        out, err = self.root / "out", self.root / "err"
        asked = {"arguments": [*map(str, arguments)], "environment": {**os.environ, **environment}}
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps({**asked, "out": str(out), "err": str(err)}) + "\n")
        self.server.stdin.flush()
        assert int(self.server.stdout.readline()) == status, out.read_text() + err.read_text()
        return (err if status else out).read_text()

    def end(self, process, status=0):
        out, err = process.communicate(timeout=500)
        assert process.returncode == status, out + err
        return err if status else out


class Store:
    """A run store, and what was submitted for it."""

    def __init__(self, project: Project, root: Path, *tables: str) -> None:
        self.project, self.root, self.runs = project, root, RunStore(root)
        root.mkdir()
        self.resources = root / "cluster.toml"
        self.resources.write_text(RESOURCES + "\n".join(tables))

    def pause(self):
        """Let new trainings wait after epoch :data:`WAITS` until a signal stops them, or :meth:`go_on`."""
        self.root.with_name(f"{self.root.name}.wait").touch()

    def go_on(self):
        self.root.with_name(f"{self.root.name}.wait").unlink()

    def waiting(self):
        """Return the runs that wait, or are about to."""
        return {key for key, epoch in self.runs.epochs_done().items() if epoch == WAITS}

    def submit(self, profile, *more, **options):
        places = ("--store", self.root, "--resources", self.resources)
        return self.project.call("submit", "--profile", profile, *places, *more, **options)

    def records(self):
        return [json.loads(path.read_text()) for path in sorted(self.root.glob("submissions/*.json"))]

    def jobs(self):
        """Return the ids of all jobs that were submitted."""
        return [next(iter(job["tasks"])).split("_")[0] for one in self.records() for job in one["jobs"]]

    def queue(self):
        return slurm.states(self.jobs())

    def wait(self):
        until(lambda: not self.queue())

    def log(self, task="*"):
        return "".join(path.read_text() for path in sorted(self.root.glob(f"submissions/*/{task}_0_log.out")))

    def report(self):
        (path,) = self.root.glob("submissions/*/report.txt")
        return path.read_text()

    def attempts(self):
        """Return how many attempts every finished run took."""
        return [json.loads(path.read_text())["attempts"] for path in self.root.glob("runs/*/provenance.json")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    yield made
    made.server.communicate()


@pytest.fixture
def store(project, tmp_path, one_node):
    """Make stores; jobs left in the queue at the end are cancelled."""
    made = []

    def make(*tables):
        made.append(Store(project, tmp_path / f"store-{len(made)}", *tables))
        return made[-1]

    yield make
    slurm.cancel([name for one in made for name in one.queue()])
    until(lambda: not any(one.queue() for one in made))


HELD = "[all.options]\nhold = true"


def release(*made):
    names = [name for one in made for name in one.queue()]
    subprocess.run(["scontrol", "release", ",".join(names)], check=True)


def declared(name):
    """Return the runs of a profile of the copy."""
    copy = {"PROFILES": profiles.PROFILES, "replace": replace}
    exec(PROFILES, copy)
    return profiles.specs(copy["PROFILES"][name])


def python_of(environment, task):
    """Return the process that trains for a task of an array."""
    for number in job_processes(environment):
        try:
            command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0] == sys.executable.encode() and f"SLURM_ARRAY_TASK_ID={task}".encode() in variables:
            return number
    raise AssertionError(f"task {task} has no process")


def test_runs_are_trained_once_measured_and_shown_in_a_book(store, project):
    made = store(HELD)
    only = ("smoke", "--only", "IB", "--no-pages")
    shown = made.submit(*only, "--dry-run")
    assert not made.records() and [path.name for path in made.root.iterdir()] == ["cluster.toml"]
    options = ("--store", made.root, "--resources", made.resources)
    project.end(project.begin("-m", "experiments", "submit", "--profile", *only, *options))
    assert {job.state for job in made.queue().values()} == {"PENDING"} and not made.attempts()
    (first,) = made.records()
    ids = {job["kind"]: next(iter(job["tasks"])) for job in first["jobs"]}
    written = [
        (made.root / "submissions" / first["id"] / f"{name}_submission.sh").read_text()
        for name in ids.values()
    ]
    planned = re.split(r"^### .*\n", re.sub(r"\d{8}-\d{6}-\d{6}", first["id"], shown), flags=re.MULTILINE)[1:]
    planned[1] = planned[1].replace("'afterany:<lpc-train-smoke>'", f"afterany:{ids['train']}")
    assert [text.strip() for text in planned] == [text.strip() for text in written]

    told = made.submit("smoke", "--beside", "smoke")
    assert f"job {ids['train']}, submitted" in told and "has 2 runs of smoke in the queue already" in told
    _, second = made.records()
    runs = [
        key
        for one in (first, second)
        for job in one["jobs"]
        for keys in job["tasks"].values()
        for key in keys
    ]
    assert sorted(runs) == sorted(map(run_key, declared("smoke"))), "each is submitted once"
    assert "nothing is left to submit" in made.submit("smoke", "--beside", "smoke")
    assert len(made.records()) == 2
    release(made)
    made.wait()
    build = project.root / "build"
    assert "Runs" in (build / "html" / "index.html").read_text()
    table = pd.read_csv(build / "tables" / "runs.csv")
    assert sorted(table["key"]) == sorted(runs) and set(table["status"]) == {"finished"}
    best = pd.read_csv(build / "tables" / "best_results.csv")
    assert best["key"].tolist() == select(table)["key"].tolist()
    assert best["test_accuracy"].notna().all()
    epochs = pd.read_csv(build / "tables" / "epochs.csv")
    assert epochs.groupby("key").size().to_dict() == dict.fromkeys(best["key"], 4)
    assert made.attempts() == [1] * 4
    assert not (project.root / "experiments" / "results").exists(), "smoke is never recorded"
    told = made.submit("smoke", "--beside", "smoke")
    assert re.findall(r"^job \d+: (.*)", told, flags=re.MULTILINE) == ["tables, chapters and book of smoke"]
    told = project.call("status", "--profile", "smoke", "--store", made.root)
    assert "4 of 4 runs finished" in told
    assert re.search(
        r"^job \d+ \(finish smoke, submission .*\): 1 pending \(JobHeldUser\)$", told, flags=re.MULTILINE
    )


def test_selected_rates_are_trained_again_after_the_others(store, project):
    made = store()
    told = made.submit("again", "--no-pages")
    assert re.findall(r": (.* runs? .*)", told) == [
        "1 task, 2 runs of again",
        "1 task, 1 selected runs of again again on the full train set",
    ]
    made.wait()
    table = pd.read_csv(project.root / "build" / "tables" / "runs.csv")
    searched, again = table[table["data.validation"] > 0], table[table["data.validation"] == 0]
    (chosen,) = select(searched)["train.learning_rate"]
    assert len(searched) == 2 and again["train.learning_rate"].tolist() == [chosen]
    assert table["test_accuracy"].notna().tolist() == [False, False, True]
    assert made.attempts() == [1] * 3
    recorded = pd.read_csv(project.root / "experiments" / "results" / "again" / "runs.csv")
    assert sorted(recorded["key"]) == sorted(table["key"])


def test_what_is_stopped_goes_on_to_the_same_bits_and_what_fails_is_given_up(store, one_node, tmp_path):
    made = store("tries = 2")
    *good, bad = declared("slow")
    cohort = made.runs.begin([bad])
    (made.root / "cohorts" / cohort / "state.pt").write_bytes(b"")
    made.pause()
    made.submit("slow", "--no-pages")
    task = {key: name for name, (key,) in made.records()[0]["jobs"][0]["tasks"].items()}
    unstopped = dict(zip(map(run_key, good), ["USR1", "TERM", "KILL"], strict=True))
    while unstopped:
        for key in until(lambda: made.waiting() & unstopped.keys()):
            name = unstopped.pop(key)
            if name == "KILL":
                os.kill(python_of(one_node, task[key].split("_")[1]), signal.SIGKILL)
            else:
                subprocess.run(["scancel", f"--signal={name}", task[key]], check=True)
    alone = RunStore(tmp_path / "alone")
    made.project.call("train", "--profile", "slow", "--seeds", "3", "--workers", "1", "--store", alone.root)
    made.wait()
    assert len(made.records()) == 1, "all went on in their own tasks, and there is no second turn"
    assert made.attempts() == [2] * 3
    for spec in good:
        key = run_key(spec)
        log = made.log(task[key])
        first, again = map(int, re.findall(r"training from epoch (\d+): NoPen", log))
        stopped = re.findall(r"stopped after epoch (\d+) of 12", log)
        assert first == 0 and again == (WAITS if spec.seed == 2 else WAITS + 1)
        assert stopped == ([] if spec.seed == 2 else [str(again)])
        ours, theirs = made.runs.load_weights(spec), alone.load_weights(spec)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert (made.root / "runs" / key / "history.jsonl").read_text() == (
            alone.root / "runs" / key / "history.jsonl"
        ).read_text()
    failed = {
        path.stem: len(path.read_text().splitlines()) for path in made.root.glob("submissions/*/*.failed")
    }
    assert failed == {task[run_key(good[2])]: 1, task[run_key(bad)]: 2}
    report = made.report()
    assert report.count("is truncated or not a checkpoint") == 2
    assert "1 runs are missing" in report and f"seed 3, learning rate 0.005 ({run_key(bad)[:12]})" in report
    assert "3 of 4 runs finished" in made.project.call("status", "--profile", "slow", "--store", made.root)


def test_what_cannot_even_start_is_submitted_again_a_few_times_only(store):
    made = store("tries = 1", "[smoke]", 'setup = ["exit 7"]', "[finish]", "tries = 2")
    made.submit("smoke", "--only", "IB", "--no-pages")
    until(lambda: list(made.root.glob("submissions/*/report.txt")))
    made.wait()
    assert [one["request"]["turn"] for one in made.records()] == [1, 2]
    failed = [path.read_text() for path in made.root.glob("submissions/*/*.failed")]
    assert len(failed) == 2 and all(text.endswith(" status 7\n") and text.count("\n") == 1 for text in failed)
    assert made.report().startswith("profile smoke: 2 runs are missing")
    assert made.report().count(" status 7; log: ") == 4  # one line per run and turn
    assert "2 runs are missing (at the end" in made.project.call("status", "--store", made.root)
    assert not (made.root / "runs").exists()


def test_a_scheduler_that_is_down_is_told_and_what_was_queued_is_known(store, one_node, tmp_path):
    made = store(HELD)
    stop_controller(one_node)
    try:
        error = made.submit("smoke", status=1)
    finally:
        start_controller(one_node)
    assert re.fullmatch(r"error: SLURM's controller does not answer: .*\n", error)
    assert not made.records()
    until(
        lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True).stdout
    )
    fails_at_second = tmp_path / "bin" / "sbatch"
    fails_at_second.parent.mkdir()
    fails_at_second.write_text(f"""#!/bin/sh
case "$1" in --*) ;; *) echo >> {tmp_path}/calls;; esac
if [ -e {tmp_path}/calls ] && [ "$(wc -l < {tmp_path}/calls)" -gt 1 ]; then
  echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller" >&2
  exit 1
fi
exec {shutil.which("sbatch")} "$@"
""")
    fails_at_second.chmod(0o755)
    path = f"{fails_at_second.parent}{os.pathsep}{os.environ['PATH']}"
    error = made.submit("smoke", "--only", "IB", status=1, PATH=path)
    assert re.search(r"^error: lpc-finish-smoke could not be submitted: .*Unable to contact", error, re.M)
    assert "1 of 2 jobs are in the queue" in error
    (record,) = made.records()
    assert [job["kind"] for job in record["jobs"]] == ["train"] and len(made.queue()) == 1
    made.submit("smoke", "--only", "IB")
    assert [job["kind"] for job in made.records()[1]["jobs"]] == ["finish"]


def test_what_is_cancelled_stays_out_of_the_queue_and_goes_on_when_submitted_again(store, one_node):
    made = store()
    only = ("slow", "--seeds", "1", "--no-pages")
    made.pause()
    made.submit(*only)
    until(made.waiting)
    told = made.project.call("cancel", "--store", made.root)
    (record,) = made.records()
    assert told.splitlines() == [
        f"job {name} of submission {record['id']} is cancelled" for name in made.jobs()
    ]
    made.wait()
    assert not job_processes(one_node)
    (done,) = made.runs.epochs_done().values()
    assert done >= WAITS and not list(made.root.glob("submissions/*/*.failed"))
    assert "1 interrupted" in made.project.call(
        "status", "--profile", "slow", "--seeds", "1", "--store", made.root
    )
    made.submit(*only)
    assert until(made.attempts) == [2]
    assert re.findall(r"training from epoch (\d+)", made.log()) == ["0", str(done)]


def test_other_code_is_refused_where_it_is_submitted_and_on_nodes(store, project):
    made = store("tries = 1", HELD)
    made.submit("smoke", "--only", "IB", "--no-pages")
    path = project.root / "lpc" / "specs.py"
    text = path.read_text()
    path.write_text(f"{text}# edited\n")
    try:
        error = made.submit("smoke", "--no-pages", status=1)
        assert re.match(
            r"error: job \d+ of submission .* is in the queue with other code: lpc and exp", error
        )
        assert len(made.records()) == 1
        release(made)
        made.wait()
    finally:
        path.write_text(text)
    assert made.log().count("ValueError: this node would mix code: lpc and experiments are at commit") == 2
    assert not (made.root / "runs").exists() and not (made.root / "heartbeats").exists()


@pytest.mark.parametrize(
    ("lines", "more", "words"),
    [
        ('partition = "debgu"', (), "unknown partition 'debgu'. Did you mean debug"),
        ('memroy = "3 GB"', (), "[all]: 'memroy'. Did you mean memory"),
        ("memory = 32", (), "memory is 32; expected memory in quotes with its unit"),
        ("", ("--profile", "smoek"), "unknown profile 'smoek'. Did you mean smoke"),
        ("", ("--only", "IBB"), "unknown architecture 'IBB'. Did you mean IB"),
        ("", ("--store", "/proc/runs"), "'/proc/runs'"),
        ("", ("--resources", "nowhere.toml"), "nowhere.toml does not exist; copy "),
        ("", ("--workers", "2"), "--workers is for --cluster local; it has no meaning with --cluster slurm"),
        ("", ("--profile", "paper", "--dataset", "CIFAR10"), "data set 'cifar10' is incomplete: "),
        ("", ("--beside", "fashion"), "trained with the book: 'fashion'"),
        ("", ("--profile", "smoke-gammas", "--only", "IB"), "architecture of profile smoke-gammas 'IB'"),
        ("", ("--cluster", "local", "--beside", "fashion"), "trained with the book: 'fashion'"),
        ("", ("PATH",), "no SLURM on this machine: sbatch is not found; --cluster local trains here"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message_and_nothing_is_submitted(store, tmp_path, lines, more, words):
    made = store(lines)
    values = {"LPC_DATA": str(tmp_path)}
    if more == ("PATH",):
        more, values["PATH"] = (), str(tmp_path)
    error = made.submit("smoke", *more, status=1, **values)
    assert error.startswith("error: ") and words in error and len(error.splitlines()) == 1
    assert not made.records() and not (made.root / "runs").exists()
    assert not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def test_on_one_machine_programs_share_the_runs_and_stop_together(store, project):
    made = store()
    begin = "from experiments.__main__ import main; import torch; torch.cuda.device_count = lambda: 2; main()"
    options = (
        "submit",
        "--cluster",
        "local",
        "--profile",
        "slow",
        "--store",
        str(made.root),
        "--no-pages",
        "--workers",
        "1",
    )
    made.pause()
    with warm.begin("-c", begin, *options, cwd=project.root, env=project.environment) as process:
        until(lambda: len(made.waiting()) == 2)
        held = made.runs.holders()
        visible = [Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0") for one in held.values()]
        assert sorted(word for words in visible for word in words if word.startswith(b"CUDA_VIS")) == [
            b"CUDA_VISIBLE_DEVICES=0",
            b"CUDA_VISIBLE_DEVICES=1",
        ]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130, process.err
        error = process.err
    made.go_on()
    assert error.count(f"stopped after epoch {WAITS + 1}") == 2 and "checkpoints are written" in error
    assert not made.runs.holders() and list(made.runs.epochs_done().values()) == [WAITS + 1] * 2
    project.call(*options)
    assert sorted(made.attempts()) == [1, 1, 2, 2]
    table = pd.read_csv(project.root / "build" / "tables" / "runs.csv")
    assert sorted(table["key"]) == sorted(map(run_key, declared("slow")))
