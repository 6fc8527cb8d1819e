import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_ind

from experiments.reporting import significance


def test_holm_steps_down():
    adjusted = significance.holm([0.04, 0.01, np.nan, 0.03, 0.9])
    assert adjusted == pytest.approx([0.09, 0.04, np.nan, 0.09, 0.9], nan_ok=True)
    assert significance.holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_against_is_welch_for_every_other_architecture():
    values = {"IB": [0.9, 0.95, 0.97], "NoPen": [0.8, 0.85, 0.81], "LinPen": [0.7, np.nan, np.nan]}
    rows = [{"architecture": a, "seed": s, "m": v} for a in values for s, v in enumerate(values[a])]
    table = significance.against(pd.DataFrame(rows), "m").set_index("architecture")
    assert list(table.index) == ["IB", "LinPen"]
    p = ttest_ind(values["IB"], values["NoPen"], equal_var=False).pvalue
    assert table.loc["IB", "p"] == table.loc["IB", "p_holm"] == pytest.approx(p)
    assert table.loc["IB", "difference"] == pytest.approx(0.12)
    assert math.isnan(table["p"]["LinPen"]) and table.loc["LinPen", "difference"] == pytest.approx(-0.12)


def test_no_spread_gives_no_p():
    same = pd.DataFrame({"architecture": ["IB"] * 2 + ["NoPen"] * 2, "m": [1.0, 1.0, 0.5, 0.5]})
    assert significance.against(same, "m")["p"].isna().all()


def test_a_detectable_difference_is_detected_that_often():
    size = significance.detectable_difference(2.0, 3)
    draw = np.random.default_rng(0).normal(0.0, 2.0, size=(2, 3, 20_000))
    p = ttest_ind(draw[0] + size, draw[1], equal_var=True).pvalue
    assert (np.asarray(p) < 0.05).mean() == pytest.approx(0.8, abs=0.01)
    # With many values it is the normal approximation's
    large = significance.detectable_difference(1.0, 2000) / (2 / 2000) ** 0.5
    assert large == pytest.approx(norm.isf(0.025) + norm.isf(0.2), rel=1e-3)
    with pytest.raises(ValueError, match="n is 1"):
        significance.detectable_difference(1.0, 1)


def test_hanley_and_mcneil_on_the_scores_it_assumes():
    auroc, right, wrong = 0.9, 60, 8
    generator = np.random.default_rng(1)
    high = generator.exponential(auroc / (1 - auroc), size=(4000, right, 1))
    low = generator.exponential(1.0, size=(4000, 1, wrong))
    simulated = (high > low).mean(axis=(1, 2))
    assert simulated.mean() == pytest.approx(auroc, abs=0.003)
    assert significance.hanley_mcneil(auroc, right, wrong) == pytest.approx(simulated.std(), rel=0.04)
    with pytest.raises(ValueError, match="0 wrong"):
        significance.hanley_mcneil(0.9, 5, 0)


def test_the_bootstrap_of_a_share_has_the_binomials_width():
    right = np.arange(400) < 300
    low, high = significance.bootstrap_images(lambda index: float(right[index].mean()), 400, resamples=3000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == (pytest.approx(0.75 - half, abs=0.005), pytest.approx(0.75 + half, abs=0.005))


def test_resamples_that_cannot_be_computed_are_left_out():
    def fails_without_image_0(index):
        if 0 not in index:
            raise ValueError("no image 0")
        return 1.0

    assert significance.bootstrap_images(fails_without_image_0, 5, resamples=50) == (1.0, 1.0)

    def fails(index):
        raise ValueError("never")

    with pytest.raises(ValueError, match="any of 3 resamples"):
        significance.bootstrap_images(fails, 5, resamples=3)
