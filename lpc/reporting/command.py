"""``python -m lpc report FILE``: a report of arrays in a file, printed and written as a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lpc.errors import listed

_ROLES = {
    "latents": "latents",
    "labels": "labels",
    "logits": "logits",
    "weight": "last layer's weights",
    "bias": "last layer's biases",
    "test_latents": "test latents",
    "test_labels": "test labels",
    "test_logits": "test logits",
    "outside": "latents of points from outside",
    "outside_logits": "logits of points from outside",
}
"""Content of each array, by its option."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m lpc", description="Measure how far latents have collapsed.")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser(
        "report",
        help="measure latents and labels in a file",
        description="Measure latents and labels in a .npz, .safetensors, .csv or .parquet file: print the "
        "table and write a page beside the file. Arrays that you do not name are guessed, and the guess is "
        "printed.",
        epilog="Example: python -m lpc report features.npz --labels y --csv report.csv",
    )
    one.add_argument("file", type=Path, metavar="FILE", help="the file with the arrays")
    for role, content in _ROLES.items():
        one.add_argument(f"--{role.replace('_', '-')}", metavar="NAME", help=f"array of {content}")
    one.add_argument(
        "--html", type=Path, metavar="PATH", help="write the page here (default: FILE.report.html)"
    )
    one.add_argument("--no-html", action="store_true", help="write no page")
    one.add_argument("--csv", type=Path, metavar="PATH", help="write the table as CSV, too")
    one.add_argument(
        "--json", type=Path, metavar="PATH", help="write values, references and flags as JSON, too"
    )
    one.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="largest number of points for entropies, binarity and neighbours",
    )
    one.add_argument(
        "--k", type=int, help="rank of the neighbour for entropies (default: 2 %% of the smallest class)"
    )
    one.add_argument(
        "--seed", type=int, default=0, help="seed for samples, shuffled labels and noise (default: 0)"
    )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; errors that a user can fix are one line on stderr."""
    given = parser().parse_args(arguments)
    try:
        _report(given)
    except BrokenPipeError:
        raise  # nobody reads on
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _report(given: argparse.Namespace) -> None:
    from lpc.reporting.files import chosen, numbered, read

    asked = {role: getattr(given, role) for role in _ROLES}
    arrays = read(given.file, asked)
    names = chosen(arrays, asked)
    print("arrays: " + ", ".join(f"{role} = {name} {arrays[name].shape}" for role, name in names.items()))
    unused = [name for name in arrays if name not in names.values()]
    if unused:
        print(f"not used: {listed(unused, 20)}")
    found = {role: arrays[name] for role, name in names.items()}
    for line in numbered(found):
        print(line)

    from lpc.reporting.report import report  # torch: only now that there is something to measure

    test = outside = classifier = None
    if "test_latents" in found:
        if "test_labels" not in found:
            raise ValueError("the file has test latents but no test labels: pass --test-labels NAME")
        test = tuple(found[role] for role in ("test_latents", "test_labels", "test_logits") if role in found)
    if "outside" in found:
        logits = found.get("outside_logits")
        outside = found["outside"] if logits is None else (found["outside"], None, logits)
    if "weight" in found:
        classifier = (found["weight"], found.get("bias"))
    more = {} if given.sample is None else {"sample": given.sample}
    result = report(
        found["latents"],
        found["labels"],
        logits=found.get("logits"),
        classifier=classifier,
        test=test,
        outside=outside,
        k=given.k,
        seed=given.seed,
        progress=None,
        **more,
    )
    print(result)
    if not given.no_html:
        page = given.html or given.file.with_name(f"{given.file.name}.report.html")
        result.to_html(page)
        print(f"\nwrote {page}")
    for path, write in ((given.csv, result.to_csv), (given.json, result.to_json)):
        if path is not None:
            write(path)
            print(f"wrote {path}")
