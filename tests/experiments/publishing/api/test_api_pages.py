"""The reference pages: every public name is on one of them, and its docstring explains its parameters."""

import ast
import re
import shutil
from html import unescape

import pytest
import yaml
from support import warm

from experiments.paths import BOOK, ROOT
from experiments.publishing.api import api_members, api_pages
from experiments.publishing.build import staged_settings

LPC = ROOT / "lpc"
MODULES = api_pages.module_names()


@pytest.fixture
def staged(tmp_path):
    shutil.copy(BOOK / "api.md", tmp_path)
    return tmp_path


def package(folder, **modules):
    """Write a package of modules and return its folder."""
    (folder / "lpc").mkdir()
    for name, text in modules.items():
        (folder / "lpc" / f"{name}.py").write_text(text)
    return folder / "lpc"


def test_every_public_name_is_on_one_page(staged):
    names = api_pages.write(staged)
    assert len(set(names)) == len(names)
    assert {path.stem for path in staged.glob("*.md")} == {*names, "api"}
    shown = []
    for name in names:
        module = ""
        text = re.sub(r"^.*\n   :module: .*\n", "", (staged / f"{name}.md").read_text(), flags=re.MULTILINE)
        for line in text.splitlines():
            if line.startswith(".. automodule:: "):
                module = line.split()[-1]
            elif found := re.match(r"\.\. (?:autofunction|autoclass|py:data|py:type):: (\w+)", line):
                shown.append(f"{module}.{found[1]}")
    defined = [
        f"lpc.{module}.{name}"
        for module in MODULES
        for node in api_members.parsed(module).body
        for name in named_by(node)
        if not name.startswith("_")
    ]
    assert sorted(shown) == sorted(defined)


def named_by(node):
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_what_one_looks_for_is_in_the_finder():
    """A name's row has the words by which people look for it; rows fold under a line of names."""
    found = api_pages.finder()
    assert found.count('<details class="finder">') == found.count("</details>") > 40
    assert "<summary>report, " in found and "{doc}`api-inner-works-of-measuring`" in found
    rows = found.split("   * - ")
    for name, words in {
        "within_class_covariance": "within-class covariance",
        "deepfool": "deepfool",
        "knn_entropy": "k-NN entropy",
        "geometric_gamma": "gamma.*schedule",
        "expected_calibration_error": "ECE",
    }.items():
        (row,) = (row for row in rows if re.search(rf"\.{name}`", row.splitlines()[0]))
        assert re.search(words, row), row


@pytest.mark.parametrize(
    ("modules", "tasks", "words"),
    [
        (["losses", "evaluation/fresh"], {"Train": ("losses",)}, r"they lack \['evaluation\.fresh'\]"),
        ([], {"Train": ("losses",)}, r"\['losses'\] do not exist"),
        (["losses"], {"Train": ("losses",), "Store": ("losses",)}, r"have \['losses'\] twice"),
    ],
)
def test_tasks_that_lack_a_measurement_or_name_too_much_are_errors(
    staged, tmp_path, modules, tasks, words, monkeypatch
):
    monkeypatch.setattr(api_pages, "TASKS", tasks)
    (tmp_path / "lpc" / "evaluation").mkdir(parents=True)
    for name in modules:
        (tmp_path / "lpc" / f"{name}.py").touch()
    with pytest.raises(ValueError, match=words):
        api_pages.write(staged, tmp_path / "lpc")
    assert list(staged.glob("*.md")) == [staged / "api.md"]


def test_modules_that_serve_others_need_no_line(staged):
    assert "evaluation._classes.class_sums" in api_pages.inner_modules()["Inner works of measuring"]
    assert {"store.ownership", "store.atomic"} <= set(api_pages.inner_modules()["Inner works of the store"])


def test_names_are_found_under_the_paths_that_offer_them():
    targets = api_pages.described("store.run_store"), api_pages.described("losses")
    for text, package, name in zip(targets, ("lpc.store", "lpc"), ("RunStore", "squared_norm"), strict=True):
        assert re.search(rf"\.\. py:\w+:: {name}\n   :module: {re.escape(package)}\n", text)
    assert targets[0].count(".. py:class:: RunStore") == 2 and "py:function:: absolute_norm" not in targets[1]


def test_a_page_without_place_for_the_finder_is_an_error(tmp_path):
    (tmp_path / "api.md").write_text("# API reference\n")
    with pytest.raises(ValueError, match=r"api\.md has the line '% finder' 0 times"):
        api_pages.write(tmp_path)


def test_signatures_are_the_source_s_with_references(tmp_path):
    folder = package(
        tmp_path,
        shapes="""
from typing import Any, Literal, NamedTuple
import numpy as np
from jaxtyping import Float
from lpc.arrays import Array

Kind = Literal["a", "b"]
LIMIT = 3
\"\"\"The most.\"\"\"

def take(x: Float[Array, " points"], *, kind: Kind = "a", more: np.ndarray | None = None) -> dict[str, Any]:
    '''Return it. Then more, of Eq. 3.'''

class Pair(NamedTuple):
    '''Two (Eq. 3).'''
    left: int
    right: Literal["x"] = "x"

    def swapped(self, by: int) -> "Pair":
        '''Return it.'''
""",
    )
    kind, limit, take, pair = api_members.members("shapes", folder)
    assert ":canonical: Literal['a', 'b']" in kind.directive and not kind.summary
    assert ":value: 3" in limit.directive and limit.summary == "The most."
    assert take.directive == (
        ".. autofunction:: take(x: ~jaxtyping.Float[~lpc.arrays.Array, 'points'], *, "
        "kind: ~lpc.shapes.Kind='a', more: ~numpy.ndarray | None=None) -> dict[str, ~typing.Any]\n"
    )
    assert take.summary == "Return it." and pair.summary == "Two (Eq. 3)."
    assert ".. autoclass:: Pair(left: int, right: Literal['x']='x')" in pair.directive
    assert "   .. automethod:: swapped(by: int)" in pair.directive


def built(folder, *modules):
    """Build pages of some modules strictly; return Sphinx's output if it failed, else None."""
    stage = folder / "stage"
    shutil.copytree(BOOK / "_static", stage / "_static")
    shutil.copy(BOOK / "references.bib", stage)
    (stage / "_config.yml").write_text(yaml.safe_dump(staged_settings(ROOT / "_config.yml")))
    names = [api_pages.page_of(module) for module in modules]
    for module, name in zip(modules, names, strict=True):
        page = f"# {module}\n\n{api_pages.described(module)}"
        (stage / f"{name}.md").write_text(page)
    root, *others = names
    toc = {"format": "jb-book", "root": root}
    toc |= {"chapters": [{"file": name} for name in others]} if others else {}
    (stage / "_toc.yml").write_text(yaml.safe_dump(toc))
    start = "from jupyter_book.cli.main import main; main()"
    options = ("--path-output", folder / "out", "-W", "-n", "--keep-going")
    done = warm.run("-c", start, "build", stage, *options, cwd=ROOT)
    return done.stdout + done.stderr if done.returncode else None


@pytest.mark.book
def test_pages_build_strictly_and_read_well(tmp_path):
    assert built(tmp_path, "evaluation.collapse", "arrays") is None
    html = (tmp_path / "out" / "_build" / "html" / "api-evaluation-collapse.html").read_text()
    text = unescape(re.sub(r"<[^>]+>", "", html))
    assert "Float[ArrayT, 'points width']" in text and "jaxtyping." not in text
    assert re.search(r'href="api-[a-z-]+\.html#lpc\.arrays\.Convention"', html)
    assert "Alias for field number" not in text


@pytest.mark.book
def test_a_reference_that_leads_nowhere_fails_the_build(tmp_path):
    said = built(tmp_path, "evaluation.collapse")  # the types of lpc.arrays are on no page
    assert said is not None and "reference target not found: lpc.arrays.Convention" in said


def section(docstring, name):
    """Return the names that a section of a numpydoc docstring explains; None if there is no such section."""
    found = re.search(rf"^{name}\n-+\n(.*?)(?=^\S[^\n]*\n-{{3,}}\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if found is None:
        return None
    entries = (line.partition(":")[0] for line in found[1].splitlines() if line and not line[0].isspace())
    return {name.strip().lstrip("*") for entry in entries for name in entry.split(",")}


def arguments(function):
    taken = function.args
    found = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
    return {argument.arg for argument in found if argument is not None} - {"self", "cls"}


def offences(path, *, public):
    """Return what the docstrings of a module leave out, one line each.

    In a ``public`` module, every function must name all its parameters and say what it returns, and every
    class its fields or its constructor's parameters. Elsewhere, and in methods, names that are explained must
    exist.
    """
    found = []
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        own = [item for item in getattr(node, "body", []) if isinstance(item, ast.FunctionDef)]
        if isinstance(node, ast.ClassDef):
            init = next((item for item in own if item.name == "__init__"), None)
            fields = {
                name for item in node.body if isinstance(item, ast.AnnAssign) for name in named_by(item)
            }
            pairs = [(node, "Parameters", arguments(init)) if init else (node, "Attributes", fields)]
            pairs += [(item, "", arguments(item)) for item in own if not item.name.startswith("_")]
        else:
            pairs = [(node, "Parameters", arguments(node))]
        for item, heading, taken in pairs:
            said = ast.get_docstring(item)
            where = f"{path.name}: {item.name}"
            if said is None:
                found.append(f"{where} has no docstring")
                continue
            named = section(said, heading or "Parameters")
            if named is None and public and heading and taken:
                found.append(f"{where} has no {heading}: {sorted(taken)}")
            elif named is not None and named != taken:
                found.append(f"{where}: {heading} and docstring differ in {sorted(named ^ taken)}")
            plain = isinstance(item, ast.FunctionDef) and re.match(
                r"[a-z]|(Float|Int)", ast.unparse(item.returns or ast.Constant(None)).lstrip()
            )  # a number, an array, a container: the type does not say what it is
            if public and heading and plain and not re.search("return|yield", said, re.IGNORECASE):
                found.append(f"{where} does not say what it returns")
    return found


def test_docstrings_name_every_parameter():
    public = {module for modules in api_pages.TASKS.values() for module in modules}
    found = []
    for module in MODULES:
        path = LPC.joinpath(*module.split(".")).with_suffix(".py")
        found += offences(path, public=module in public)
    assert not found, "\n".join(found)


LACKING = '''
def bare(): ...

def without(x) -> float:
    """The sum."""

def other(x, y):
    """Return it.

    Parameters
    ----------
    x, z
        Both.
    """

class Row:
    """A row."""

    field: int

    def method(self, a):
        """Return it."""
'''


def test_a_docstring_that_leaves_something_out_is_found(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(LACKING)
    assert offences(path, public=True) == [
        "module.py: bare has no docstring",
        "module.py: without has no Parameters: ['x']",
        "module.py: without does not say what it returns",
        "module.py: other: Parameters and docstring differ in ['y', 'z']",
        "module.py: Row has no Attributes: ['field']",
    ]
    assert len(offences(path, public=False)) == 2
