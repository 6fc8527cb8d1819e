"""The library's reference pages: a page a public module, and the finder that names everything by task."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from experiments.paths import ROOT
from experiments.publishing.api_members import members, parsed, summary

PLACE = "% finder\n"
"""The line of the staged api.md in whose place the finder goes."""

TASKS: dict[str, tuple[str, ...]] = {
    "Train a bottleneck": (
        "heads",
        "classifiers",
        "losses",
        "schedules",
        "equilibrium",
        "objectives",
        "metric_learning",
        "backbones",
        "data",
        "datasets",
        "latents",
    ),
    "Collapse": ("evaluation.collapse", "evaluation.class_margins", "evaluation.class_moments"),
    "Neural collapse": ("evaluation.neural_collapse", "evaluation.neural_collapse_metric"),
    "Binarity": ("evaluation.binarity", "evaluation.mixture"),
    "Information": ("evaluation.information", "evaluation.quantities", "evaluation.posterior"),
    "Robustness": (
        "evaluation.robustness",
        "evaluation.attacks",
        "evaluation.lipschitz",
        "evaluation.corruptions",
    ),
    "Certified radii": ("evaluation.certified",),
    "Reliability": ("evaluation.reliability", "evaluation.misclassification", "evaluation.calibration"),
    "Store and runs": ("specs", "runs", "store", "probes", "measurements", "machine", "figures"),
}
"""Public modules by what one comes for, each with a page of its own; names without ``lpc.``."""

INNER: dict[str, tuple[str, ...]] = {
    "Inner works of measuring": (
        "arrays",
        "evaluation.neighbours",
        "evaluation.class_sums",
        "evaluation.clusters",
        "evaluation.mixture_climb",
        "evaluation.attack_checks",
        "evaluation.attack_methods",
        "evaluation.affine_layers",
        "evaluation.linear_relaxation",
    ),
    "Inner works of training": (
        "training",
        "cohorts",
        "solo",
        "epochs",
        "sampling",
        "packing",
        "recording",
        "stopping",
        "information_measurements",
    ),
    "Inner works of the store": ("atomic", "listing", "ownership", "holders"),
}
"""Modules that serve others, a page a group."""


def module_names(package: Path = ROOT / "lpc") -> list[str]:
    """Return the names of a package's modules, in alphabetical order and without the package's."""
    paths = (path.relative_to(package) for path in package.rglob("*.py") if path.name != "__init__.py")
    return sorted(".".join(path.with_suffix("").parts) for path in paths)


def page_of(module: str) -> str:
    """Return the name of the page on which a module is."""
    for title, modules in INNER.items():
        if module in modules:
            return "api-" + title.lower().replace(" ", "-")
    return "api-" + module.replace(".", "-").replace("_", "-")


def _quoted(lines: Iterable[str]) -> str:
    """Return reStructuredText as a block of a Markdown page."""
    return "\n".join(["````{eval-rst}", *lines, "````", ""])


def described(module: str, package: Path = ROOT / "lpc") -> str:
    """Return the page of a module below its title: its docstring, and what documents each public name."""
    full = f"{package.name}.{module}"
    parts = [f".. automodule:: {full}\n", *(member.directive for member in members(module, package))]
    return f"`{full}`, in `{full.replace('.', '/')}.py`\n\n{_quoted(parts)}"


def _headline(module: str, package: Path) -> str:
    said = ast.get_docstring(parsed(module, package))
    full = f"{package.name}.{module}"
    return f".. py:currentmodule:: {full}\n\n:py:mod:`{full}`: {summary(said)}\n"


def _table(module: str, package: Path) -> str:
    """Return the table of a module's names in the finder; those of which nothing is said are left out."""
    rows = [
        f"   * - :py:{member.role}:`~{package.name}.{module}.{member.name}`\n     - {member.summary}"
        for member in members(module, package)
        if member.summary
    ]
    return "\n".join([".. list-table::\n   :width: 100%\n   :widths: 36 64\n   :class: finder\n", *rows, ""])


def finder(package: Path = ROOT / "lpc") -> str:
    """Return the finder: under each task its modules, and each public name with its summary."""
    lines = []
    for title, modules in TASKS.items():
        told = (text for module in modules for text in (_headline(module, package), _table(module, package)))
        lines += [f"## {title}\n", _quoted(told)]
    for title, modules in INNER.items():
        lines += [f"## {title}\n", _quoted(_headline(module, package) for module in modules)]
    return "\n".join(lines)


def write(target: Path, package: Path = ROOT / "lpc") -> list[str]:
    """Write the reference pages into a staged folder, and the finder into its api.md.

    Parameters
    ----------
    target
        The staged folder; its ``api.md`` has the line :data:`PLACE` once.
    package
        The library's folder.

    Returns
    -------
    list of str
        Names of the pages, in order.

    Raises
    ------
    ValueError
        A module that is in neither table or in two places, one that does not exist, or an ``api.md``
        without place for the finder.
    """
    placed = [module for table in (TASKS, INNER) for modules in table.values() for module in modules]
    known = module_names(package)
    if sorted(placed) != known:
        missing, unknown = sorted(set(known) - set(placed)), sorted(set(placed) - set(known))
        twice = sorted({module for module in placed if placed.count(module) > 1})
        raise ValueError(
            f"TASKS and INNER of experiments/publishing/api_pages.py must have every module of {package} "
            f"once; they lack {missing}, have {twice} twice, and {unknown} do not exist"
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
    for title, modules in INNER.items():
        parts = [f"## {module.rpartition('.')[2]}\n\n{described(module, package)}" for module in modules]
        pages[page_of(modules[0])] = "\n".join([f"# {title}\n", *parts])
    for name, content in pages.items():
        (target / f"{name}.md").write_text(content)
    return list(pages)
