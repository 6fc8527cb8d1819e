"""Which files a page depends on, tested on small packages, and which pages an edit makes stale."""

import shutil
from pathlib import Path

import pytest

from experiments import paths
from experiments.paths import ROOT
from experiments.publishing.executing import dependencies, staleness
from experiments.publishing.executing.chapter_sources import code_of
from experiments.publishing.places import PLACES

CHAPTERS = PLACES.chapter_names()
FILES = {
    "lpc/__init__.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from lpc.runs import execute as execute
            from lpc.losses import norm as norm
        def __getattr__(name): ...
        """,
    "lpc/losses.py": "import torch\n",
    "lpc/runs/__init__.py": """
        from lpc.runs.execution import execute as execute
        from lpc.runs.packing import pack as pack
        """,
    "lpc/runs/execution.py": """
        from lpc.runs import pack
        def execute():
            from lpc import training
            training.loop.run()
        """,
    "lpc/runs/packing.py": "",
    "lpc/training/__init__.py": "from lpc.training.other import other as other\n",
    "lpc/training/loop.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from lpc.types import Type
        """,
    "lpc/training/other.py": "",
    "lpc/types.py": "",
    "lpc/specs.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from lpc.rows import ROWS as ROWS
        else:
            __getattr__, __dir__ = face(__name__)
        SPEC = 1
        """,
    "lpc/rows.py": "",
    "lpc/probes.py": "PROBES = {'far': 'lpc.far:probe'}  # lpc.near:probe\n",
    "lpc/far.py": '"""See lpc.near."""\n',
    "lpc/near.py": "",
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        cut = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        path.write_text("\n".join(line[cut:] for line in lines))
    return tmp_path


def found(project, code):
    return [path.relative_to(project).as_posix() for path in dependencies.files([code], root=project)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import lpc", []),
        ("from lpc import norm", ["lpc/losses.py"]),
        ("import lpc\nlpc.norm(1)", ["lpc/losses.py"]),
        ("import lpc.losses as of\nof.norm(1)", ["lpc/losses.py"]),
        ("import lpc.losses\nlpc.losses.norm(1)", ["lpc/losses.py"]),
        ("%matplotlib inline\nimport lpc.losses", ["lpc/losses.py"]),
        ("def later():\n    from lpc.losses import norm", ["lpc/losses.py"]),
        ("from lpc.losses import *", ["lpc/losses.py"]),
        ("from lpc.runs import pack", ["lpc/runs/packing.py"]),
        ("from lpc import runs\nruns.pack()", ["lpc/runs/packing.py"]),
        ("from lpc.specs import SPEC", ["lpc/specs.py"]),
        ("from lpc.specs import ROWS", ["lpc/rows.py", "lpc/specs.py"]),
        ("import torch, numpy as np", []),
        ("name = 'lpc.losses'", ["lpc/losses.py"]),
        ("import lpc\nprint(lpc.__version__)", ["lpc/__init__.py"]),
    ],
)
def test_what_is_imported_by_each_way_of_importing(project, code, expected):
    assert found(project, code) == expected


EXECUTION = ["lpc/runs/execution.py", "lpc/runs/packing.py", "lpc/training/loop.py"]


@pytest.mark.parametrize("code", ["from lpc import execute", "from lpc.runs import execute"])
def test_a_name_leads_through_packages_to_its_own_modules_and_on_to_what_functions_import(project, code):
    """It does not lead to a package's other names, nor to imports for type checkers only."""
    assert found(project, code) == EXECUTION


def test_a_package_that_is_used_itself_counts_with_all_that_it_passes_on(project):
    assert found(project, "from lpc import training\ndir(training)") == [
        "lpc/training/__init__.py",
        "lpc/training/other.py",
    ]


def test_modules_named_by_whole_strings_count_and_words_in_comments_and_docstrings_do_not(project):
    assert found(project, "from lpc.probes import PROBES") == ["lpc/far.py", "lpc/probes.py"]


def test_a_relative_import_is_refused(project):
    with pytest.raises(SyntaxError, match=r"a relative import in line 1: from \.losses import norm"):
        found(project, "from .losses import norm")


def test_data_are_those_that_constants_name_and_a_folder_is_without_what_another_names(project, monkeypatch):
    beside = project / "experiments"
    beside.joinpath("results", "cluster").mkdir(parents=True)
    for name in ("paths.py", "claims.toml", "results/a.csv", "results/times.csv", "results/.b.csv"):
        beside.joinpath(name).write_text("")
    for name, place in {"LEDGER": "claims.toml", "RESULTS": "results", "TIMES": "results/times.csv"}.items():
        monkeypatch.setattr(paths, name, paths.EXPERIMENTS / place, raising=False)

    def data(code):
        return [one.removeprefix("experiments/") for one in found(project, code) if "paths.py" not in one]

    assert data("from experiments.paths import LEDGER") == ["claims.toml"]
    assert data("from experiments.paths import RESULTS as R, ROOT, BUILD") == ["results/a.csv"]
    assert data("from experiments import paths\npaths.TIMES") == ["results/times.csv"]
    assert data("from experiments.paths import *") == ["claims.toml", "results/a.csv", "results/times.csv"]


def test_modules_name_their_data_by_constants_alone():
    """This is what :func:`dependencies.files` relies on: no path is made from a module's own location."""
    own = (
        "experiments/paths.py",
        "lpc/computing/provenance.py",
        "lpc/store/listing.py",
        "only_staged.py",
    )  # read none
    code = [path for folder in ("lpc", "experiments") for path in (ROOT / folder).rglob("*.py")]
    assert all("__file__" not in path.read_text() for path in code if not path.as_posix().endswith(own))


class Copy:
    """A copy of the project's code, parts of which are edited, and the fingerprints of its pages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("lpc", "experiments", "tests/project"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "README.md", root)
        self.values = {"seed": 0}  # no runs: they are not code
        self.before = self.fingerprints()

    def fingerprints(self) -> dict[str, str]:
        return {name: staleness.fingerprint(name, self.values, root=self.root) for name in CHAPTERS}

    def stale_after_edit(self, *names: str) -> set[str]:
        """Return the pages that edits make stale, and undo the edits."""
        before = {self.root / name: (self.root / name).read_bytes() for name in names}
        for path, content in before.items():
            path.write_bytes(content + b"\n")
        after = self.fingerprints()
        for path, content in before.items():
            path.write_bytes(content)
        return {page for page in CHAPTERS if after[page] != self.before[page]}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Copy(tmp_path_factory.mktemp("project"))


def test_an_edit_of_the_scheduler_makes_the_page_about_clusters_stale_alone(copy):
    assert copy.stale_after_edit("experiments/cluster/slurm.py") == {"cluster"}


def test_an_edit_of_the_losses_makes_all_pages_stale_that_train(copy):
    trains = {name for name in CHAPTERS if any("ablation import study" in one for one in code_of(name))}
    stale = copy.stale_after_edit("lpc/losses.py")
    assert len(trains) > 8 and trains | {"own-model", "surrogates", "theory"} <= stale


def test_edits_of_what_no_page_imports_make_none_stale(copy):
    names = ("README.md", "tests/project/test_readme.py")
    code = ("experiments/__main__.py", "experiments/publishing/build.py")
    assert copy.stale_after_edit(*names, *code) == set()


def test_edits_of_data_make_the_pages_stale_that_read_them(copy):
    transcript = "experiments/results/cluster/transcript.txt"
    assert copy.stale_after_edit("experiments/cluster.example.toml", transcript) == {"cluster"}
    claims = copy.stale_after_edit("experiments/claims.toml")
    assert {"index", "collapse"} <= claims and "own-latents" not in claims and "quantities" not in claims
    results = copy.stale_after_edit("experiments/results/fashion-cpu/runs.csv")
    assert {"index", "collapse"} <= results and "own-latents" not in results


def test_a_module_that_moves_makes_its_pages_stale_though_its_text_is_the_same(copy):
    old = copy.root / "experiments" / "chapters" / "deepfool" / "links.py"
    before = staleness.fingerprint("deepfool", copy.values, root=copy.root)
    new = old.with_name("chain.py")
    old.rename(new)
    try:
        assert staleness.fingerprint("deepfool", copy.values, root=copy.root) != before
    finally:
        new.rename(old)
