"""The table of a book's stages: their CPU seconds, forked kernels included, beside those of the last time."""

import json
import subprocess
import sys
import time

import pytest

from experiments.publishing.stages import FILE, Clock, used

BURN = "import os\nwhile sum(os.times()[:2]) < {}: pass"


def burn(seconds):
    subprocess.run([sys.executable, "-S", "-c", BURN.format(seconds)], check=True)


def test_a_stage_has_the_cpu_seconds_of_its_processes_and_no_others():
    clock = Clock()
    with clock.stage("idle", "nothing"):
        time.sleep(0.3)
    burn(0.3)
    with clock.stage("busy", "2 runs"):
        burn(0.6)
    with clock.stage("forked", "1 chapter"):
        clock.elsewhere += 5.0
    with pytest.raises(KeyError), clock.stage("busy", "0 runs"):
        raise KeyError
    found = clock.stages
    assert list(found) == ["idle", "busy", "forked"]
    assert found["idle"].cpu < 0.2 and found["idle"].wall >= 0.3
    assert 0.6 <= found["busy"].cpu < 1.0 and found["busy"].done == "2 runs"
    assert 5.0 <= found["forked"].cpu < 5.2


def test_figures_are_kept_and_shown_beside_the_next_ones(tmp_path):
    first, second = Clock(), Clock()
    with first.stage("training", "3 runs"):
        first.elsewhere += 7.0
    with first.stage("pages", ""):
        pass
    assert [line.split()[:2] for line in first.told(tmp_path).splitlines()][1] == ["training", "3"]
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["training"][1] == pytest.approx(7.0, abs=0.2)
    with second.stage("pages", ""):
        second.elsewhere += 2.0
    told = second.told(tmp_path).splitlines()
    assert told[0].split() == ["stage", "made", "CPU", "s", "last", "wall", "s", "last"]
    assert told[1].split()[:3] == ["pages", "2.0", "0.0"] and told[-1].split()[:2] == ["all", "2.0"]
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["training"][1] == pytest.approx(7.0, abs=0.2) and kept["pages"][1] == pytest.approx(
        2.0, abs=0.2
    )


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"pages": 3}')
    with pytest.raises(ValueError, match=rf"{FILE} is damaged .* remove it"):
        Clock().told(tmp_path)


def test_used_seconds_grow():
    before = used()
    burn(0.2)
    assert round(used() - before, 2) >= 0.2  # hundredths are what the system counts
