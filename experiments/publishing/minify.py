"""Makes pages lighter: leaves out unused scripts, and rounds figures to a hundredth of a point."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from lpc.store.atomic import write_file

LIMIT = 2_000_000  # bytes of a page, including its scripts, styles, fonts and figures
UNUSED = ("scripts/fontawesome.js", "sphinx-thebe.js", "sphinx-thebe.css")  # icons come from the web font
SEARCHING = ("searchtools.js", "language_data.js", "searchindex.js")
WHOLE_MATHJAX = "_static/mathjax/tex-chtml.js"
PARTS_OF_MATHJAX = "_static/mathjax/startup.js"  # only what _config.yml names: no menu, no spoken formulas


def light_page(html: str, *, search: bool) -> str:
    """Return a page that loads only what it uses.

    Parameters
    ----------
    html
        Page as written by Sphinx.
    search
        Whether it is the search page, the only one that reads the index.

    Returns
    -------
    str
        Page without the scripts for icons, live code and, unless it is the search page, the index; it loads
        MathJax in parts. Its bibliography is not marked as a list, because a screen reader would find no
        items in it. Dates in tables do not break at their hyphens.
    """
    unused = UNUSED if search else UNUSED + SEARCHING
    names = "|".join(re.escape(name) for name in unused)
    html = re.sub(rf'<script\b[^>]*\bsrc="[^"]*(?:{names})(?:\?[^"]*)?"[^>]*></script>\n?', "", html)
    html = re.sub(rf'<link\b[^>]*\bhref="[^"]*(?:{names})(?:\?[^"]*)?"[^>]*>\n?', "", html)
    html = re.sub(r"<script>const THEBE_JS_URL.*?</script>\n?", "", html)
    html = html.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    html = html.replace(
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="Pages below"><span class="toctree-toggle"',
    )
    html = html.replace('alt="-"', 'alt="fold or unfold"')
    # HTML allows no target within a list of definitions, where Sphinx puts a name's second address
    html = re.sub(r'(<dl\b[^>]*>\s*)((?:<span id="[^"]*"></span>\s*)+)', r"\2\1", html)
    html = re.sub(r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", _parameters, html, flags=re.DOTALL)
    html = re.sub(r"(<td\b[^>]*>(?:<p>)?)(\d{4}-\d\d-\d\d)(?=<)", r'\1<span class="date">\2</span>', html)
    if 'class="sd-' not in html:
        html = re.sub(r'<link\b[^>]*\bhref="[^"]*sphinx-design[^"]*"[^>]*>\n?', "", html)
    return html.replace(WHOLE_MATHJAX, PARTS_OF_MATHJAX)


def _parameters(found: re.Match[str]) -> str:
    """Return a signature's parameters as spans: HTML allows no list of definitions without terms."""
    return found[1].replace("<dd>", '<span class="sig-parameter">').replace("</dd>", "</span>")


def _short(hundredths: int) -> str:
    number = f"{hundredths / 100:.2f}".rstrip("0").rstrip(".")
    return re.sub(r"^(-?)0\.", r"\1.", number)


def _rounded(found: re.Match[str]) -> str:
    return _short(round(100 * float(found[0])))


def light_path(path: str) -> str:
    """Return a path rounded to a hundredth of a point; a path of straight lines is written relatively.

    Parameters
    ----------
    path
        Path as written by matplotlib: M, L, C, Q and z with absolute coordinates.

    Returns
    -------
    str
        The same path, rounded. Lines are relative to the rounded point before them, so that errors do not
        add up. A line along an axis has one number; lines without length are left out, except for dots;
        successive lines in the same direction along an axis become one.
    """
    steps = re.findall(r"([A-Za-z])([^A-Za-z]*)", path)
    if any(letter not in "MLz" for letter, _ in steps):
        return re.sub(r"\s*\n\s*|(?<=[A-Zz]) | (?=[A-Zz])", "", re.sub(r"-?\d+\.\d+", _rounded, path)).strip()
    written, at, begun, along = [], (0, 0), (0, 0), 0
    for letter, numbers in steps:
        if letter == "z":
            written.append("z")
            at, along = begun, 0
            continue
        x, y = (round(100 * float(one)) for one in numbers.split())
        across, down = x - at[0], y - at[1]
        if letter == "M":
            written.append(f"M{_short(x)} {_short(y)}")
            begun, along = (x, y), 0
        elif across and down:
            written.append(f"l{_short(across)} {_short(down)}")
            along = 0
        elif across or down:
            kind, step = ("h", across) if across else ("v", down)
            if written[-1][0] == kind and along * step > 0:
                step += along
                written.pop()
            written.append(f"{kind}{_short(step)}")
            along = step
        elif written[-1][0] == "M":
            written.append("h0")  # a dot
        at = x, y
    return "".join(written).replace(" -", "-")


def light_figure(svg: str) -> str:
    """Return a figure with paths, marks and letters placed to a hundredth of a point.

    Repeated styles are written once; ids are short and given only to elements that are referred to. Comments,
    metadata and groups without attributes are left out; scales and everything else stay as they are.
    """
    svg = re.sub(r"<!--.*?-->\n?|<metadata>.*?</metadata>\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sd="([^"]*)"', lambda found: f' d="{light_path(found[1])}"', svg)
    svg = re.sub(
        r'\s[xy]="[^"]*"|\btranslate\([^)]*\)', lambda found: re.sub(r"-?\d+\.\d+", _rounded, found[0]), svg
    )
    svg = re.sub(r'(<use\b[^>]*) transform="translate\(([^ )]+) 0\)"(?=/>)', r'\1 x="\2"', svg)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace(" xlink:href=", " href=")
    named = list(dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg)))
    short = {name: f"n{at}" for at, name in enumerate(named)}
    svg = re.sub(r'((?:href="|url\()#)([^")]+)', lambda found: found[1] + short[found[2]], svg)
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{short[found[1]]}"' if found[1] in short else "", svg)
    svg = _without_bare_groups(svg)
    counts = Counter(re.findall(r'(?<= )style="([^"]*)"(?= ?/?>)', svg))
    names = {style: f"s{at}" for at, (style, count) in enumerate(counts.items()) if count > 2}
    for style, name in names.items():
        svg = svg.replace(f' style="{style}"', f' class="{name}"')
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    return re.sub(r"\n\s*", "\n", re.sub(r"(<svg\b[^>]*>)", rf"\1<style>{rules}</style>", svg, count=1))


def _without_bare_groups(svg: str) -> str:
    ends: list[str] = []

    def kept(found: re.Match[str]) -> str:
        if found[0] == "</g>":
            return ends.pop()
        if found[0].endswith("/>"):
            return found[0]
        ends.append("" if found[0] == "<g>" else "</g>")
        return ends[-1] and found[0]

    return re.sub(r"<g(?:\s[^>]*)?>|</g>", kept, svg)


def light_icons(pages: Path) -> None:
    """Reduce the icon font, and the rules that name its icons, to the icons that pages and scripts show."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    static = pages / "_static"
    scripts = [path for path in static.glob("**/*.js") if path.name != "fontawesome.js"]
    texts = [path.read_text() for path in [*pages.glob("*.html"), *scripts]]
    used = {name for text in texts for name in re.findall(r"\bfa-[a-z0-9-]+", text)}
    style = static / "styles" / "pydata-sphinx-theme.css"
    css = style.read_text()
    shown: set[int] = set()

    def kept(found: re.Match[str]) -> str:
        if not used & set(re.findall(r"fa-[a-z0-9-]+", found[1])):
            return ""
        shown.add(int(found[2], 16))
        return found[0]

    css = re.sub(r'((?:\.fa-[a-z0-9-]+:{1,2}before,?)+)\{content:"\\([0-9a-f]+)"\}', kept, css)
    others = [css, *(path.read_text() for path in static.glob("**/*.css") if path != style)]
    shown |= {int(code, 16) for text in others for code in re.findall(r'"\\(f[0-9a-f]{3})"', text)}
    css = re.sub(r'url\([^)]*\.woff2\) ?format\("woff2"\),(?=url\([^)]*\.ttf\))', "", css)
    style.write_text(css)
    for path in static.glob("vendor/fontawesome/webfonts/*.ttf"):
        font = TTFont(path)
        cutter = subset.Subsetter()
        cutter.populate(unicodes=shown)
        cutter.subset(font)
        font.save(path)


def light_style(css: str, used: Collection[str]) -> str:
    """Return a style sheet without selectors of classes that no element can have.

    Parameters
    ----------
    css
        Minified style sheet.
    used
        All words of the pages and scripts: wherever a class is set, its name is among them.

    Returns
    -------
    str
        Style sheet without such selectors, and without rules that have no selector left. Words within
        ``:not``, or in brackets, do not count.
    """

    def possible(selector: str) -> bool:
        named = re.sub(r":[a-z-]+\([^)]*\)|\[[^]]*\]", "", selector)
        return all(name in used for name in re.findall(r"\.([A-Za-z_-][\w-]*)", named))

    def kept(found: re.Match[str]) -> str:
        selectors = re.split(r",(?![^(]*\))", found[1])
        left = [one for one in selectors if possible(one)]
        return f"{','.join(left)}{{{found[2]}}}" if left else ""

    return re.sub(r"([^{}@;]+)\{([^{}]*)\}", kept, css)


def ordered_index(index: str) -> str:
    """Return Sphinx's search index, ordered: public names, then words of pages, then private names.

    Parameters
    ----------
    index
        Content of ``searchindex.js``, as written by Sphinx.
    """
    call, _, rest = index.partition("(")
    found = json.loads(rest.rstrip().removesuffix(";").removesuffix(")"))
    for prefix, entries in found["objects"].items():
        for entry in entries:
            entry[2] = 2 if "._" in f".{prefix}" else 0  # Sphinx's priorities: 0 is important, 2 is not
    return f"{call}({json.dumps(found, separators=(',', ':'), ensure_ascii=False)})"


_APART = bytes(byte if chr(byte).isascii() and re.match(r"[\w-]", chr(byte)) else 32 for byte in range(256))
"""Letters, digits, _ and - stay; all other bytes become spaces."""


def words_of(path: Path) -> set[str]:
    """Return every word of a file that can be the name of a class: of ASCII, without a digit in front."""
    found = {word.lstrip(b"0123456789") for word in path.read_bytes().translate(_APART).split()}
    return {word.decode("ascii") for word in found}


def remembered(text: str, light: Callable[[str], str], results: Path | None) -> str:
    """Return the light form of a text, from the folder of results if it is there, which else receives it."""
    if results is None:
        return light(text)
    path = results / hashlib.sha256(text.encode()).hexdigest()
    if not path.exists():
        content = light(text).encode()
        write_file(path, lambda temporary: temporary.write_bytes(content))
    return path.read_bytes().decode()


def lighten(pages: Path, *, results: Path | None = None) -> None:
    """Rewrite built pages, their figures, icons and styles in place; see :func:`light_page`,
    :func:`light_figure`, :func:`light_icons`, :func:`light_style` and :func:`ordered_index`.

    Parameters
    ----------
    pages
        Folder of HTML written by Sphinx.
    results
        Folder that remembers the light figures of this version of the code; None: none is remembered.
    """
    for page in pages.glob("*.html"):
        page.write_text(light_page(page.read_text(), search=page.stem == "search"))
    index = pages / "searchindex.js"
    if index.exists():
        index.write_text(ordered_index(index.read_text()))
    light_icons(pages)
    static = pages / "_static"
    scripts = (path for path in static.glob("**/*.js") if "mathjax" not in path.parts)
    used = set().union(*map(words_of, [*pages.glob("*.html"), *scripts]))
    for style in [static / "styles" / "pydata-sphinx-theme.css", *static.glob("mystnb.*.css")]:
        style.write_text(light_style(style.read_text(), used))
    for figure in (pages / "_images").glob("*.svg"):
        figure.write_text(remembered(figure.read_text(), light_figure, results))
