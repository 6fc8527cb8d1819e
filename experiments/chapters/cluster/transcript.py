"""A recorded submission: what was typed and what was printed, on a SLURM of one node."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from experiments.paths import TRANSCRIPT
from experiments.publishing.checking.prose import CODE_WIDTH
from lpc.errors import unknown_name


def parts(path: Path = TRANSCRIPT) -> dict[str, str]:
    """Return the text of the parts of the transcript by their titles, in order.

    ``tests/support/cluster_transcript.py`` writes it: when and how, then parts (``##`` and a title).

    Raises
    ------
    ValueError
        If there is no transcript, or it has no parts.
    """
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; PYTHONPATH=tests python -m support.cluster_transcript records it"
        )
    pieces = re.split(r"^## (.*)\n", path.read_text(), flags=re.MULTILINE)
    titles, texts = pieces[1::2], pieces[2::2]
    if not titles:
        raise ValueError(f"{path} has no part; expected lines that begin with '## '")
    return dict(zip(titles, (text.strip() for text in texts), strict=True))


def recorded(path: Path = TRANSCRIPT) -> str:
    """Return the line that says when, from what and how the transcript was recorded."""
    parts(path)
    return path.read_text().partition("\n")[0].removeprefix("# ")


def part(title: str, path: Path = TRANSCRIPT) -> str:
    """Return the text of a part in lines that fit a page; an unknown title is a ValueError."""
    known = parts(path)
    if title not in known:
        raise unknown_name(f"part of {path.name}:", title, known)
    return "\n".join(map(_narrow, known[title].splitlines()))


def _narrow(line: str) -> str:
    """Return a line broken at spaces where it is too wide; one that a shell reads can still be typed."""
    if len(line) <= CODE_WIDTH or " " not in line.strip():
        return line
    typed = re.match(r"\$ |srun ", line)
    broken = textwrap.wrap(
        line, CODE_WIDTH - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return (" \\\n" if typed else "\n").join(broken)


def commands(path: Path = TRANSCRIPT) -> list[str]:
    """Return the command lines that were typed."""
    return re.findall(r"^\$ (.*)$", path.read_text(), flags=re.MULTILINE)
