"""The directives ``answer`` and ``paper``: a chapter's answer from the ledger, and a paper's statement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from experiments.publishing.checking.prose import listed

TABLES = "answers.json"
"""The staged file that has the tables of all answers, as HTML by the ids of their claims."""


def key_of(claims: Sequence[str]) -> str:
    """Return the key of a table of claims in :data:`TABLES`."""
    return ", ".join(claims)


class FigurePlace(nodes.General, nodes.Element):
    """Placeholder for a figure that the page draws further below."""


class Answer(SphinxDirective):
    """A question, its answer, the ledger's entries for its claims, and the figure that shows it."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "claims": directives.unchanged_required,
        "figure": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the box; the figure is moved into it once the page has been read."""
        box = nodes.container(classes=["answer"])
        words, messages = self.state.inline_text(self.arguments[0], self.lineno)
        box += nodes.paragraph(self.arguments[0], "", *words, *messages, classes=["answer-question"])
        self.state.nested_parse(self.content, self.content_offset, box)
        claims = listed(self.options.get("claims", ""))
        if claims:
            tables = Path(self.env.srcdir, TABLES)
            self.env.note_dependency(str(tables))
            box += nodes.raw("", json.loads(tables.read_text())[key_of(claims)], format="html")
        if name := self.options.get("figure"):
            place = FigurePlace(figure=name)
            self.set_source_info(place)
            box += place
        return [box]


class Paper(SphinxDirective):
    """A statement of a paper, with its place there."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the element: the place, followed by the text."""
        box = nodes.container(classes=["paper-says"])
        box += nodes.paragraph("", self.arguments[0], classes=["paper-place"])
        self.state.nested_parse(self.content, self.content_offset, box)
        return [box]


class MoveFigures(SphinxTransform):
    """Moves each figure that an answer names into its box; cells that showed nothing else are removed."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Replace the placeholders by the figures."""
        for place in list(self.document.findall(FigurePlace)):
            name = nodes.fully_normalize_name(place["figure"])
            found = next((one for one in self.document.findall(nodes.figure) if name in one["names"]), None)
            if found is None:
                told = "the answer's figure %r is not on this page"
                logging.getLogger(__name__).warning(told, place["figure"], location=place)
                place.parent.remove(place)
                continue
            cell = found.parent
            cell.remove(found)
            place.replace_self(nodes.container("", found, classes=["cell_output", "answer-figure"]))
            while not cell.children and isinstance(cell, nodes.container):
                cell, empty = cell.parent, cell
                cell.remove(empty)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the transform that moves figures."""
    app.add_directive("answer", Answer)
    app.add_directive("paper", Paper)
    app.add_transform(MoveFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
