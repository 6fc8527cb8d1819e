"""Figures become shorter, but nothing in them moves."""

import io
import json
import re

import matplotlib
import numpy as np
import pytest
from fontTools.pens.recordingPen import RecordingPen
from fontTools.svgLib.path.parser import parse_path
from matplotlib.figure import Figure

from experiments.publishing.minify import (
    light_figure,
    light_page,
    light_path,
    light_style,
    ordered_index,
    remembered,
    words_of,
)


def places(path: str) -> list[tuple[str, np.ndarray]]:
    """What fontTools reads in a path: what is drawn, and the absolute places; ends of closed lines aside."""
    pen = RecordingPen()
    parse_path(path, pen)
    return [(name, np.array(points, dtype=float)) for name, points in pen.value if points]


def walk(points: np.ndarray, *, closed: bool = False) -> str:
    """A path as matplotlib writes it."""
    lines = [f"{'L' if at else 'M'} {x:.6f} {y:.6f} " for at, (x, y) in enumerate(points)]
    return "\n".join([*lines, "z\n" if closed else ""])


@pytest.mark.parametrize("closed", [False, True])
def test_a_path_of_lines_goes_where_it_went(closed):
    points = np.random.default_rng(0).uniform(-300, 300, (400, 2))
    path = walk(points, closed=closed) + walk(points[:3] + 1, closed=closed)
    short = light_path(path)
    assert len(short) < 0.7 * len(path)
    for (kind, here), (there_kind, there) in zip(places(short), places(path), strict=True):
        assert kind == there_kind and np.abs(here - there).max() <= 0.005 + 1e-9


def test_errors_of_rounding_do_not_add_up():
    steps = np.cumsum(np.full((5000, 2), 0.0149), axis=0)
    end = places(light_path(walk(steps)))[-1][1]
    assert np.abs(end - steps[-1]).max() <= 0.005 + 1e-9


def test_lines_that_go_on_along_an_axis_are_one():
    assert light_path("M 0 0 \nL 2 0 \nL 5 0 \nL 4 0 \nL 4 1 \nL 4 3 \nz\n") == "M0 0h5h-1v3z"
    path = "M 0 0 \nL 2 0 \nL 2 3 \nz\nL 1 0 \nL 1 1 \nM 1 4 \nL 1 5 \n"
    assert light_path(path) == "M0 0h2v3zh1v1M1 4v1"  # a part that was closed, or begins, ends a line


def test_steps_along_the_axes_have_one_number_and_dots_stay():
    assert light_path("M 1 2 \nL 1 5 \nL 4.504 5 \nL 4.5 5 \nL 4 4.75 \nz\n") == "M1 2v3h3.5l-.5-.25z"
    assert light_path("M 3 4 \nL 3 4 \n") == "M3 4h0"


def test_curves_keep_their_places():
    path = "M 0 1.504 \nC 0.261 1.5 0.5196 1.3946 0.707 1.207 \nz\n"
    assert light_path(path) == "M0 1.5C.26 1.5 .52 1.39 .71 1.21z"


def test_a_figure_is_shorter_and_none_of_it_is_lost():
    fig = Figure()
    axes = fig.subplots()
    with matplotlib.rc_context({"path.simplify": False}):
        axes.plot(np.random.default_rng(0).normal(size=2000).cumsum(), label="walk")
        axes.hist(np.random.default_rng(1).normal(size=500), bins=60, histtype="stepfilled")
        written = io.StringIO()
        fig.savefig(written, format="svg")
    svg = written.getvalue()
    short = light_figure(svg)
    assert len(short) < 0.6 * len(svg)
    for element in ("<path", "<use", "<clipPath", "clip-path="):
        assert short.count(element) == svg.count(element)
    assert short.count("<g ") == short.count("</g>") < svg.count("</g>")


def test_letters_and_what_is_referred_to_are_found_where_they_were():
    svg = (
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1"><metadata>made</metadata>'
        '<g id="text_1"><!-- 1.5 --><g clip-path="url(#p1a)" transform="translate(593.857436 25.7)">'
        '<defs><path id="DejaVuSans-31" d="M 1 2 L 3 4 "/>'
        '<clipPath id="p1a"><rect x="0.006"/></clipPath></defs>'
        '<use xlink:href="#DejaVuSans-31"/>'
        '<use xlink:href="#DejaVuSans-31" transform="translate(63.623047 0)"/>'
        '<use xlink:href="#DejaVuSans-31" transform="translate(95.4 38.28) scale(0.7)"/></g></g></svg>'
    )
    assert light_figure(svg) == (
        '<svg version="1.1"><style></style>'
        '<g clip-path="url(#n0)" transform="translate(593.86 25.7)">'
        '<defs><path id="n1" d="M1 2l2 2"/><clipPath id="n0"><rect x=".01"/></clipPath></defs>'
        '<use href="#n1"/><use href="#n1" x="63.62"/>'
        '<use href="#n1" transform="translate(95.4 38.28) scale(0.7)"/></g></svg>'
    )


def test_a_page_reads_the_index_only_where_it_searches():
    page = '<script src="searchindex.js"></script>\n<script src="_static/book.js"></script>'
    assert light_page(page, search=False) == '<script src="_static/book.js"></script>'
    assert light_page(page, search=True) == page


def test_styles_of_what_a_page_may_have_are_kept():
    css = (
        ".a{x:1}.b,.a .c{x:2}.b .a{x:3}p{x:4}.a:not(.b){x:5}.a:is(.c,.b) q{x:6}"
        '@media print{.b{x:7}.a{x:8}}@font-face{src:url(f.ttf)}[href$=".b"]{x:9}@keyframes k{12.5%{x:10}}'
    )
    assert light_style(css, {"a", "c"}) == (
        ".a{x:1}.a .c{x:2}p{x:4}.a:not(.b){x:5}.a:is(.c,.b) q{x:6}"
        '@media print{.a{x:8}}@font-face{src:url(f.ttf)}[href$=".b"]{x:9}@keyframes k{12.5%{x:10}}'
    )
    assert light_style(css, {"a", "b", "c"}) == css


def test_a_target_does_not_stand_in_a_list_of_definitions():
    page = '<dl class="py class" id="a.b">\n<span id="a.c"></span><dt id="a.d">name</dt></dl>'
    expected = '<span id="a.c"></span><dl class="py class" id="a.b">\n<dt id="a.d">name</dt></dl>'
    assert light_page(page, search=True) == expected


def test_dates_in_tables_do_not_break():
    page = '<td><p>2024-03-04</p></td><td class="x">2024-03-05</td><td>2024-03-06.txt</td><p>2024-03-07</p>'
    found = light_page(page, search=True)
    assert re.findall(r'<span class="date">(.*?)</span>', found) == ["2024-03-04", "2024-03-05"]
    assert "".join(re.split(r'<span class="date">|</span>', found)) == page


def test_public_names_are_found_before_inner_ones():
    objects = {
        "lpc.robustness": [[0, 1, 1, "", "deepfool"]],
        "lpc._networks.methods": [[1, 1, 1, "", "deepfool"]],
    }
    objects["_front"] = [[2, 0, 0, "-", "faces"]]
    given = {"objects": objects, "titles": ["γ"], "terms": {"deepfool": [0, 1]}}
    found = ordered_index(f"Search.setIndex({json.dumps(given)})")
    read = json.loads(found.removeprefix("Search.setIndex(").removesuffix(")"))
    order = {prefix: entry[2] for prefix, (entry,) in read.pop("objects").items()}
    assert order == {"lpc.robustness": 0, "lpc._networks.methods": 2, "_front": 2}
    assert read == {name: given[name] for name in ("titles", "terms")}


def test_words_of_a_file_are_those_that_a_class_can_have(tmp_path):
    path = tmp_path / "page.html"
    path.write_text('<p class="cell_output 2col a-b">“quoted”, naïve</p>x=y;')
    assert words_of(path) >= {"p", "class", "cell_output", "col", "a-b", "quoted", "x", "y"}
    assert not words_of(path) & {"2col", "“quoted”", "b"}


def test_a_text_is_made_light_once_and_another_is_not_taken_for_it(tmp_path):
    made = []

    def light(text):
        made.append(text)
        return text.upper()

    for text in ("é\r\n", "b", "é\r\n", "b"):
        assert remembered(text, light, tmp_path / "light") == text.upper()
    assert made == ["é\r\n", "b"]
    assert remembered("b", light, None) == "B" and made[2:] == ["b"]
