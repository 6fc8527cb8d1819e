"""A module's public names: their signatures as in the source, and the directives that document them."""

from __future__ import annotations

import ast
import builtins
import copy
import re
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from experiments.paths import ROOT


class Member(NamedTuple):
    """A public name of a module.

    Attributes
    ----------
    name
        Name without its module.
    role
        Role of a reference to it: ``func``, ``class`` or ``data``.
    summary
        First sentence of its docstring, in reStructuredText; empty if it has none.
    directive
        Directive that documents it, in reStructuredText.
    """

    name: str
    role: str
    summary: str
    directive: str


def members(module: str, package: Path = ROOT / "lpc") -> list[Member]:
    """Return the public functions, classes and constants that a module defines, in the source's order.

    Signatures are as in the source, because :mod:`sphinx.ext.autodoc` would evaluate jaxtyping's shapes and
    show the results. Each name in an annotation becomes a reference that shows only its last part.

    Parameters
    ----------
    module
        Name of the module, without the package's.
    package
        Folder of the package, which has the package's name.
    """
    return list(_members(f"{package.name}.{module}", _text(module, package)))


@lru_cache(maxsize=500)
def _members(module: str, text: str) -> tuple[Member, ...]:
    """Return a module's members from its text; the finder asks for them, and the module's page again."""
    tree = ast.parse(text)
    names, found = _names(tree, module), []
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef) and _public(node.name):
            found.append(Member(node.name, "func", summary(ast.get_docstring(node)), _function(node, names)))
        elif isinstance(node, ast.ClassDef) and _public(node.name):
            found.append(Member(node.name, "class", summary(ast.get_docstring(node)), _class(node, names)))
        elif (name := _assigned(node)) and _public(name):
            said, role = _said(following), "data" if name.isupper() else "class"  # the types it names
            kind = "data" if role == "data" else "type"
            found.append(Member(name, role, summary(said), _constant(kind, name, node, said, names)))
    return tuple(found)


def parsed(module: str, package: Path = ROOT / "lpc") -> ast.Module:
    """Return the syntax tree of a package's module."""
    return ast.parse(_text(module, package))


def _text(module: str, package: Path) -> str:
    return package.joinpath(*module.split(".")).with_suffix(".py").read_text()


def _public(name: str) -> bool:
    return not name.startswith("_")


def _assigned(node: ast.stmt) -> str:
    """Return the name to which a statement assigns a value; empty if it assigns none."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return targets[0].id if targets and isinstance(targets[0], ast.Name) else ""


def _said(node: ast.stmt | None) -> str:
    """Return the string below a constant, which documents it."""
    value = node.value if isinstance(node, ast.Expr) else None
    said = value.value if isinstance(value, ast.Constant) else None
    return textwrap.dedent(said).strip() if isinstance(said, str) else ""


def summary(docstring: str | None) -> str:
    """Return a docstring's first sentence, which ends before a capital letter or with the paragraph."""
    paragraph = " ".join((docstring or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


def _names(tree: ast.Module, module: str) -> dict[str, str]:
    """Return the full names of a module's imports and definitions, by the names that the module uses."""
    names = dict.fromkeys(filter(None, map(_assigned, tree.body)), "")
    names.update({node.name: "" for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))})
    names = {name: f"{module}.{name}" for name in names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({item.asname or item.name: item.name for item in node.names})
        elif isinstance(node, ast.ImportFrom):
            names.update({item.asname or item.name: f"{node.module}.{item.name}" for item in node.names})
    return names


class _References(ast.NodeTransformer):
    """Writes the names of an annotation in full after a tilde: references that show only their last part."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        parts = ast.unparse(node).split(".")
        return ast.Name("~" + ".".join([self.names.get(parts[0], parts[0]), *parts[1:]]))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        full = self.names.get(node.id, "")
        if full == "typing.Literal" or (not full and hasattr(builtins, node.id)):
            return node  # Sphinx knows these, and shows a Literal as its values
        return ast.Name(f"~{full or node.id}")

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(node.value.strip()) if isinstance(node.value, str) else node  # " points"


def _annotation(node: ast.expr, names: Mapping[str, str]) -> str:
    return ast.unparse(_References(names).visit(copy.deepcopy(node)))


def _arguments(node: ast.FunctionDef, names: Mapping[str, str], *, bound: bool = False) -> str:
    """Return a function's arguments; for a ``bound`` method, without the first."""
    taken = copy.deepcopy(node.args)
    if bound:
        del (taken.posonlyargs or taken.args)[0]
    for argument in ast.walk(taken):
        if isinstance(argument, ast.arg) and argument.annotation is not None:
            argument.annotation = ast.Name(_annotation(argument.annotation, names))
    return ast.unparse(taken)


def _function(node: ast.FunctionDef, names: Mapping[str, str], *, kind: str = "function") -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    bound = kind == "method" and "staticmethod" not in decorators
    returned = f" -> {_annotation(node.returns, names)}" if node.returns else ""
    if kind == "method" and decorators & {"property", "cached_property", "functools.cached_property"}:
        said = _indented(ast.get_docstring(node) or "")
        return f".. py:property:: {node.name}\n   :type: {returned[4:]}\n\n{said}"
    return f".. auto{kind}:: {node.name}({_arguments(node, names, bound=bound)}){returned}\n"


def _class(node: ast.ClassDef, names: Mapping[str, str]) -> str:
    """Return the directives for a class: constructor, documented methods, and members of an enumeration."""
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    if "__init__" in methods:
        arguments = _arguments(methods["__init__"], names, bound=True)
    else:
        only_named = any("kw_only=True" in ast.unparse(decorator) for decorator in node.decorator_list)
        arguments = ", ".join(
            (["*"] if only_named and fields else []) + [_field(item, names) for item in fields]
        )
    parts = [f".. autoclass:: {node.name}({arguments})\n"]
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.FunctionDef) and _public(item.name) and ast.get_docstring(item):
            parts.append(_indented(_function(item, names, kind="method")))
        elif isinstance(item, ast.Assign) and (name := _assigned(item)) and _public(name):
            parts.append(_indented(_constant("attribute", name, item, _said(following), names)))
    return "\n".join(parts)


def _field(node: ast.AnnAssign, names: Mapping[str, str]) -> str:
    default = f"={ast.unparse(node.value)}" if node.value is not None else ""
    return f"{ast.unparse(node.target)}: {_annotation(node.annotation, names)}{default}"


def _constant(kind: str, name: str, node: ast.stmt, said: str, names: Mapping[str, str]) -> str:
    """Return the directive for a constant, with its value if that is short, or for a type alias."""
    assert isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
    value = ast.unparse(node.value)
    if kind == "type":  # annotations refer to classes: an invisible one marks the place of the type
        target = f".. py:class:: {name}\n   :no-typesetting:\n\n"
        shown = f"   :canonical: {_annotation(node.value, names)}\n   :no-index:\n"
        return f"{target}.. py:type:: {name}\n{shown}\n{_indented(said)}\n"
    shown = f"   :value: {value}\n" if len(value) <= 80 else ""
    return f".. py:{kind}:: {name}\n{shown}\n{_indented(said)}\n"


def _indented(text: str) -> str:
    return textwrap.indent(text, "   ")
