import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments.chapters.embedding import tables
from experiments.studies.ablation import ABLATION
from experiments.studies.profiles import profile
from experiments.studies.recorded import Recorded
from lpc.specs import EMBEDDINGS


@pytest.fixture
def study():
    """Return two seeds of three embeddings; the seeds' order differs from the pairs'."""
    rows = [
        ("Lin64", 0, 0.90, 2.0, 4.0),
        ("Lin64", 1, 0.92, 4.0, 4.0),
        ("Lin64LPC", 1, 0.91, 12.0, 1.0),
        ("Lin64LPC", 0, 0.93, 4.0, 2.0),
        ("SupCon", 0, 0.80, 3.0, 3.0),
    ]
    names = ["architecture", "seed", "test_accuracy", "margins_test_median", "trace_ratio"]
    selected = pd.DataFrame(rows, columns=names)
    return Recorded(ABLATION, profile("laptop-embedding"), selected, selected, pd.DataFrame(), {})


def test_the_grid_and_the_losses_are_all_embeddings_once():
    assert len(tables.GRID) == 14 and len(tables.METRIC_LEARNING) == 7
    assert set(tables.GRID) | set(tables.METRIC_LEARNING) == set(EMBEDDINGS)
    assert {EMBEDDINGS[name].penalty for name in tables.WITHOUT} == {"squared_norm"}
    for name, base in tables.WITHOUT.items():
        ours, other = EMBEDDINGS[name], EMBEDDINGS[base]
        assert other.penalty == "none"
        assert (ours.width, ours.penultimate, ours.objective) == (
            other.width,
            other.penultimate,
            other.objective,
        )


def test_looks_tell_all_embeddings_apart():
    assert len(set(tables.LOOKS.values())) == len(EMBEDDINGS)
    assert {tables.LOOKS[f"Lin{nodes}"].marker for nodes in (32, 64, 128)} == {"^", "o", "s"}
    assert all((tables.LOOKS[name].line == "-") == (name in tables.WITHOUT) for name in EMBEDDINGS)


def test_a_table_has_means_and_says_what_is_not_there(study):
    found = tables.table(study, ["Lin64", "SupCon", "ArcFace"], {**tables.QUALITY, **tables.DIRECTIONS})
    assert found.loc["Lin64", "accuracy (%)"] == "90.0, 92.0"
    assert found.loc["SupCon", "margin, test"] == "3.00"
    assert set(found.loc["ArcFace"]) == {"not run"}
    assert set(found["DeepFool / image"]) == {"–", "not run"}


def test_gains_are_seed_by_seed(study):
    found = tables.gains(study, ["Lin64LPC", "SupConLPC"])
    row = found.loc["Lin64LPC / Lin64"]
    assert row["margin, test"] == "2.00, 3.00"  # 4 / 2 and 12 / 4
    assert row["1 / trace ratio"] == "2.00, 4.00"  # 4 / 2 and 4 / 1
    assert row["accuracy (points)"] == "3.00, -1.00"  # 3 and -1
    assert row["DeepFool"] == "–"
    assert set(found.loc["SupConLPC / SupConCE"]) == {"–"}


def test_the_release_s_excess_is_the_difference_of_its_two_columns(study):
    assert set(tables.entropy_table(study, ["Lin64"]).iloc[:, -1]) == {"–"}
    more = study.selected.assign(margins_entropy_released_node=-1.0, margins_entropy_part_node=-1.25)
    other = Recorded(ABLATION, study.profile, more, more, pd.DataFrame(), {})
    found = tables.entropy_table(other, ["Lin64", "ArcFace"])
    assert found.iloc[:, -1].tolist() == ["0.250", "–"]


def test_schedules_are_drawn_in_two_regimes_and_a_cosine():
    fig, axes = plt.subplots(1, 2)
    tables.draw_schedules(axes, {"2025": profile("paper-cifar10-embedding").train})
    weight, rate = (ax.lines[0].get_ydata() for ax in axes)
    assert weight[:11].tolist() == pytest.approx([1e-4] * 5 + [2e-4] * 5 + [4e-4])
    assert weight[-1] == pytest.approx(1e6)
    late = np.flatnonzero(weight >= 1e3)[0]
    assert weight[late + 5] / weight[late] == pytest.approx(1.25)
    assert set(rate[:200]) == {1.0} and rate[600] == pytest.approx(0.5) and rate[-1] < 1e-4
    plt.close(fig)


def test_points_are_means_and_filled_with_the_penalty(study):
    fig, ax = plt.subplots()
    tables.scatter(ax, study, "margins_test_median", "trace_ratio", ["Lin64", "Lin64LPC", "ArcFace"])
    first, second = (line for line in ax.lines if line.get_marker() == "o")
    assert [np.asarray(line.get_xydata()).tolist() for line in (first, second)] == [
        [[3.0, 4.0]],
        [[8.0, 1.5]],
    ]
    assert first.get_markerfacecolor() == "none" and second.get_markerfacecolor() == "#0072B2"
    tables.scatter(ax, study, "margins_test_median", "test_deepfool_relative_norm", ["Lin64"])
    assert len(ax.containers) == 2
    plt.close(fig)
