import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t, ttest_1samp

from experiments.reporting.image_variance import of_log_ratio
from experiments.reporting.intervals import interval, seeds_to_decide
from experiments.reporting.verdicts import judge, wider


def test_intervals_are_students_and_of_ratios_the_logarithms():
    values = [1.0, 1.4, 2.2]
    half = t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    logs = np.log(values)
    half = t.ppf(0.975, 2) * np.std(logs, ddof=1) / math.sqrt(3)
    ratio = interval(values, ratio=True)
    assert ratio.centre == pytest.approx(math.exp(logs.mean()))
    assert math.log(ratio.high / ratio.centre) == pytest.approx(half) == math.log(ratio.centre / ratio.low)
    assert found.p(1.0) == pytest.approx(ttest_1samp(values, 1.0).pvalue)
    assert ratio.p(1.0) == pytest.approx(ttest_1samp(logs, 0.0).pvalue)


def test_an_interval_of_three_seeds_covers_as_often_as_it_says():
    """The percentile bootstrap of three values covers at most three cases in four: the negative control."""
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(2000, 3))
    covered = np.mean([(one := interval(row)).low <= 0 <= one.high for row in samples])
    assert covered == pytest.approx(0.95, abs=0.02)
    drawn = samples[:, generator.integers(3, size=(500, 3))].mean(axis=2)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.8


def test_one_seed_and_equal_seeds_and_no_logarithm():
    one, equal = interval([3.0]), interval([2.0, 2.0, 2.0])
    assert math.isinf(one.high) and one.p(0.0) == 1 and str(one) == "3.00 (one seed)"
    assert (equal.low, equal.high) == (2.0, 2.0) and equal.p(2.0) == 1 and equal.p(2.1) == 0
    assert not interval([1.0, -1.0], ratio=True).log
    with pytest.raises(ValueError, match="finite"):
        interval([1.0, math.inf])


def test_images_widen_an_interval_by_their_variance():
    values = [0.1, 0.2, 0.3]
    alone, both = interval(values), interval(values, images=(0.02, 200))
    assert both.error**2 == pytest.approx(alone.error**2 + 0.02)
    assert 2 < both.freedom < 201 and both.high > alone.high


def test_as_many_seeds_as_are_said_would_decide():
    values = [0.4, 1.0, 1.9]
    needed = seeds_to_decide(values, [0.0])
    sd, mean = np.std(values, ddof=1), np.mean(values)
    assert needed is not None and needed > 3
    reach = [t.ppf(0.975, n - 1) * sd / math.sqrt(n) for n in (needed - 1, needed)]
    assert reach[1] < mean <= reach[0]
    assert seeds_to_decide(values, [float(mean)]) is None and seeds_to_decide([1.0], [0.0]) is None


@pytest.mark.parametrize(
    ("values", "options", "place", "decided"),
    [
        ([1.0, 1.1, 1.2], {"holds": (0.5, math.inf)}, 0, True),
        ([0.4, 0.6, 0.8], {"holds": (0.5, math.inf)}, 0, False),
        ([0.1, 0.11, 0.12], {"holds": (0.5, math.inf), "partly": (0.0, 0.5)}, 1, True),
        ([0.0, 0.1, 0.2], {"holds": (0.5, math.inf), "partly": (0.05, 0.5)}, 2, True),
        ([0.9, 0.91, 0.92], {"holds": (0.8, 1.0), "limits": (0.0, 1.0)}, 0, True),
        ([0.98, 1.0, 0.99], {"holds": (0.8, 1.0), "limits": (0.0, 1.0)}, 0, True),
        ([0.98, 1.0, 0.99], {"holds": (0.8, 1.0)}, 0, False),
        ([0.0, 0.0, 0.0], {"holds": (0.0, 0.0)}, 0, True),
        ([3.0], {"holds": (0.0, 1.0)}, 2, False),
        ([math.inf, 2.0], {"holds": (0.0, 5.0)}, 2, False),
        ([math.inf, math.inf], {"holds": (0.0, 5.0)}, 2, True),
    ],
)
def test_a_verdict_is_of_the_whole_interval(values, options, place, decided):
    found = judge(values, **options)
    assert (found.place, found.p < 0.05) == (place, decided)


def test_the_wider_tolerance_ends_at_no_effect_unless_the_claim_is_one_of_likeness():
    assert wider((-math.inf, -0.001), (-0.001, 0.001), 0.0) == (-0.001, 0.0)
    assert wider((1.05, math.inf), (0.95, 1.05), 1.0) == (1.0, 1.05)
    assert wider((0.0, math.inf), (-0.01, 0.0), 0.0) is None
    assert wider((0.9, 1.1), (0.7, 1.4), 1.0) == (0.7, 1.4)
    assert wider((-0.01, math.inf), (-0.03, -0.01), 0.0) == (-0.03, -0.01)
    assert wider((10.0, math.inf), (5.0, 10.0), None) == (5.0, 10.0)


def test_the_variance_of_images_is_that_of_a_paired_log_ratio():
    """Log-normal distances: the median's log has the variance pi / 2 sigma^2 / N; what is shared cancels."""
    generator = np.random.default_rng(0)
    images, sigma = 400, 0.5
    shared = generator.normal(size=images)
    rows = [
        {"architecture": name, "seed": 0, "image": i, "box_smallest": math.exp(shared[i] + shift + noise)}
        for name, shift in (("IB", 0.3), ("NoPen", 0.0))
        for i, noise in enumerate(
            generator.normal(scale=sigma, size=images) if name == "IB" else [0.0] * images
        )
    ]
    table = pd.DataFrame(rows)
    options: Any = {"own": "IB", "base": "NoPen", "metric": "attacks_box_smallest_median"}
    found = of_log_ratio(table, **options)
    assert found is not None and found[1] == images
    unpaired = math.pi / 2 * (1 + 1 + sigma**2) / images
    assert 0 < found[0] < 0.6 * unpaired
    same = table.assign(box_smallest=[math.exp(shared[i]) for i in table["image"]])
    assert of_log_ratio(same, **options) == (0.0, images)
    assert of_log_ratio(table, **{**options, "metric": "trace_ratio"}) is None
    assert of_log_ratio(table, **{**options, "base": "LinPen"}) is None
