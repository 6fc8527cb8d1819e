"""The page that lists the modules of the experiments, each with the first sentence of its docstring."""

from __future__ import annotations

import ast
from pathlib import Path

from experiments.paths import EXPERIMENTS
from experiments.publishing.api.api_members import summary

NAME = "api-experiments"


def page(package: Path = EXPERIMENTS) -> str:
    """Return the page: for each package, its purpose and a table of its modules.

    Raises
    ------
    ValueError
        If a module or package has no docstring.
    """
    folders = sorted({path.parent for path in package.rglob("*.py")})
    parts = [f"# Modules of the experiments\n\n{_sentence(package / '__init__.py')}\n"]
    for folder in folders:
        name = ".".join(folder.relative_to(package).parts)
        if folder != package:
            parts.append(f"## `{name}`\n\n{_sentence(folder / '__init__.py')}\n")
        rows = [
            f"   * - ``{path.stem}``\n     - {_sentence(path)}"
            for path in sorted(folder.glob("*.py"))
            if path.name != "__init__.py"
        ]
        table = [".. list-table::", "   :width: 100%", "   :widths: 30 70", "   :class: finder", "", *rows]
        parts.append("\n".join(["````{eval-rst}", *table, "````", ""]) if rows else "")
    return "\n".join(parts)


def _sentence(path: Path) -> str:
    said = ast.get_docstring(ast.parse(path.read_text()))
    if not said:
        raise ValueError(f"{path} has no docstring; expected one whose first sentence gives its purpose")
    return summary(said)


def write(target: Path, package: Path = EXPERIMENTS) -> list[str]:
    """Write the page into a staged folder and return its name, as a list of one."""
    (target / f"{NAME}.md").write_text(page(package))
    return [NAME]
