"""The page on cost: tables of times with columns joined for readers."""

import pandas as pd

from experiments.chapters.cost import joined
from experiments.reporting.tables import MISSING


def test_quartiles_and_verdicts_join_what_they_are_about():
    row = ["8.0", "2.0", "4.0", "3.9 to 4.2", "7", "≥ 3", "yes"]
    cold = ["8.0", "2.0", "4.0", MISSING, "1 (cold)", MISSING, MISSING]
    names = ["theirs (ms)", "ours (ms)", "ratio", "quartiles", "pairs", "target", "reached"]
    shown = joined(pd.DataFrame([row, cold], columns=names))
    kept = ["theirs (ms)", "ours (ms)", "ratio (quartiles)", "pairs", "target: reached"]
    assert list(shown.columns) == kept
    assert shown.iloc[0].tolist() == ["8.0", "2.0", "4.0 (3.9 to 4.2)", "7", "≥ 3: yes"]
    assert shown.iloc[1].tolist() == ["8.0", "2.0", "4.0", "1 (cold)", MISSING]
