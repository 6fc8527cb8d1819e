"""The page on other ways to pull classes together: what its tables and its figure take from recorded runs."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from experiments.chapters import others
from experiments.reporting.tables import MISSING
from experiments.studies.other_profiles import FROZEN_STRENGTHS
from experiments.studies.other_tables import WAYS, WITHOUT_STRENGTH
from experiments.studies.recorded import recorded


def test_every_way_has_a_name_and_a_look():
    assert set(others.NAMES) == {*WAYS, *WITHOUT_STRENGTH} == set(others.LOOKS)


def test_points_leave_out_what_has_lost_classes_and_stand_by_strength():
    for source in others.SOURCES.values():
        search = recorded(source.search)
        assert search is not None
        shown = others.points(search)
        lost = search.selected["accuracy"] < others.CLASSIFIES
        assert lost.sum() > 0 and len(shown) == (~lost).sum()
        assert shown.groupby("way")["strength"].apply(lambda one: one.is_monotonic_increasing).all()
        raw = search.selected.set_index("architecture")["trace_ratio"]
        for row in shown.itertuples():
            assert row.collapse == raw[f"{row.way}-{row.strength:g}"]
        assert set(shown["way"]) <= set(others.NAMES)
        fig, ax = plt.subplots()
        others.draw(ax, shown)
        assert len(ax.get_legend_handles_labels()[1]) == shown["way"].nunique() and ax.xaxis_inverted()
        plt.close(fig)


def test_what_the_page_says_of_the_searches_is_what_is_recorded():
    for source in others.SOURCES.values():
        search = recorded(source.search)
        assert search is not None
        shown = others.points(search)
        own = shown["way"] == "CentreLoss"
        tightest = shown.iloc[int(shown["collapse"].argmin())]
        assert tightest["way"] == "CentreLoss" and shown.loc[own, "factor"].max() < shown["factor"].max()
        lost = search.selected.loc[search.selected["accuracy"] < others.CLASSIFIES, "architecture"]
        assert set(lost) == {"Norm-10", "Norm-100"}
        half = shown[shown["collapse"] <= shown["collapse"].median()]
        assert others.rank_correlation(half) < others.rank_correlation(shown)
        chosen = [f"{way}-{value:g}" for way, value in FROZEN_STRENGTHS[source.strengths].items()]
        errors = search.selected.set_index("architecture").loc[chosen, "test_ece"].astype(float)
        powers = {f"{way}-{FROZEN_STRENGTHS[source.strengths][way]:g}" for way in ("IB", "CubedNorm")}
        assert set(errors.nlargest(2).index) == powers


def test_agreement_ranks_by_tightness():
    up = pd.DataFrame(
        {
            "way": ["IB", "Norm", "VIB"],
            "strength": [1.0] * 3,
            "collapse": [0.1, 0.01, 1.0],
            "factor": [2.0, 3.0, 1.0],
        }
    )
    assert "the tightest (norm at 1) is number 1 by" in others.agreement(up)
    assert others.rank_correlation(up) == pytest.approx(1)
    down = up.assign(factor=[2.0, 1.0, 3.0])
    assert "the tightest (norm at 1) is number 3 by" in others.agreement(down)
    assert others.rank_correlation(down) == pytest.approx(-1)


def test_where_nothing_is_judged_the_search_stands_in_at_the_chosen_strengths(monkeypatch):
    source = others.SOURCES["digits"]
    monkeypatch.setattr(others, "recorded", lambda name: None if name == source.judged else recorded(name))
    found = others.networks(source)
    assert found is not None and "one seed" in found.told
    assert sorted(found.rows["architecture"]) == sorted(FROZEN_STRENGTHS["digits"])
    search = recorded(source.search)
    assert search is not None
    raw = search.selected.set_index("architecture")
    table = others.table(found, others.GEOMETRY)
    best = raw.loc[f"CentreLoss-{FROZEN_STRENGTHS['digits']['CentreLoss']:g}"]
    row = table.loc["centre loss"]
    assert float(row["accuracy (%)"]) == pytest.approx(100 * best["test_accuracy"], rel=1e-2)
    assert float(row["trace ratio, train"]) == pytest.approx(best["trace_ratio"], rel=1e-2)
    assert (table.loc["no layer (NoPen)"] == MISSING).all() and "smallest of all attacks" not in table
    assert others.missing([source]) == ["python -m experiments train --profile others"]
    monkeypatch.setattr(others, "recorded", lambda name: None)
    assert others.networks(source) is None
