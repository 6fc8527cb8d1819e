import subprocess
from pathlib import Path

import pytest
from support.slurm_node import (
    job_processes,
    node,
    reason_absent,
    start_controller,
    stop_controller,
    until,
)
from support.slurm_node import one_node as one_node

from experiments.cluster import slurm

needs_slurm = pytest.mark.skipif(reason_absent() is not None, reason=str(reason_absent()))


def script(*options, body="true"):
    lines = ["#!/bin/sh", "#SBATCH --output=/dev/null", *(f"#SBATCH {option}" for option in options), body]
    return "\n".join(lines) + "\n"


def submit(text):
    done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def states_of(*jobs):
    return {name: job.state for name, job in slurm.states(jobs).items()}


@pytest.mark.usefixtures("one_node")
class TestOneNode:
    def test_it_answers(self):
        slurm.require()
        assert slurm.partitions() == ["debug", "short"]
        assert slurm.max_array() == 1001

    def test_a_partition_has_a_longest_time_and_the_default_one_has_none(self):
        assert [slurm.time_limit(name) for name in ("short", "debug", "short,debug", None)] == [
            10,
            *[None] * 3,
        ]

    def test_the_greatest_array_is_one_that_slurm_takes(self):
        last = slurm.max_array() - 1
        slurm.test(script(f"--array=0-{last}"))
        with pytest.raises(slurm.SchedulerError, match="Invalid job array specification"):
            slurm.test(script(f"--array=0-{last + 1}"))

    def test_a_job_waits_runs_and_is_gone(self, tmp_path):
        gate, first = tmp_path / "gate", None
        first = submit(script(body=f"while ! test -e {gate}; do sleep 0.1; done"))
        second = submit(script(f"--dependency=afterany:{first}"))
        until(lambda: states_of(first) == {first: "RUNNING"})
        waiting = slurm.states([second])[second]
        assert waiting == slurm.QueuedTask(id=second, state="PENDING", reason="Dependency", node="")
        running = slurm.states([first])[first]
        assert running.reason == "None" and running.node != ""
        gate.touch()
        until(lambda: not slurm.states([first, second]))

    def test_an_array_is_seen_task_by_task_and_cancelled_in_parts(self):
        array = submit(script("--array=0-3%2", body="exec sleep 60"))
        running = {f"{array}_0": "RUNNING", f"{array}_1": "RUNNING"}
        waiting = {f"{array}_2": "PENDING", f"{array}_3": "PENDING"}
        until(lambda: states_of(array) == {**running, **waiting})
        assert slurm.states([f"{array}_3"])[f"{array}_3"].reason == "JobArrayTaskLimit"
        assert states_of(f"{array}_1", f"{array}_3", "7654321") == {
            f"{array}_1": "RUNNING",
            f"{array}_3": "PENDING",
        }
        slurm.cancel([f"{array}_1", f"{array}_3"])
        until(lambda: states_of(array) == {f"{array}_0": "RUNNING", f"{array}_2": "RUNNING"})
        slurm.cancel([array, "7654321", f"{array}_1"])  # the last two are gone, or never were
        until(lambda: not slurm.states([array]))

    def test_the_number_that_slurm_gives_to_a_task_is_not_taken_for_a_job(self):
        array = submit(script("--array=0-1", body="exec sleep 60"))
        until(lambda: states_of(array) == {f"{array}_0": "RUNNING", f"{array}_1": "RUNNING"})
        assert slurm.states([str(int(array) + 1)]) == {}
        slurm.cancel([array])

    def test_unknown_jobs_are_absent(self):
        assert slurm.states([]) == slurm.states(["7654321"]) == slurm.states(["7654321", "7654322_5"]) == {}
        many = submit(script("--hold"))
        assert set(slurm.states([str(number) for number in range(7_000_000, 7_001_200)] + [many])) == {many}
        slurm.cancel([many])

    def test_the_users_own_filters_hide_nothing(self, monkeypatch):
        held = submit(script("--hold"))
        monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
        monkeypatch.setenv("SQUEUE_FORMAT", "%u")
        monkeypatch.setenv("SINFO_PARTITION", "short")
        assert slurm.states([held])[held].reason == "JobHeldUser"
        assert slurm.partitions() == ["debug", "short"]
        slurm.cancel([held])

    def test_a_script_is_tried_without_being_queued(self):
        def queued():
            return set(
                subprocess.run(
                    ["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True
                ).stdout.split()
            )

        before = queued()
        slurm.test(script("--partition=short", "--time=5", "--gres=gpu:2", "--cpus-per-task=2", "--mem=1G"))
        assert queued() <= before, "nothing new; jobs of other tests may have ended"

    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ("--gres=gpu:3", "Requested node configuration is not available"),
            ("--gres=fpga:1", "Invalid generic resource"),
            ("--cpus-per-task=9", "Requested node configuration is not available"),
            ("--constraint=h100", "Invalid feature specification"),
            ("--time=soon", "Invalid --time specification"),
        ],
    )
    def test_what_slurm_refuses_is_said_in_its_words(self, option, said):
        with pytest.raises(slurm.SchedulerError, match=rf"^SLURM refuses the submission: .*{said}"):
            slurm.test(script(option))

    def test_a_partition_that_is_not_there(self):
        with pytest.raises(slurm.SchedulerError) as caught:
            slurm.test(script("--partition=debgu"))
        assert str(caught.value) == "unknown partition 'debgu'. Did you mean debug? Known: debug, short."


@needs_slurm
def test_a_controller_that_is_down_is_told_from_an_empty_queue(tmp_path, monkeypatch):
    limits = {"MaxArraySize": 11, "SchedulerParameters": "batch_sched_delay=0,max_array_tasks=7"}
    with node(tmp_path, **limits) as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        assert slurm.max_array() == 7
        job = submit(script(body="exec sleep 60"))
        until(lambda: states_of(job) == {job: "RUNNING"})
        stop_controller(environment)
        with pytest.raises(slurm.SchedulerError, match=r"does not answer: Slurmctld.* is DOWN\. Try"):
            slurm.require()  # its own words: no time ran out
        for call in (lambda: slurm.states([job]), slurm.max_array):
            with pytest.raises(slurm.SchedulerError, match=r"does not answer: .*Unable to contact"):
                call()
        start_controller(environment)
        assert states_of(job) == {job: "RUNNING"}
        assert job_processes(environment)
    assert not job_processes(environment)


@needs_slurm
def test_a_requeued_task_runs_again_at_once(tmp_path, one_node):
    body = f'echo "$SLURM_RESTART_COUNT" >> {tmp_path}/$SLURM_ARRAY_TASK_ID\n'
    body += 'test -n "$SLURM_RESTART_COUNT" || scontrol requeue ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID'
    array = submit(script("--array=0-3", body=f"{body}\nsleep 0.5"))
    until(lambda: not slurm.states([array]))
    assert [Path(tmp_path / str(task)).read_text() for task in range(4)] == ["\n1\n"] * 4


def test_a_machine_without_slurm_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = "no SLURM on this machine: {} is not found; --cluster local trains here"
    calls = {
        slurm.require: "sbatch",
        slurm.partitions: "sinfo",
        slurm.max_array: "scontrol",
        lambda: slurm.states(["1"]): "squeue",
        lambda: slurm.test(script()): "sbatch",
        lambda: slurm.cancel(["1"]): "scancel",
    }
    for call, program in calls.items():
        with pytest.raises(slurm.SchedulerError) as caught:
            call()
        assert str(caught.value) == said.format(program)
    assert slurm.states([]) == {}
    slurm.cancel([])


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Put a program in place of one of SLURM's."""

    def program(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return program


def test_a_command_that_hangs_is_given_up_with_what_it_said(pretend, monkeypatch):
    monkeypatch.setattr(slurm, "SECONDS", 4.0)
    pretend("squeue", "echo 'squeue: error: no file, retrying' >&2; exec sleep 30")
    with pytest.raises(slurm.SchedulerError, match=r"answer: no file, retrying; nothing more from squ"):
        slurm.states(["1"])


def test_a_cluster_of_several_controllers_answers_where_one_does(pretend):
    for name in slurm.COMMANDS:
        pretend(name, "true")
    pretend("scontrol", "echo Slurmctld primary at a is DOWN; echo Slurmctld backup at b is UP")
    slurm.require()


def test_what_is_not_understood_is_passed_on(pretend):
    pretend("scontrol", "echo 'no such thing'")
    with pytest.raises(slurm.SchedulerError, match="names no MaxArraySize"):
        slurm.max_array()
    pretend("scancel", "echo 'scancel: error: Kill job error on job id 1: Access denied' >&2; exit 1")
    with pytest.raises(slurm.SchedulerError, match=r"^scancel failed: Kill job error on job id 1: Access"):
        slurm.cancel(["1"])
    pretend("sinfo", "echo 'slurm_load_partitions: Protocol authentication error' >&2; exit 1")
    with pytest.raises(slurm.SchedulerError, match=r"^sinfo failed: Protocol authentication error$"):
        slurm.partitions()


@pytest.mark.parametrize(
    ("printed", "minutes"),
    [("10:00", 10), ("0:30", 0), ("1:30:00", 90), ("2-03:04:05", 3064), ("infinite", None), ("n/a", None)],
)
def test_times_of_sinfo_are_read_in_minutes(printed, minutes, monkeypatch):
    monkeypatch.setattr(slurm, "_answer", lambda *_: f"short|99:00\ngpu*|{printed}\n")
    assert slurm.time_limit(None) == slurm.time_limit("gpu") == minutes
    assert slurm.time_limit("short") == 99
