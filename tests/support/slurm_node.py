"""A real SLURM of one node, for tests and for trying the cluster commands by hand.

``python tests/support/slurm_node.py`` starts one, prints what to export, and stays until Ctrl-C. It needs
root and Debian's packages ``slurm-wlm`` and ``munge``. It takes free ports, keeps everything in temporary
folders, and leaves a SLURM that is configured on the machine alone. Accounting is off, as ``sacct`` is on
many clusters.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

_Found = TypeVar("_Found")

DAEMONS = ("munged", "slurmctld", "slurmd", "slurmstepd")
COMMANDS = ("sbatch", "squeue", "sinfo", "scontrol", "scancel")
CPUS, MEMORY, GPU_FILES = 8, 64_000, ("/dev/null", "/dev/zero")
"""What the node pretends to have (memory in MiB): jobs run side by side, and none is held to its share."""

SETTINGS: Mapping[str, object] = {
    "ClusterName": "test",
    "SlurmUser": "root",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "AccountingStorageType": "accounting_storage/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "MpiDefault": "none",
    "SwitchType": "switch/none",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1,bf_resolution=1",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU",
    "SlurmdParameters": "config_overrides",
    "ReturnToService": 2,
    "JobRequeue": 1,
    "MaxArraySize": 1001,
    "MaxJobCount": 10_000,
    "MinJobAge": 300,
    "KillWait": 2,
    "InactiveLimit": 0,
    "MessageTimeout": 5,
    "SlurmdTimeout": 30,
    "GresTypes": "gpu",
}
"""``slurm.conf`` without names, ports and folders; :func:`node` takes others by keyword."""


def _program(name: str) -> str | None:
    """Return the path of a program; daemons may be outside a user's PATH."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


def reason_absent() -> str | None:
    """Return why SLURM cannot be started on this machine, or None if it can."""
    missing = [name for name in (*DAEMONS, *COMMANDS, "setpriv") if _program(name) is None]
    if missing:
        return f"no SLURM to start: {', '.join(missing)} not found (Debian: apt install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "SLURM's daemons can be started by root only"
    if subprocess.run(["id", "munge"], capture_output=True, check=False).returncode:
        return "no user munge on this machine, as whom munged has to run"
    return None


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def until(
    condition: Callable[[], _Found],
    what: str = "it",
    *,
    seconds: float = 300,
    details: Callable[[], str] = str,
) -> _Found:
    """Return the value of a condition once it is true.

    The limit is not an expectation: it only ends a test that hangs. ``details`` are added to its message.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not after {seconds:g} s{details()}")
        time.sleep(0.05)
    return found


def _wait(done: Callable[[], bool], what: str, folder: Path) -> None:
    def logs() -> str:
        return "".join(f"\n--- {log.name}\n{log.read_text()[-2000:]}" for log in folder.glob("*.log"))

    until(done, what, seconds=120, details=logs)


def _start(name: str, *arguments: str, folder: Path, user: str = "root") -> subprocess.Popen[bytes]:
    """Start a daemon that ends with this process, in its own session, so that Ctrl-C does not reach it."""
    as_user = () if user == "root" else ("--reuid", user, "--regid", user, "--init-groups")
    command = [_program("setpriv"), "--pdeathsig", "TERM", *as_user, _program(name), *arguments]
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _munge() -> Iterator[Path]:
    """Run munged with a key of its own; yield its socket.

    Its folder lies directly under the temporary one: munged takes only folders that nobody else can write
    to, its user has to reach it, and a socket's path is short.
    """
    folder = Path(tempfile.mkdtemp(prefix="munge-"))
    try:
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path in (folder, key):
            shutil.chown(path, "munge", "munge")
        folder.chmod(0o755)
        path = folder / "socket"
        files = {"socket": path, "key-file": key, "pid-file": folder / "pid", "seed-file": folder / "seed"}
        options = [f"--{name}={value}" for name, value in files.items()]
        munged = _start("munged", "--foreground", *options, folder=folder, user="munge")
        try:
            _wait(path.exists, "munged has no socket", folder)
            yield path
        finally:
            _end(munged)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_conf(folder: Path, munge: Path, cpus: int, settings: Mapping[str, object]) -> None:
    host = socket.gethostname().split(".")[0]
    controller, daemon = _free_ports(2)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    here = {
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmdPort": daemon,
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "AuthInfo": f"socket={munge}",
        "PlugStackConfig": folder / "plugstack.conf",
    }
    lines = [f"{name}={value}" for name, value in {**SETTINGS, **here, **settings}.items()]
    capacity = f"CPUs={cpus} RealMemory={MEMORY} Gres=gpu:{len(GPU_FILES)}"
    lines += [
        f"NodeName={host} NodeAddr=127.0.0.1 {capacity} State=UNKNOWN",
        f"PartitionName=debug Nodes={host} Default=YES MaxTime=UNLIMITED State=UP",
        f"PartitionName=short Nodes={host} MaxTime=10 State=UP",
    ]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    gpus = [f"NodeName={host} Name=gpu File={file}\n" for file in GPU_FILES]
    (folder / "gres.conf").write_text("".join(gpus))
    (folder / "plugstack.conf").write_text("")


def _hurry(folder: Path) -> Path:
    """Write the program that slurmctld runs at the end of a job: a requeued one may start now.

    Not within the second in which it ended: slurmd would take its credential for the revoked one.
    """
    program = (
        folder / "hurry.sh"
    )  # its session is made before it ends: slurmctld ends what it left in its own
    program.write_text(f"""#!/bin/sh
export SLURM_CONF={folder / "slurm.conf"}
job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
setsid sh -c "(for wait in 1.2 0.8 2; do sleep \\$wait; scontrol update JobId=$job StartTime=now; done) &" \\
    </dev/null >/dev/null 2>&1
""")
    program.chmod(0o755)
    return program


def _folder(environment: Mapping[str, str]) -> Path:
    return Path(environment["SLURM_CONF"]).parent


def _answers(environment: Mapping[str, str], *command: str) -> str:
    """Return what a command prints, or an empty text if it fails."""
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=10, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else ""


_CONTROLLERS: dict[Path, subprocess.Popen[bytes]] = {}


def stop_controller(environment: Mapping[str, str]) -> None:
    """Stop slurmctld as a restart does: it saves its state, and jobs keep running."""
    _end(_CONTROLLERS.pop(_folder(environment)))


def start_controller(environment: Mapping[str, str]) -> None:
    """Start slurmctld, also after :func:`stop_controller`, and wait until it answers.

    It starts jobs again after about five seconds, once it has heard from the node.
    """
    folder = _folder(environment)
    _CONTROLLERS[folder] = _start("slurmctld", "-D", folder=folder)
    _wait(lambda: bool(_answers(environment, "scontrol", "ping")), "slurmctld does not answer", folder)


def job_processes(environment: Mapping[str, str]) -> set[int]:
    """Return the process numbers of this node's jobs: SLURM's step daemons and all below them."""
    program = str(_folder(environment) / "slurmstepd")
    found, parents = set(), {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if str((process / "exe").readlink()) == program:
                found.add(int(process.name))
        except OSError:  # it ended meanwhile
            continue
    below = set(found)
    while below:
        below = {number for number, parent in parents.items() if parent in below}
        found |= below
    return found


def _end_jobs(environment: Mapping[str, str]) -> None:
    for number in job_processes(environment):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def node(
    folder: Path, *, cpus: int = CPUS, requeue_at_once: bool = True, **settings: object
) -> Iterator[dict[str, str]]:
    """Run a SLURM of one node; yield the environment in which its commands find it.

    Parameters
    ----------
    folder
        Where configuration, logs (``slurmctld.log``, ``slurmd.log``) and state are written.
    cpus
        Number of cores that the node pretends to have; SLURM starts one round of jobs per second.
    requeue_at_once
        Start requeued jobs after a second; SLURM holds them back for two minutes, whatever its settings.
    settings
        Lines of ``slurm.conf`` that replace those of :data:`SETTINGS`, such as ``MaxArraySize=10``.

    Raises
    ------
    RuntimeError
        If SLURM cannot be started here (:func:`reason_absent`).
    TimeoutError
        If a daemon does not start; the message has its log.
    """
    reason = reason_absent()
    if reason is not None:
        raise RuntimeError(reason)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    if requeue_at_once:
        settings = {"EpilogSlurmctld": _hurry(folder), **settings}
    with ExitStack() as stack:
        _write_conf(folder, stack.enter_context(_munge()), cpus, settings)
        start_controller(environment)
        stack.callback(stop_controller, environment)
        stepd = shutil.copy(_program("slurmstepd") or "", folder / "slurmstepd")  # its path tells whose it is
        slurmd = _start("slurmd", "-D", "-d", str(stepd), folder=folder)
        stack.callback(_end_jobs, environment)
        stack.callback(_end, slurmd)
        _wait(lambda: "idle" in _answers(environment, "sinfo", "-h", "-o", "%t"), "node is not idle", folder)
        yield environment


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run a node for the tests of a file, in whose environment its commands find it; skip without SLURM.

    ``from support.slurm_node import one_node as one_node`` makes it known to a file.
    """
    reason = reason_absent()
    if reason is not None:
        pytest.skip(reason)
    with node(tmp_path_factory.mktemp("slurm")) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield environment


def _by_hand() -> None:
    """Run a node until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        try:
            with node(Path(folder)) as environment:
                print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
                print(
                    f"# one node: {CPUS} CPUs, {len(GPU_FILES)} GPUs that are not there, "
                    "partitions debug and short; Ctrl-C ends it",
                    flush=True,
                )
                signal.pause()
        except RuntimeError as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    _by_hand()
