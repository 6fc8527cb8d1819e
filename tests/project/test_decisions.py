"""Each decision names the commit that made it."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"`([0-9a-f]{7})`", ROOT.joinpath("book", "decisions.md").read_text())))


def unknown(hashes):
    """Return the names that are not commits, or None if there is no history to search."""

    def git(*arguments, text=None):
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=ROOT, input=text, capture_output=True, text=True, check=False
        ).stdout

    if git("rev-parse", "--is-shallow-repository").strip() != "false":
        return None
    told = git("cat-file", "--batch-check=%(objecttype)", text="\n".join(hashes)).splitlines()
    return [name for name, kind in zip(hashes, told, strict=True) if kind != "commit"]


def test_commits_that_decisions_name():
    missing = unknown(NAMED)
    if missing is None:
        pytest.skip("a copy without history")
    assert len(NAMED) > 40 and missing == []
    assert unknown([*NAMED, "0000000"]) == ["0000000"]
