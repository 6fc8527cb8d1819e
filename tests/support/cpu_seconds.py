"""Says at the end of a run of the tests how many CPU seconds each file took, its child processes included.

The figures are kept in ``build/test-seconds.json`` and shown beside those of the last run that had the file.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import support.warm

KEPT = Path("build", "test-seconds.json")
SHOWN = 20
LEAST = 60.0
"""The CPU seconds of a whole run from which on the table is shown."""
QUICK = 3.0
"""The CPU seconds of a test from which on it has to be marked ``slow``, or as what else it is."""
SLOW_KINDS = {"slow", "cluster", "browser", "book", "process", "nightly"}
COLLECTING = "(start, collection)"


def used() -> float:
    """Return the CPU seconds of this process and of its children that have ended, user and system."""
    return sum(os.times()[:4]) + sum(support.warm.SECONDS)


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
        self.counted = 0.0

    def since_last(self) -> float:
        """Return the CPU seconds since the last call, or since the process began."""
        before, self.counted = self.counted, used()
        return self.counted - before

    def pytest_collection_finish(self) -> None:
        self.by_file[COLLECTING] += self.since_last()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        report = yield
        report.cpu_seconds = self.since_last()  # pytest-xdist sends what a report has
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.worker:
            seconds = getattr(report, "cpu_seconds", 0.0)
            self.by_file[report.nodeid.partition("::")[0]] += seconds
            if not SLOW_KINDS & set(report.keywords):
                self.by_test[report.nodeid] += seconds

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
        if (total := sum(self.by_file.values())) < LEAST:
            return
        terminalreporter.section("CPU seconds by file, beside the last time")
        for name, seconds in sorted(self.by_file.items(), key=lambda one: -one[1])[:SHOWN]:
            terminalreporter.write_line(f"{seconds:8.1f} {last.get(name, '-'):>8}  {name}")
        terminalreporter.write_line(f"{total:8.1f}           all {len(self.by_file) - 1} files")
        for name, seconds in self.by_test.items():
            if seconds > QUICK:
                terminalreporter.write_line(f"{seconds:8.1f}  to be marked slow: {name}")
