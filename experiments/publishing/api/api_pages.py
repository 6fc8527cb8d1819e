"""The library's reference pages: one per public module, and a finder that lists all public names by task."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from experiments.paths import ROOT
from experiments.publishing.api.api_members import Member, members, parsed, summary
from lpc._front.faces import offered
from lpc.evaluation import TASKS as MEASURED

PLACE = "% finder\n"
"""The line of the staged api.md that the finder replaces."""

TASKS: dict[str, tuple[str, ...]] = {
    "Report and collect": ("reporting.report", "reporting.by_layer", "latents"),
    "Train a bottleneck": (
        *("heads", "classifiers", "losses"),
        *("schedules.gammas", "schedules.by_spec", "schedules.gamma_control"),
        *("equilibrium", "extinction", "objectives", "centres", "metric_learning"),
        *("integrations.loop", "integrations.lightning"),
        *("backbones", "data", "datasets"),
    ),
    **{task: tuple(f"evaluation.{name}" for name in names) for task, names in MEASURED.items()},
    "Store and runs": (
        *("specs", "architectures", "runs.execution", "store.run_store", "store.probes"),
        *("runs.measurements", "figures"),
        *("computing.devices", "computing.provenance"),
        *("computing.numerics", "computing.precision", "computing.threads"),
    ),
}
"""Public modules by task, each with its own page; names without ``lpc.``."""

INNER: dict[str, str] = {
    "": "Inner works of the library",
    "computing": "Inner works of computing",
    "inputs": "Inner works of inputs",
    "reporting": "Inner works of reports",
    "_front": "Inner works of the front door",
    "evaluation": "Inner works of measuring",
    "training": "Inner works of training",
    "store": "Inner works of the store",
    "runs": "Inner works of runs",
}
"""Titles of the pages on each package's remaining modules; the empty key is for modules in no package."""


def module_names(package: Path = ROOT / "lpc") -> list[str]:
    """Return the names of a package's modules in alphabetical order, without the package's own name."""
    paths = (path.relative_to(package) for path in package.rglob("*.py") if path.name != "__init__.py")
    return sorted(".".join(path.with_suffix("").parts) for path in paths)


def inner_modules(package: Path = ROOT / "lpc") -> dict[str, list[str]]:
    """Return the modules that are not in :data:`TASKS`, by the title of their page."""
    placed = {module for modules in TASKS.values() for module in modules}
    found: dict[str, list[str]] = {title: [] for title in INNER.values()}
    for module in module_names(package):
        if module not in placed:
            found[_inner_title(module)].append(module)
    return {title: modules for title, modules in found.items() if modules}


def _inner_title(module: str) -> str:
    """Return the title of the page of a module that is not in :data:`TASKS`: it depends on the package."""
    package, dot, _ = module.partition(".")
    return INNER[package if dot else ""]


def page_of(module: str) -> str:
    """Return the name of the page that documents a module."""
    alone = any(module in modules for modules in TASKS.values())
    title = module if alone else _inner_title(module)
    return "api-" + title.lower().translate(str.maketrans("._ ", "---"))


def _quoted(lines: Iterable[str]) -> str:
    """Return reStructuredText as a block for a Markdown page."""
    return "\n".join(["````{eval-rst}", *lines, "````", ""])


def described(module: str, package: Path = ROOT / "lpc") -> str:
    """Return a module's page without the title: its docstring, and the directives of its public names."""
    full = f"{package.name}.{module}"
    parts = [f".. automodule:: {full}\n"]
    for member in members(module, package):
        parts += [*_offers(member, full), member.directive]
    return f"`{full}`, in `{full.replace('.', '/')}.py`\n\n{_quoted(parts)}"


def _offers(member: Member, module: str) -> list[str]:
    """Return link targets for a name under the packages that also offer it."""
    kind = {"func": "function"}.get(member.role, member.role)
    parent = module.rpartition(".")[0]
    return [
        f".. py:{kind}:: {member.name}\n   :module: {package}\n   :no-typesetting:\n"
        for package in dict.fromkeys([module.partition(".")[0], parent])
        if offered(package).get(member.name) in (module, parent)
    ]


def _headline(module: str, package: Path) -> str:
    said = ast.get_docstring(parsed(module, package))
    full = f"{package.name}.{module}"
    return f".. py:currentmodule:: {full}\n\n:py:mod:`{full}`: {summary(said)}\n"


def _table(module: str, package: Path) -> str:
    """Return the finder's table of a module's names, folded under a line that lists them.

    Names that the package offers come first; names without a docstring are left out.
    """
    first = offered(package.name)
    told = [member for member in members(module, package) if member.summary]
    told.sort(key=lambda member: member.name not in first)
    rows = [
        f"   * - :py:{member.role}:`~{package.name}.{module}.{member.name}`\n     - {member.summary}"
        for member in told
    ]
    if not rows:
        return ""
    names = ", ".join(member.name for member in told)
    opened = f'.. raw:: html\n\n   <details class="finder"><summary>{names}</summary>\n'
    table = "\n".join([".. list-table::\n   :width: 100%\n   :widths: 36 64\n   :class: finder\n", *rows, ""])
    return "\n".join([opened, table, ".. raw:: html\n\n   </details>\n"])


def finder(package: Path = ROOT / "lpc") -> str:
    """Return the finder: the modules of each task, and each public name with its summary."""
    lines = []
    for title, modules in TASKS.items():
        told = (text for module in modules for text in (_headline(module, package), _table(module, package)))
        lines += [f"## {title}\n", _quoted(told)]
    lines += ["## Inner works\n", "The modules on which these rest, by package:\n"]
    lines += [f"- {{doc}}`{page_of(modules[0])}`" for modules in inner_modules(package).values()]
    return "\n".join([*lines, ""])


def write(target: Path, package: Path = ROOT / "lpc") -> list[str]:
    """Write the reference pages into a staged folder, and the finder into its api.md.

    Parameters
    ----------
    target
        Staged folder, whose ``api.md`` has the line :data:`PLACE` once.
    package
        Folder of the library.

    Returns
    -------
    list of str
        Names of the pages, in order.

    Raises
    ------
    ValueError
        If a module in :data:`TASKS` occurs twice or does not exist, a module of ``lpc.evaluation`` is missing
        from it, or ``api.md`` has no place for the finder.
    """
    placed = [module for modules in TASKS.values() for module in modules]
    known = module_names(package)
    unknown = sorted(set(placed) - set(known))
    twice = sorted({module for module in placed if placed.count(module) > 1})
    missing = [name for name in known if re.match(r"evaluation\.[^_]", name) and name not in placed]
    if unknown or twice or missing:
        raise ValueError(
            f"TASKS, here and in lpc/evaluation/__init__.py, must have every public module of "
            f"{package / 'evaluation'} once; they lack {missing}, have {twice} twice, and {unknown} "
            "do not exist"
        )
    page = target / "api.md"
    text = page.read_text()
    if text.count(PLACE) != 1:
        raise ValueError(f"{page} has the line {PLACE.strip()!r} {text.count(PLACE)} times; expected once")
    page.write_text(text.replace(PLACE, finder(package)))
    pages = {}
    for modules in TASKS.values():
        for module in modules:
            pages[page_of(module)] = f"# {module.rpartition('.')[2]}\n\n{described(module, package)}"
    for title, modules in inner_modules(package).items():
        parts = [f"## {module.rpartition('.')[2]}\n\n{described(module, package)}" for module in modules]
        pages[page_of(modules[0])] = "\n".join([f"# {title}\n", *parts])
    for name, content in pages.items():
        (target / f"{name}.md").write_text(content)
    return list(pages)
