"""The table of a book's stages: CPU seconds, including forked kernels, beside those of the last build."""

import json
import subprocess
import sys
from contextlib import suppress

import pytest

from experiments.publishing import stages
from experiments.publishing.stages import FILE, Clock, used

BURN = "import os\nwhile sum(os.times()[:2]) < {}: pass"


def burn(seconds):
    subprocess.run([sys.executable, "-S", "-c", BURN.format(seconds)], check=True)


def test_seconds_of_processes_that_have_ended_are_counted():
    before = used()
    burn(0.3)
    assert used() - before > 0.15  # each of its parts is cut to a hundredth


@pytest.fixture
def clocks(monkeypatch):
    """Clocks for CPU and wall time that move only when told to."""
    now = {"cpu": 3.0, "wall": 10.0}
    monkeypatch.setattr(stages, "used", lambda: now["cpu"])
    monkeypatch.setattr(stages.time, "monotonic", lambda: now["wall"])
    return now


def test_a_stage_has_the_seconds_between_its_ends_and_no_others(clocks):
    clock = Clock()
    with clock.stage("idle", "nothing"):
        clocks["wall"] += 0.5
    clocks["cpu"] += 100.0
    with clock.stage("busy", "2 runs"):
        clocks["cpu"] += 2.0
    with clock.stage("forked", "1 chapter"):
        clock.elsewhere += 5.0
    for waited in ("1 chapter", "0 chapters"):
        with clock.stage("forked", waited):
            clocks["wall"] += 1.0
    with suppress(KeyError), clock.stage("busy", "0 runs"):
        clocks["cpu"] += 0.25
        raise KeyError
    assert clock.stages == {
        "idle": ("nothing", 0.0, 0.5),
        "busy": ("2 runs", 2.25, 0.0),
        "forked": ("2 chapters", 5.0, 2.0),
    }


def test_figures_are_kept_and_shown_beside_the_next_ones(tmp_path, clocks):
    first, second = Clock(), Clock()
    with first.stage("training", "3 runs"):
        first.elsewhere += 7.0
    with first.stage("pages", ""):
        pass
    assert [line.split()[:2] for line in first.told(tmp_path).splitlines()][1] == ["training", "3"]
    assert json.loads((tmp_path / FILE).read_text())["training"] == ["3 runs", 7.0, 0.0]
    with second.stage("pages", ""):
        second.elsewhere += 2.0
    told = second.told(tmp_path).splitlines()
    assert told[0].split() == ["stage", "made", "CPU", "s", "last", "wall", "s", "last"]
    assert told[1].split() == ["pages", "2.0", "0.0", "0.0", "0.0"] and told[-1].split() == [
        "all",
        "2.0",
        "0.0",
    ]
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept == {"training": ["3 runs", 7.0, 0.0], "pages": ["", 2.0, 0.0]}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"pages": 3}')
    with pytest.raises(ValueError, match=rf"{FILE} is damaged .* remove it"):
        Clock().told(tmp_path)


def test_used_seconds_grow():
    before = used()
    burn(0.2)
    assert used() - before > 0.1  # each of its parts is cut to a hundredth
