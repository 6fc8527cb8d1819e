"""What importing a module of the library loads, in a fresh interpreter; no clock is read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "torchvision",
    "sklearn",
    "pandas",
    "matplotlib",
    "scipy",
    "pytorch_metric_learning",
    "faiss",
)
TORCH_ALONE = (
    *("lpc.data", "lpc.classifiers", "lpc.heads", "lpc.losses", "lpc.training.build"),
    *("lpc.runs.execution", "lpc.store.run_store"),
    *("lpc.equilibrium", "lpc.evaluation.neural_collapse", "lpc.evaluation.information"),
)


def loaded(code: str) -> set[str]:
    """Return which of the heavy packages a fresh interpreter has loaded after some code."""
    asked = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    command = [sys.executable, "-c", f"{code}\n{asked}"]
    return set(json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout))


@pytest.mark.parametrize(
    "code",
    ["import lpc; dir(lpc)", "import lpc.evaluation, lpc.runs, lpc.store, lpc.training", "import lpc.specs"],
)
def test_the_front_door_and_the_specs_load_nothing(code):
    assert loaded(code) == set()


def test_parts_of_a_network_and_runs_load_torch_alone():
    assert loaded("import " + ", ".join(TORCH_ALONE)) == {"torch"}


def test_what_is_loaded_is_noticed():
    assert loaded("from lpc import figures") == {"pandas", "matplotlib"}
    assert loaded("import scipy") == {"scipy"}
