"""A report as HTML: a table with references, flags and reasons, and a self-contained page."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from lpc.reporting.entries import Entry, all_missing, sections

if TYPE_CHECKING:
    from lpc.reporting.report import Report

_PAGE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #222 }
img { max-width: 100% }
"""
_STYLE = """
.lpc-report table { border-collapse: collapse; width: 100%; margin: 0 0 1.2rem }
.lpc-report caption { text-align: left; font-weight: 700; font-size: 1.15em; padding: .4rem 0 }
.lpc-report th, .lpc-report td { text-align: left; vertical-align: top; padding: .25rem .6rem;
  border-bottom: 1px solid #8888 }
.lpc-report td.value { white-space: nowrap; font-variant-numeric: tabular-nums }
.lpc-report .flag { font-weight: 600 }
.lpc-report .missing, .lpc-report .how { font-size: .88em }
.lpc-report ul.flags { padding-left: 1.2rem }
"""


def body(report: Report) -> str:
    """Return the report as an HTML fragment: title, flags, and one table per section.

    Parameters
    ----------
    report
        Report to show.
    """
    parts = [f"<style>{_STYLE}</style>", '<div class="lpc-report">', f"<p>{escape(report.title)}</p>"]
    if report.flags:
        listed = "".join(f"<li>{escape(text)}</li>" for text in report.flags)
        parts.append(f'<p class="flag">Read these first</p><ul class="flags">{listed}</ul>')
    for (topic, data), entries in sections(report.entries).items():
        heads = "".join(
            f'<th scope="col">{name}</th>' for name in ("what", "value", "beside", "how to read it")
        )
        caption = f"<caption>{escape(topic)}, {escape(data)}</caption>"
        parts.append(f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>")
        reason = all_missing(entries)
        missing = f'<tr><td colspan="4" class="missing">{escape(reason)}</td></tr>'
        parts += [missing] if reason else [_row(one) for one in entries]
        parts.append("</tbody></table>")
    return "\n".join([*parts, "</div>"])


def _row(one: Entry) -> str:
    value = f"{one.value:.4g} {escape(one.unit)}".rstrip() if one.value is not None else "–"
    beside = "<br>".join(f"{escape(name)}: {number:.3g}" for name, number in one.references.items())
    notes = escape(one.guide)
    if one.how:
        notes += f'<br><span class="how">{escape(one.how)}</span>'
    if one.flag:
        notes += f'<br><span class="flag">{escape(one.flag)}</span>'
    if one.value is None:
        notes += f'<br><span class="missing">missing: {escape(one.missing)}</span>'
    name = f'<th scope="row">{escape(one.name)}</th>'
    return f'<tr>{name}<td class="value">{value}</td><td>{beside}</td><td>{notes}</td></tr>'


def whole_page(report: Report) -> str:
    """Return the report as an HTML page in one file that includes its figure.

    Parameters
    ----------
    report
        Report to show.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    figure = report.plot()
    FigureCanvasAgg(figure)
    figure.savefig(image, format="png", dpi=150)
    code = base64.b64encode(image.getvalue()).decode()
    alt = "Latents coloured by class; distance to the second class mean; and, with logits, reliability."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Collapse report</title>'
        f"<style>{_PAGE}</style></head><body>"
        f'<h1>Collapse report</h1><img alt="{alt}" src="data:image/png;base64,{code}">{body(report)}'
        "</body></html>\n"
    )
