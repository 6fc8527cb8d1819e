"""The keys of a chapter's header are documented where chapters are added, with their defaults."""

import re
from pathlib import Path

from experiments.publishing.executing.chapter_sources import MINUTES, Settings

CONTRIBUTING = Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text()


def test_every_key_has_its_row_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| `?(.*?)`? \|$", CONTRIBUTING, re.MULTILINE))
    shown = {"alone": "false", "needs": "[ablation]", "live": "false", "minutes": f"{MINUTES:g}"}
    assert rows == shown and set(shown) == set(Settings._fields)
    assert Settings() == (False, ("ablation",), False, MINUTES)
