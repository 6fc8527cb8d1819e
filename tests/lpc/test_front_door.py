"""`import lpc` offers what people want first, and says where the rest is."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import warm

import lpc

ROOT = Path(__file__).parents[2]
FIRST = (
    *("bottleneck_classifier", "BottleneckHead", "Classifier", "squared_norm", "geometric_gamma"),
    *("budget_warning", "VARIANTS", "RunSpec", "ModelSpec", "DataSpec", "TrainSpec", "variant_spec"),
    *("run_key", "execute", "execute_all", "RunStore", "evaluation", "__version__"),
)


@pytest.mark.parametrize("name", FIRST)
def test_what_people_want_first_is_there_and_listed(name):
    assert getattr(lpc, name) is not None
    assert name in dir(lpc)


def test_all_that_is_offered_can_be_had_and_is_what_its_module_has():
    scope: dict[str, object] = {}
    exec("from lpc import *", scope)
    assert set(FIRST) <= scope.keys()
    for name in ("squared_norm", "run_key", "RunStore", "BottleneckHead"):
        assert scope[name] is getattr(sys.modules[getattr(lpc, name).__module__], name)


def test_public_modules_need_no_import_of_their_own():
    code = "import lpc; print(lpc.evaluation.neural_collapse.__name__, lpc.losses.__name__)"
    done = warm.run("-c", code, cwd=ROOT)
    assert done.stdout.split() == ["lpc.evaluation.neural_collapse", "lpc.losses"]


@pytest.mark.parametrize(
    ("package", "name", "hint"),
    [
        (lpc, "neural_colapse", r"Did you mean .*lpc\.evaluation\.neural_collapse\.neural_collapse\?"),
        (lpc, "squared_nrm", r"Did you mean lpc\.squared_norm\?"),
        (lpc, "deepfool", r"there is lpc\.evaluation\.robustness\.deepfool$"),
        (lpc.evaluation, "colapse", r"Did you mean lpc\.evaluation\.collapse\?"),
        (lpc, "zzzqq", r"has no attribute 'zzzqq'$"),
        (lpc, "_private", r"has no attribute '_private'$"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_nearest(package, name, hint):
    with pytest.raises(
        AttributeError, match=f"module '{package.__name__}' has no attribute '{name}'"
    ) as info:
        getattr(package, name)
    assert re.search(hint, str(info.value))


def test_the_version_is_the_installed_one_or_said_to_be_unknown(tmp_path):
    assert lpc.__version__ == importlib.metadata.version("latent-point-collapse")
    (tmp_path / "lpc").symlink_to(ROOT / "lpc")
    code = "import sys; sys.path.insert(0, '.'); import lpc; print(lpc.__version__)"
    done = subprocess.run(  # -S: without any installed package
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0+unknown\n"


@pytest.mark.slow
def test_type_checkers_see_what_is_offered(tmp_path):
    path = tmp_path / "user.py"
    path.write_text(
        "import lpc\nreveal_type(lpc.squared_norm)\nreveal_type(lpc.run_key)\n"
        "reveal_type(lpc.__version__)\nlpc.neural_colapse\n"
    )
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [Path(sys.executable).with_name("pyright"), "--pythonpath", sys.executable, path]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert '"(latent: Tensor, *, reduction: ' in said and '"(spec: RunSpec) -> str"' in said
    assert 'Type of "lpc.__version__" is "str"' in said
    assert '"neural_colapse" is not a known attribute of module "lpc"' in said


def test_evaluation_names_each_of_its_public_modules_once():
    named = [module for modules in lpc.evaluation.TASKS.values() for module in modules]
    paths = (ROOT / "lpc" / "evaluation").glob("[!_]*.py")
    assert sorted(named) == sorted(path.stem for path in paths)
    assert all(f"{task}: " in str(lpc.evaluation.__doc__) for task in lpc.evaluation.TASKS)
