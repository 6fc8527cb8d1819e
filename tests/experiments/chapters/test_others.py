"""The page on other ways to pull classes together: its tables and figure of recorded runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments.chapters.others import apart, robust, tables, ways
from experiments.reporting.tables import MISSING
from experiments.studies.other_profiles import FROZEN_STRENGTHS
from experiments.studies.other_tables import WAYS, WITHOUT_STRENGTH
from experiments.studies.recorded import recorded


def test_every_way_has_a_name_and_a_look():
    assert set(ways.NAMES) == {*WAYS, *WITHOUT_STRENGTH} == set(ways.LOOKS)


def test_points_leave_out_what_has_lost_classes_and_stand_by_strength():
    for source in ways.SOURCES.values():
        search = recorded(source.search)
        assert search is not None
        shown = apart.points(search)
        lost = search.selected["accuracy"] < apart.CLASSIFIES
        assert lost.sum() > 0 and len(shown) == (~lost).sum()
        assert shown.groupby("way")["strength"].apply(lambda one: one.is_monotonic_increasing).all()
        raw = search.selected.set_index("architecture")["trace_ratio"]
        for row in shown.itertuples():
            assert row.collapse == raw[f"{row.way}-{row.strength:g}"]
        assert set(shown["way"]) <= set(ways.NAMES)
        fig, ax = plt.subplots()
        apart.draw(ax, shown)
        assert len(ax.get_legend_handles_labels()[1]) == shown["way"].nunique() and ax.xaxis_inverted()
        plt.close(fig)


def test_what_the_page_says_of_the_searches_is_what_is_recorded():
    for source in ways.SOURCES.values():
        search = recorded(source.search)
        assert search is not None
        shown = apart.points(search)
        own = shown["way"] == "CentreLoss"
        tightest = shown.iloc[int(shown["collapse"].argmin())]
        assert tightest["way"] == "CentreLoss" and shown.loc[own, "factor"].max() < shown["factor"].max()
        lost = search.selected.loc[search.selected["accuracy"] < apart.CLASSIFIES, "architecture"]
        assert set(lost) == {"Norm-10", "Norm-100"}
        half = shown[shown["collapse"] <= shown["collapse"].median()]
        assert apart.rank_correlation(half) < apart.rank_correlation(shown)
        chosen = [f"{way}-{value:g}" for way, value in FROZEN_STRENGTHS[source.strengths].items()]
        errors = search.selected.set_index("architecture").loc[chosen, "test_ece"].astype(float)
        powers = {f"{way}-{FROZEN_STRENGTHS[source.strengths][way]:g}" for way in ("IB", "CubedNorm")}
        assert set(errors.nlargest(2).index) == powers


def test_what_the_page_says_of_the_judged_networks_is_what_is_recorded():
    for name, source in ways.SOURCES.items():
        found = recorded(source.judged)
        assert found is not None
        means = found.selected.groupby("architecture").mean(numeric_only=True)
        assert means["trace_ratio"].idxmin() == "CentreLoss"
        factor, tight = means["test_deepfool_relative_norm"], means["trace_ratio"]
        assert factor["CentreLoss"] < factor["IB"]
        for way in ("LabelSmoothing", "LogitSqueezing"):
            assert factor["IB"] / factor[way] < 1.4 and 2.5 < tight[way] / tight["IB"] < 4.5
        if name == "MNIST subset":
            assert factor.idxmax() == "DecayAdam" and factor.nlargest(2).iloc[1] < 0.85 * factor.max()
            assert 0.8 < tight["DecayAdam"] / tight["LinPen"] < 1.25
        assert set(means["outside_ece"].nlargest(2).index) == {"IB", "CubedNorm"}
        assert means.loc[["IB", "CubedNorm"], "outside_ece_scaled"].max() < 0.025


def test_curves_begin_at_the_accuracy_and_fall_as_the_page_says():
    at = {}
    for name, source in ways.SOURCES.items():
        found = recorded(source.judged)
        assert found is not None
        rows = found.probe_table("attacks")
        assert rows is not None
        _, ax = plt.subplots()
        shown = robust.draw(ax, rows, largest=1.2, sizes=13)
        assert {"IB", "LinPen", "CentreLoss"} <= set(shown) and len(ax.lines) == len(shown)
        right = 100 * (rows["label"] == rows["predicted"]).groupby(rows["architecture"]).mean()
        for way, line in zip(shown, ax.lines, strict=True):
            values = np.asarray(line.get_ydata())
            assert values[0] == pytest.approx(right[way], abs=0.6) and (np.diff(values) <= 0).all()
            at[name, way] = values
        assert np.abs(at[name, "IB"] - at[name, "LabelSmoothing"]).max() < 3
        plt.close("all")
    assert at["digits", "IB"][4] > at["digits", "LinPen"][4] + 2
    curves = [at["MNIST subset", way][6] for way in ("LinPen", "IB", "CentreLoss")]
    assert curves[0] > curves[1] + 2 > curves[2] + 4


def test_agreement_ranks_by_tightness():
    up = pd.DataFrame(
        {
            "way": ["IB", "Norm", "VIB"],
            "strength": [1.0] * 3,
            "collapse": [0.1, 0.01, 1.0],
            "factor": [2.0, 3.0, 1.0],
        }
    )
    assert "the tightest (norm at 1) is number 1 by" in apart.agreement(up)
    assert apart.rank_correlation(up) == pytest.approx(1)
    down = up.assign(factor=[2.0, 1.0, 3.0])
    assert "the tightest (norm at 1) is number 3 by" in apart.agreement(down)
    assert apart.rank_correlation(down) == pytest.approx(-1)


def test_where_nothing_is_judged_the_search_stands_in_at_the_chosen_strengths(monkeypatch):
    source = ways.SOURCES["digits"]
    monkeypatch.setattr(tables, "recorded", lambda name: None if name == source.judged else recorded(name))
    found = tables.networks(source)
    assert found is not None and "one seed" in found.told
    assert sorted(found.rows["architecture"]) == sorted(FROZEN_STRENGTHS["digits"])
    search = recorded(source.search)
    assert search is not None
    raw = search.selected.set_index("architecture")
    table = tables.table(found, tables.GEOMETRY)
    best = raw.loc[f"CentreLoss-{FROZEN_STRENGTHS['digits']['CentreLoss']:g}"]
    row = table.loc["centre loss"]
    assert float(row["accuracy (%)"]) == pytest.approx(100 * best["test_accuracy"], rel=1e-2)
    assert float(row["trace ratio, train"]) == pytest.approx(best["trace_ratio"], rel=1e-2)
    assert (table.loc["no layer (NoPen)"] == MISSING).all() and "smallest attack (pixels)" not in table
    assert tables.missing([source]) == ["python -m experiments train --profile others"]
    assert tables.missing() == tables.missing([source]), "all else is recorded"
    monkeypatch.setattr(tables, "recorded", lambda name: None)
    assert tables.networks(source) is None


def test_what_latents_are_worth_for_new_classes_is_what_is_recorded(monkeypatch):
    for source in ways.SOURCES.values():
        found, made = recorded(source.new_classes), tables.new_classes(source.new_classes)
        assert found is not None and made is not None
        means = found.selected.groupby("architecture").mean(numeric_only=True)
        assert len(made) == len(means) + len(tables.CONTROLS)
        for column, heading in tables.NEW_CLASSES.items():
            scale = 100 if column in tables.PERCENT else 1
            for way, row in means.iterrows():
                shown = float(str(made.loc[ways.NAMES[str(way)], heading]).split(" ± ")[0])
                assert shown == pytest.approx(scale * row[column], rel=1e-2)
        untrained = 100 * means["transfer_untrained_accuracy_5"]["LinPen"]
        shown = float(str(made.loc["the bare layer before training", "five (%)"]).split(" ± ")[0])
        assert shown == pytest.approx(untrained, rel=1e-2)
        best = means["transfer_accuracy_5"].max()
        assert best + 0.05 < means["transfer_pixels_accuracy_5"].max(), "pixels do better"
        assert means["transfer_trace_ratio"].min() > 1.5 and means["transfer_occupied"]["IB"] > 0.3
        assert made.loc["pixels, no network", "signs of an old class (%)"] == MISSING
        assert found.selected["transfer_shuffled"].between(0.31, 0.36).all(), "the control is at chance"
    assert [line.partition(" runs,")[0] for line in tables.cost()] == [
        "others: 75",
        "others-new-classes: 25",
        "others-mnist: 75",
        "others-mnist-new-classes: 25",
    ]
    monkeypatch.setattr(tables, "recorded", lambda name: None)
    assert tables.cost() == []
    assert tables.new_classes("others-new-classes") is None
