"""Addresses are found by their tags alone, as whole pages would be read."""

from experiments.publishing.checking.external_links import _Addresses, addresses

PAGE = """<!doctype html><html><head><script src="https://a.org/s.js"></script>
<script>const page = '<a href="https://in.script/">';</script>
<STYLE>/* <img src="https://in.style/"> */</STYLE>
<!-- <a href="https://in.comment/"> --><link rel="x" href='//b.org/c.css'/></head>
<body><p title="1 > 0 // no address">a < b, "quoted</p>
<img alt="a > b" src="https://c.org/d.png"><a href="own.html">x//y</a>
<a class=plain href=https://d.org/plain>p</a><a href="http://e.org/?a=1&amp;b=2#c">q</a>
<a href="https://c.org/d.png">again</a><a data-href="https://f.org/" href="mailto:x@y.org">r</a></body></html>
"""


def test_addresses_are_those_that_reading_the_whole_page_finds():
    reader = _Addresses()
    reader.feed(PAGE)
    assert addresses(PAGE) == list(reader.found)
    assert addresses(PAGE) == [
        "https://a.org/s.js (script)",
        "//b.org/c.css (link)",
        "https://c.org/d.png (img)",
        "https://d.org/plain",
        "http://e.org/?a=1&b=2#c",
        "https://c.org/d.png",
    ]
