import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from experiments.chapters.surrogates import information_plane, tables
from experiments.chapters.surrogates.estimator_bias import Bias, Error

GAMMAS = (0.01, 1.0)
EPOCHS = (2, 4, 6, 8, 10)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def x_of(line: Line2D):
    return np.asarray(line.get_xdata(), dtype=float)


def y_of(line: Line2D):
    return np.asarray(line.get_ydata(), dtype=float)


def histories():
    """Return three trials of every run, whose values are the trial's number plus an offset per run."""
    rows = [
        {
            "architecture": f"{name}-{gamma:g}",
            "key": f"{name}-{gamma:g}-{seed}",
            "seed": seed,
            "epoch": epoch,
            "learning_rate": 1e-3 if epoch < 6 else 8e-4,
            "preserved_information": seed + (1 if gamma == 1 else 3) + min(epoch, 6) - 2 * max(0, epoch - 6),
            "residual_information": 10.0 * seed**2 + 2 - 0.1 * epoch,
            "knn_entropy": 5.0,
            "encoding_entropy": 3.0 + seed,
            "entropy_bound": 40.0,
        }
        for name in ("norm", "variance", "conditional")
        for gamma in GAMMAS
        for seed in (0, 1, 2)
        for epoch in EPOCHS
    ]
    return pd.DataFrame(rows)


def runs():
    every = histories()
    other = every.iloc[:1].assign(architecture="IB-noise")
    return pd.concat([every[every["epoch"] == 10], other], ignore_index=True)


@pytest.fixture
def table():
    return tables.of_surrogates(runs(), GAMMAS)


@pytest.fixture
def history():
    return tables.of_surrogates(histories(), GAMMAS)


def test_runs_are_told_by_their_names_and_others_are_left_out(table):
    assert len(table) == 18
    assert set(table["regularizer"]) == {"norm", "variance", "conditional"}
    own = table[table["architecture"] == "variance-0.01"]
    assert set(own["regularizer"]) == {"variance"}
    assert set(own["weight"]) == {0.01}
    with pytest.raises(ValueError, match=r"no run of a surrogate with a gamma in \[7\.0\] among 19 rows"):
        tables.of_surrogates(runs(), [7.0])


def test_medians_are_over_trials(table):
    middle = tables.medians(table, "norm")
    assert middle["residual_information"].tolist() == [11.0, 11.0]  # seeds 0, 1, 2: not the mean
    both = tables.side_by_side(table, ["knn_entropy"])
    assert list(both.columns) == [(name, "knn_entropy") for name in information_plane.LOOKS]
    assert list(both.index) == list(GAMMAS)


def test_course_has_the_rise_the_fall_and_the_epoch_between(history):
    way = tables.course(history[history["regularizer"] == "norm"])
    row = way.T[0.01]
    assert row[["first", "largest", "in_epoch", "last"]].tolist() == [6, 10, 6, 2]
    assert row["late_fall"] == 4  # from epoch 8 to epoch 10
    assert row[["drops", "with", "without"]].tolist() == pytest.approx([1, 0.2, 0.6])
    assert row["at_first"] == pytest.approx(10 + 2 - 0.4)
    with pytest.raises(ValueError, match="3 regularizers; expected one"):
        tables.course(history)


def test_without_drops_nothing_is_at_the_first(history):
    own = history[history["key"] == "norm-1-0"].sample(frac=1, random_state=0)
    found = tables.rate_drops(own)
    assert found["drops"] == 1
    level = tables.rate_drops(own.assign(learning_rate=1e-3))
    assert level["drops"] == 0
    assert math.isnan(level["at_first"])
    assert level["with"] == 0
    assert level["without"] == pytest.approx(found["with"] + found["without"])


def test_least_residual_is_the_label_that_does_not_fit():
    found = information_plane.least_residual(np.array([0.0, 1.0, 2.0, 7.0]), 1.5)
    np.testing.assert_allclose(found, [1.5, 0.5, 0, 0])


def test_median_and_quartiles_are_drawn_over_gamma(table):
    _, ax = plt.subplots()
    information_plane.over_gamma(ax, table, "encoding_entropy", regularizer="conditional", label="exact")
    (line,) = ax.lines
    np.testing.assert_allclose(x_of(line), GAMMAS)
    np.testing.assert_allclose(y_of(line), [4, 4])
    band = np.asarray(ax.collections[0].get_paths()[0].vertices, dtype=float)
    assert (band[:, 1].min(), band[:, 1].max()) == (3.5, 4.5)
    assert line.get_color() == "#CC79A7"
    assert ax.get_xscale() == "log"


def test_entropies_have_a_ceiling_and_three_lines(table):
    _, ax = plt.subplots()
    columns = ("encoding_entropy", "knn_entropy", "entropy_bound")
    information_plane.draw_entropies(ax, table, regularizer="norm", columns=columns, ceiling=7.3)
    drawn = {line.get_label(): y_of(line)[0] for line in ax.lines}
    named = {name: value for name, value in drawn.items() if not str(name).startswith("_")}
    assert named == {"Gaussian bound": 40, "nearest neighbours": 5, "exact": 4}
    assert 7.3 in drawn.values()


def test_errors_are_drawn_with_two_standard_errors_and_the_runs_own(table):
    _, ax = plt.subplots()
    one = Bias(Error(9.0, 2.0, 0.1), Error(9.0, 3.0, 0.1), Error(9.0, 0.5, 0.1))
    information_plane.draw_errors(ax, table, dict.fromkeys(GAMMAS, one), regularizer="norm", seed=1)
    drawn = {line.get_label(): y_of(line)[0] for line in ax.lines}
    assert drawn["H[Z], the runs"] == 1  # 5 - (3 + 1)
    ends = [
        np.asarray(bar.get_segments()[0])[:, 1] for bar in ax.collections if isinstance(bar, LineCollection)
    ]
    np.testing.assert_allclose(sorted(end.mean() for end in ends), [0.5, 2, 3])
    np.testing.assert_allclose([np.ptp(end) for end in ends], 0.4)


def test_limits_meet_at_the_labels_entropy():
    _, ax = plt.subplots()
    information_plane.draw_limits(ax, label_entropy=2.0, points=100)
    least, ceiling = ax.lines
    np.testing.assert_allclose(x_of(least), [0, 2, math.log(100)])
    np.testing.assert_allclose(y_of(least), [2, 0, 0])
    np.testing.assert_allclose(x_of(ceiling), math.log(100))


def test_saturation_joins_medians_and_writes_gammas_at_one_place_together(table):
    _, ax = plt.subplots()
    colours = information_plane.gamma_colours(GAMMAS)
    information_plane.draw_saturation(ax, table, regularizer="norm", colours=colours, annotate=True)
    np.testing.assert_allclose(x_of(ax.lines[0]), [2, 0])
    assert [text.get_text() for text in ax.texts] == ["0.01", "1"]
    assert ax.lines[1].get_color() != ax.lines[2].get_color()
    same = table.assign(preserved_information=1.0)
    information_plane.draw_saturation(ax, same, regularizer="variance", colours=colours, annotate=True)
    assert ax.texts[-1].get_text() == "0.01, 1"


def test_trajectories_are_lines_by_gamma_over_epochs_of_one_regularizer(history):
    _, ax = plt.subplots()
    colours, own = information_plane.gamma_colours(GAMMAS), history[history["regularizer"] == "norm"]
    information_plane.draw_trajectories(ax, own, x="epoch", y="preserved_information", colours=colours)
    low, high = ax.lines
    np.testing.assert_allclose(x_of(low), EPOCHS)
    np.testing.assert_allclose(y_of(low), [6, 8, 10, 6, 2])
    assert (low.get_label(), high.get_label()) == ("γ = 0.01", "γ = 1")
    with pytest.raises(ValueError, match="3 regularizers; expected one"):
        information_plane.draw_trajectories(
            ax, history, x="epoch", y="preserved_information", colours=colours
        )


def test_colours_need_two_weights():
    with pytest.raises(ValueError, match=r"gammas from 1\.0 to 1\.0"):
        information_plane.gamma_colours([1.0])
