"""Record what a user sees of a submission, from the dry run to its tables, on a real SLURM of one node.

``PYTHONPATH=tests python -m support.cluster_transcript`` runs the commands in a clone of the last commit,
with a store of its own, and writes ``experiments/results/cluster/transcript.txt``: commands behind ``$``,
what they print below. It takes about three minutes, two of which the scheduler holds back a task that was
stopped. Paths of this machine are written relative to the project, its name as ``node1``.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from support.slurm_node import node, reason_absent, until

ROOT = Path(__file__).parents[2]
PATH = ROOT / "experiments" / "results" / "cluster" / "transcript.txt"
CLUSTER = """\
[all]
time = "30 min"
cpus = 1
warning = "1 min"
"""
RUNS = "--profile laptop --seeds 1 --only IB,NoPen"


class Recorder:
    """Calls commands as a user would type them in the project's folder, and keeps what they print.

    Parameters
    ----------
    project
        The folder.
    environment
        In which SLURM's commands find the node.
    """

    def __init__(self, project: Path, environment: dict[str, str]) -> None:
        self.project, self.environment = project, environment
        self.lines: list[str] = []

    def step(self, title: str) -> None:
        """Begin a part of the transcript."""
        self.lines += ["", f"## {title}"]

    def call(self, command: str) -> str:
        """Run a command line, keep it with its output, and return the output; one that fails is an error."""
        real = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
        done = subprocess.run(
            ["bash", "-c", real],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
        self.lines += [f"$ {command}", *(line.rstrip() for line in done.stdout.rstrip().splitlines())]
        return done.stdout

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Wait without recording anything."""
        until(done, what, details=lambda: "\n" + "\n".join(self.lines))

    def queue(self) -> str:
        """Return what the scheduler has, for waiting."""
        asked = ["squeue", "--noheader", "--array", "--format=%i %T %r"]
        return subprocess.run(asked, env=self.environment, capture_output=True, text=True, check=True).stdout

    def text(self) -> str:
        """Return the transcript with this machine's names and paths taken out."""
        found = "\n".join(self.lines)
        commands = Path(sys.executable).parents[2]  # .venv/bin/python lies in the project of the checkout
        for old, new in (
            (f"{commands}/.venv", ".venv"),
            (f"{self.project}/", ""),
            (str(self.project), "."),
            (socket.gethostname(), "node1"),
        ):
            found = found.replace(old, new)
        return found.lstrip() + "\n"


def record(project: Path, environment: dict[str, str]) -> str:
    """Return the transcript of a submission that is stopped in the middle by a signal."""
    shell = Recorder(project, environment)
    (project / "cluster.toml").write_text(CLUSTER)
    shell.step("The profile file, and what would be submitted")
    shell.call("cat cluster.toml")
    shell.call(f"python -m experiments submit {RUNS} --no-pages --dry-run")

    shell.step("Submit")
    said = shell.call(f"python -m experiments submit {RUNS} --no-pages")
    job = said.split()[1].rstrip(":")
    folder = next(word for word in said.split() if "submissions/" in word).rstrip(";")
    log = project / folder / f"{job}_0_0_log.out"
    shell.until(lambda: shell.queue().count("RUNNING") == 2, "no two tasks run")
    shell.until(lambda: log.exists() and "training from" in log.read_text(), "nothing trains")

    shell.step("The same again while it trains: nothing is submitted twice")
    shell.call(f"python -m experiments submit {RUNS} --no-pages")

    shell.step("Watch")
    shell.call(f"python -m experiments status {RUNS}")

    shell.step("What a time limit or a pre-emption does: a signal")
    shell.call(f"scancel --signal=USR1 {job}_0")
    shell.until(lambda: "BeginTime" in shell.queue(), "the task is not queued again")
    shell.call(f"python -m experiments status {RUNS}")

    shell.until(lambda: not shell.queue(), "the queue is not empty")
    shell.step("Afterwards: the log of the task that was stopped, the report, the tables")
    shell.call(f"grep -v submitit {folder}/{job}_0_0_log.out")
    shell.call(f"cat {folder}/report.txt")
    shell.call(f"python -m experiments status {RUNS}")
    shell.call("cut -d, -f1-5 build/tables/best_results.csv")

    shell.step("Change your mind")
    shell.call("python -m experiments submit --profile smoke --no-pages")
    shell.call("python -m experiments cancel")
    return shell.text()


def main() -> None:
    """Write the transcript."""
    reason = reason_absent()
    if reason is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="transcript-") as name:
        project = Path(name).resolve() / "project"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(project)], check=True)
        asked = ["git", "rev-parse", "--short=12", "HEAD"]
        version = subprocess.run(
            asked, cwd=project, capture_output=True, text=True, check=True
        ).stdout.strip()
        with node(Path(name) / "slurm", requeue_at_once=False) as environment:
            text = record(project, {**environment, "OMP_NUM_THREADS": "1"})
    day = datetime.now(timezone.utc).date().isoformat()
    head = f"# Recorded {day} at commit {version} by tests/support/cluster_transcript.py\n\n"
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(head + text)


if __name__ == "__main__":
    main()
