"""Times on busy cores, as ratios to one thread in the same state."""

import subprocess
import sys

from experiments.benchmarks import busy_cores


def test_ratios_are_to_one_thread_in_the_same_state():
    quiet = {"case": "binarity", "neighbours": 0, "one thread": 0.1, "chosen": 0.05, "torch's": 0.05}
    busy = {"case": "binarity", "neighbours": 4, "one thread": 0.3, "chosen": 0.36, "torch's": 6.0}
    table = busy_cores.table([quiet, busy])
    assert table.to_dict("index") == {
        "binarity": {
            "quiet: one thread (ms)": "100.0",
            "quiet: chosen": "0.50",
            "quiet: all threads": "0.50",
            "busy: one thread (ms)": "300.0",
            "busy: chosen": "1.20",
            "busy: all threads": "20.00",
        }
    }


def test_neighbours_run_beside_and_end(monkeypatch):
    real, begun = subprocess.Popen, []
    monkeypatch.setattr(
        busy_cores.subprocess, "Popen", lambda *given: begun.append(real(*given)) or begun[-1]
    )
    with busy_cores.neighbours(2):
        assert [program.poll() for program in begun] == [None, None]
    assert all(program.returncode for program in begun)
    assert begun[0].args[0] == sys.executable
