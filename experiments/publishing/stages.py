"""Times of a book's stages: CPU and wall-clock seconds, and how long each stage took before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from experiments.publishing.executing import forked_kernels
from lpc.store.atomic import write_json

FILE = "stages.json"
"""The file in a book's output folder with the seconds that each stage took when it last had work."""


class Stage(NamedTuple):
    """Result and cost of a stage.

    Attributes
    ----------
    done
        What the stage has made, such as "55 runs" or "23 chapters".
    cpu, wall
        CPU seconds of all processes, and wall-clock seconds from beginning to end.
    """

    done: str
    cpu: float
    wall: float


def used() -> float:
    """Return the CPU seconds of this process and of its children and kernels that have ended."""
    return sum(os.times()[:4]) + sum(forked_kernels.SECONDS.values())


class Clock:
    """Measures the time of stages, one after another."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.elsewhere = 0.0
        """CPU seconds of kernels that worker processes forked, as the workers report them."""

    @contextmanager
    def stage(self, name: str, done: str) -> Iterator[None]:
        """Measure the time of a stage, even if it fails; stages of the same name are added up.

        Parameters
        ----------
        name
            Name of the stage.
        done
            What the stage makes, such as "2 runs"; for stages of the same name, the numbers are added.
        """
        cpu, wall = used() + self.elsewhere, time.monotonic()
        try:
            yield
        finally:
            before = self.stages.get(name)
            before = before._replace(done=_both(before.done, done)) if before else Stage(done, 0.0, 0.0)
            took = Stage(done, used() + self.elsewhere - cpu, time.monotonic() - wall)
            self.stages[name] = Stage(before.done, before.cpu + took.cpu, before.wall + took.wall)

    def told(self, folder: Path) -> str:
        """Return the table that is printed after a build, and write its numbers to the file.

        Parameters
        ----------
        folder
            Folder of :data:`FILE`. Stages without work keep their last numbers there.

        Raises
        ------
        ValueError
            If the file exists and is not such a table.
        """
        path = folder / FILE
        last: dict[str, Stage] = {}
        if path.exists():
            try:
                last = {name: Stage(*row) for name, row in json.loads(path.read_text()).items()}
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}); remove it") from error
        rows = [("stage", "made", "CPU s", "last", "wall s", "last")]
        for name, (done, *took) in self.stages.items():
            before = [f"{value:.1f}" for value in last[name][1:]] if name in last else ["-", "-"]
            now = [f"{value:.1f}" for value in took]
            rows.append((name, done, now[0], before[0], now[1], before[1]))
        cpu, wall = (sum(getattr(one, name) for one in self.stages.values()) for name in ("cpu", "wall"))
        rows.append(("all", "", f"{cpu:.1f}", "", f"{wall:.1f}", ""))
        rounded = {
            name: Stage(done, round(cpu, 1), round(wall, 1))
            for name, (done, cpu, wall) in self.stages.items()
        }
        write_json(path, {**last, **rounded})
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def _both(first: str, second: str) -> str:
    """Add up what two stages made: "2 runs" and "1 run" are "3 runs"."""
    if not first or not second:
        return first or second
    number = sum(int(one.split()[0]) for one in (first, second))
    return f"{number} {first.split()[1].removesuffix('s')}{'s' * (number != 1)}"
