"""A page as its reader sees it: opens it in a browser and collects what is wrong with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page

WIDE, NARROW = 1280, 390

_TYPESET = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const frame = () => new Promise(drawn => requestAnimationFrame(drawn));
  // Fonts are asked for once drawn; then the page sees the final width of its formulas.
  for (let at = 0; at < 8; at++) {
    await frame();
    await document.fonts.ready;
  }
}"""

_MATHS = r"""() => {
  const wrong = [];
  const sources = [...document.querySelectorAll("span.math, div.math")];
  for (const math of sources)
    if (!math.querySelector("mjx-container")) wrong.push("not typeset: " + math.textContent.slice(0, 60));
  for (const error of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
    wrong.push("error: " + error.textContent.slice(0, 60));
  const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const verbatim = "pre, code, script, style, noscript, textarea, mjx-container";
  while (walk.nextNode()) {
    const text = walk.currentNode;
    if (!text.parentElement.closest(verbatim) && /\\\(|\\\[|\$\$/.test(text.data))
      wrong.push("raw: " + text.data.slice(0, 60));
  }
  return wrong;
}"""

_IMAGES = """() => [...document.images].flatMap(image => {
  const wrong = [];
  if (!image.complete || !image.naturalWidth) wrong.push("not loaded: " + image.src);
  const words = (image.alt || "").trim().split(/\\s+/).filter(word => /\\p{L}/u.test(word));
  if (words.length < 2) wrong.push("alt of fewer than two words: " + image.src + " " + image.alt);
  return wrong;
})"""

_CLIPPED = """() => {
  const wrong = [];
  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth)
    wrong.push(`the page is ${root.scrollWidth} px wide in a window of ${window.innerWidth}`);
  const boxes = "table, pre, img, svg, iframe, canvas, mjx-container, .math, .admonition, dl, p, h1, h2, h3";
  for (const wide of document.querySelectorAll(boxes)) {
    if (!wide.checkVisibility() || wide.closest("mjx-assistive-mml, .visually-hidden, dialog")) continue;
    const rect = wide.getBoundingClientRect();
    let box = wide, held = false;
    if (rect.right <= window.innerWidth + 1 && wide.scrollWidth <= wide.clientWidth + 1) continue;
    for (; box && box !== document.body && !held; box = box.parentElement) {
      const style = getComputedStyle(box);
      held = ["auto", "scroll"].includes(style.overflowX) || style.position === "fixed";
    }
    const over = rect.right > window.innerWidth + 1;
    const hides = ["hidden", "clip"].includes(getComputedStyle(wide).overflowX);
    const cut = hides && wide.scrollWidth > wide.clientWidth + 1;
    if (!held && (over || cut)) wrong.push("cut off: " + wide.outerHTML.slice(0, 100));
  }
  for (const box of document.querySelectorAll("main *")) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(box).overflowX);
    if (!scrolls || !box.checkVisibility() || box.scrollWidth <= box.clientWidth + 1) continue;
    const within = box.querySelector("a[href], button, input, select, summary, [tabindex='0']");
    if (box.tabIndex < 0 && !within)
      wrong.push("scrolls, but not by keyboard: " + box.outerHTML.slice(0, 100));
  }
  return wrong;
}"""

_TINY = """() => [...document.querySelectorAll(".bd-article figure img")]
  .filter(image => image.naturalWidth > 640)
  .filter(image => image.getBoundingClientRect().width < 0.55 * image.naturalWidth)
  .map(image => "too small to read: " + image.src)"""
_PAPER = """() => [...document.querySelectorAll(".cell_output img")]
  .filter(image => !/rgb\\(255, 255, 255\\)/.test(getComputedStyle(image).backgroundColor)
                   || getComputedStyle(image).filter !== "none")
  .map(image => "not on white paper: " + image.src)"""


_ONCE = """() => {
  // axe reads the same few colours thousands of times.
  const {Color} = axe.commons.color, read = Color.prototype.parseString, known = new Map();
  Color.prototype.parseString = function (text) {
    if (!known.has(text)) {
      read.call(this, text);
      known.set(text, [this.r, this.g, this.b, this.alpha]);
    }
    [this.r, this.g, this.b, this.alpha] = known.get(text);
    return this;
  };
  axe.configure({ rules: [{ id: "color-contrast", selector: ":not([data-looks-the-same])" }] });
}"""

_ALIKE = """() => {
  // Words of one parent that look the same have one contrast: the first stands for them.
  const told = ["color", "backgroundColor", "backgroundImage", "fontSize", "fontWeight", "opacity",
                "textShadow", "webkitTextStroke", "position", "display", "visibility", "mixBlendMode",
                "filter", "float"];
  const seen = new Map();
  for (const word of document.querySelectorAll("main *")) {
    delete word.dataset.looksTheSame;
    if (word.children.length) continue;
    const looks = window.getComputedStyle(word);
    if (!seen.has(word.parentElement)) seen.set(word.parentElement, new Set());
    const known = seen.get(word.parentElement);
    const look = [word.tagName, ...told.map(one => looks[one])].join("|");
    if (known.has(look)) word.dataset.looksTheSame = "";
    known.add(look);
  }
}"""


class Opened(NamedTuple):
    """A page that was opened: the browser's page, its requests' addresses and what went wrong."""

    page: Page
    requests: set[str]
    wrong: list[str]


@contextmanager
def opened(
    browser: Browser, url: str, *, width: int = WIDE, theme: str = "light", script: bool = True
) -> Iterator[Opened]:
    """Open a page; nothing leaves the machine, and what tries to is told as wrong."""
    scheme: Any = theme
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        reduced_motion="reduce",
        java_script_enabled=script,
    )
    try:
        page, requests, wrong = context.new_page(), set(), []
        host = "http://127.0.0.1"

        def asked(address: str) -> None:
            if not address.startswith(("data:", "blob:")):
                requests.add(address)
            if not address.startswith(("file:", "data:", "blob:", "about:", host)):
                wrong.append(f"leaves the machine: {address}")

        page.on("request", lambda request: asked(request.url))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        if script:
            page.evaluate(_TYPESET)
        yield Opened(page, requests, wrong)
    finally:
        context.close()


def maths(page: Page) -> list[str]:
    """Return formulas that are not typeset, typeset as errors, or left in the text."""
    return page.evaluate(_MATHS)


def images(page: Page) -> list[str]:
    """Return images that are missing or have no text for those who cannot see them."""
    return page.evaluate(_IMAGES)


def clipped(page: Page) -> list[str]:
    """Return what is wider than the window, cut off, or scrolls but not by keyboard."""
    return page.evaluate(_CLIPPED)


def paper(page: Page) -> list[str]:
    """Return figures that have no white paper behind them."""
    return page.evaluate(_PAPER)


def tiny(page: Page) -> list[str]:
    """Return figures with several panels that are drawn too small for their labels to be read."""
    return page.evaluate(_TINY)


def barriers(page: Page, *, only: tuple[str, ...] = ()) -> list[str]:
    """Return axe's violations of serious or critical impact, one line per element; ``only``: these rules."""
    if not page.evaluate("typeof window.axe === 'object'"):
        page.evaluate(AXE_SCRIPT)
        page.evaluate(_ONCE)
    page.evaluate(_ALIKE)
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if only:
        options["runOnly"] = {"type": "rule", "values": list(only)}
    found = page.evaluate(f"axe.run(document, {json.dumps(options)})")
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:120]}: "
        + "; ".join(check["message"] for check in [*node["any"], *node["all"], *node["none"]])[:160]
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def path_of(address: str) -> Path:
    """Return the file behind a file:// address."""
    return Path(unquote(urlsplit(address).path))


def weight(requests: set[str]) -> int:
    """Return the bytes of all requested files."""
    paths = {path_of(address) for address in requests if address.startswith("file:")}
    return sum(path.stat().st_size for path in paths if path.exists())


def empty_files(page: Page) -> list[str]:
    """Return links to files beside the pages that are missing, empty, or not of the type of their suffix."""
    links = "[...document.querySelectorAll('a[href]')].map(link => link.href)"
    starts = {".ipynb": b"{", ".svg": b"<", ".png": b"\x89PNG"}
    endings, wrong = (*starts, ".csv", ".md"), []
    for address in sorted(set(page.evaluate(links))):
        path = path_of(address)
        if not address.startswith("file:") or path.suffix not in endings:
            continue
        if not path.exists() or not path.stat().st_size:
            wrong.append(f"missing or empty: {address}")
        elif not path.read_bytes().lstrip(b"\xef\xbb\xbf \n").startswith(starts.get(path.suffix, b"")):
            wrong.append(f"not {path.suffix}: {address}")
    return wrong
