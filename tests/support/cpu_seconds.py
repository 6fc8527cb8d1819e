"""Says at the end of a run of the tests how many CPU seconds each file took, its child processes included.

The figures are kept in ``build/test-seconds.json`` and shown beside those of the last run that had the file.
Those of tests, and of fixtures that several share, are recorded in ``tests/seconds.json`` where that is asked
for with ``--record-seconds``: what took more than :data:`QUICK` there, or needs such a fixture, is ``slow``,
and is not among the tests of ``make quick``.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Generator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import support.warm

KEPT = Path("build", "test-seconds.json")
SHOWN = 20
LEAST = 60.0
"""The CPU seconds of a whole run from which on the table is shown."""
RECORD = Path(__file__).parents[1] / "seconds.json"
"""CPU seconds by test, as they were recorded; of shorter ones than :data:`SHORT` nothing is."""
SHORT, QUICK = 0.1, 0.15
"""CPU seconds of a test: from which on it is recorded, and from which on it is ``slow``."""
NOTED = 1.0
"""The CPU seconds from which on a test that is not marked ``slow`` is named at the end."""
SLOW_KINDS = {"slow", "cluster", "browser", "book", "process", "nightly"}
COLLECTING = "(start, collection)"
_READ = Path.read_text  # which tests replace


def recorded() -> dict[str, float]:
    """Return the CPU seconds that are recorded, by test and by fixture."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def is_slow(item: pytest.Item, seconds: Mapping[str, float]) -> bool:
    """Return whether a test, or a fixture that it shares with others, took long when last recorded."""
    file = item.nodeid.partition("::")[0]
    fixtures = getattr(item, "fixturenames", ())
    names = [item.nodeid, *(_fixture(own, name) for name in fixtures for own in (file, ""))]
    return any(seconds.get(name, 0.0) > QUICK for name in names)


def _fixture(file: str, name: str) -> str:
    return f"{file}::({name})"


def used() -> float:
    """Return the CPU seconds, user and system, of this process and of its children that have ended.

    A ``multiprocessing`` fork server, which stays, is included, with its own ended children.
    """
    return sum(os.times()[:4]) + sum(support.warm.SECONDS) + _of_fork_server()


def _of_fork_server() -> float:
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        text = _READ(Path(f"/proc/{pid}/stat"))
    except OSError:  # none was started, or no such file system
        return 0.0
    ticks = text.rpartition(")")[2].split()[11:15]  # of it, and of its children: user and system
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


class CpuSeconds:
    """Adds up CPU seconds by file, over all processes of pytest-xdist.

    Parameters
    ----------
    config
        Of the run.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.worker = hasattr(config, "workerinput")
        self.by_file: defaultdict[str, float] = defaultdict(float)
        self.by_test: defaultdict[str, float] = defaultdict(float)
        self.quick: set[str] = set()
        self.shared: dict[str, float] = {}
        self.counted = 0.0

    def since_last(self) -> float:
        """Return the CPU seconds since the last call, or since the process began."""
        before, self.counted = self.counted, used()
        return self.counted - before

    def pytest_collection_finish(self) -> None:
        self.by_file[COLLECTING] += self.since_last()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        before = used()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                file = request.node.nodeid.partition("::")[0]
                self.shared[_fixture(file, fixturedef.argname)] = used() - before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        report = yield
        report.cpu_seconds, report.of_shared = self.since_last(), self.shared  # pytest-xdist sends them
        self.shared = {}
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.worker:
            seconds = getattr(report, "cpu_seconds", 0.0)
            self.by_file[report.nodeid.partition("::")[0]] += seconds
            shared: dict[str, float] = getattr(report, "of_shared", {})
            self.by_test[report.nodeid] += seconds - sum(shared.values())
            self.by_test.update(shared)
            if not SLOW_KINDS & set(report.keywords):
                self.quick.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self.worker:
            self.config.workeroutput["collecting"] = self.by_file[COLLECTING]  # pyright: ignore

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.by_file[COLLECTING] += getattr(node, "workeroutput", {}).get("collecting", 0.0)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        kept = self.config.rootpath / KEPT
        last = json.loads(kept.read_text()) if kept.exists() else {}
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(
            json.dumps(
                {**last, **{name: round(seconds, 1) for name, seconds in self.by_file.items()}}, indent=1
            )
        )
        if self.config.getoption("--record-seconds"):
            self._record()
        if (total := sum(self.by_file.values())) < LEAST:
            return
        terminalreporter.section("CPU seconds by file, beside the last time")
        for name, seconds in sorted(self.by_file.items(), key=lambda one: -one[1])[:SHOWN]:
            terminalreporter.write_line(f"{seconds:8.1f} {last.get(name, '-'):>8}  {name}")
        terminalreporter.write_line(f"{total:8.1f}           all {len(self.by_file) - 1} files")
        for name in (one for one in self.by_test if one in self.quick and self.by_test[one] > NOTED):
            told = "among the quick tests; record it with --record-seconds"
            terminalreporter.write_line(f"{self.by_test[name]:8.1f}  {told}: {name}")

    def _record(self) -> None:
        """Replace the records of this run's tests; the others stay as long as their files exist."""
        kept = {
            name: seconds
            for name, seconds in recorded().items()
            if name not in self.by_test and (self.config.rootpath / name.partition("::")[0]).exists()
        }
        new = {name: round(seconds, 1) for name, seconds in self.by_test.items() if seconds >= SHORT}
        RECORD.write_text(json.dumps(dict(sorted({**kept, **new}.items())), indent=0) + "\n")
