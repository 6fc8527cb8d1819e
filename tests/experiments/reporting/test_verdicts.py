import math

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

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
    two = [0.1, 0.2]  # one degree of freedom, to which few images would add a hundred
    alone, both = interval(two), interval(two, images=(0.05**2, 200))
    assert (both.low, both.high) == (alone.low, alone.high) and both.p(0.7) == alone.p(0.7)
    assert interval(two, images=(4.0, 200)).high > alone.high


def test_as_many_seeds_as_are_said_would_decide():
    values = [0.4, 1.0, 1.9]
    needed = seeds_to_decide(values, [0.0])
    sd, mean = np.std(values, ddof=1), np.mean(values)
    assert needed is not None and needed > 3
    reach = [t.ppf(0.975, n - 1) * sd / math.sqrt(n) for n in (needed - 1, needed)]
    assert reach[1] < mean <= reach[0]
    assert seeds_to_decide(values, [0.0], images=(0.45**2, 200)) > needed  # type: ignore[operator]
    assert seeds_to_decide(values, [0.0], images=(1.0, 200)) is None, "no number of seeds mends 200 images"
    assert judge(values, holds=(0.0, math.inf), images=(1.0, 200)).needed() == "more test images"
    assert judge(values, holds=(0.0, math.inf)).needed() == f"{needed} seeds"
    assert seeds_to_decide(values, [float(mean)]) is None and seeds_to_decide([1.0], [0.0]) is None
    assert seeds_to_decide(values, [0.0], images=(0.45**2, 200)) == one_by_one(values, (0.45**2, 200))
    assert needed == one_by_one(values, None)


def one_by_one(values, images):
    """Return the first number of seeds whose interval excludes zero, by trying one after another."""
    spread, mean = float(np.std(values, ddof=1)), abs(float(np.mean(values)))
    shared, total = images or (0.0, 2)
    for count in range(2, 1001):
        own = spread**2 / count
        freedom = (own + shared) ** 2 / (own**2 / (count - 1) + shared**2 / (total - 1))
        widths = t.isf(0.025, [freedom, count - 1]) * np.sqrt([own + shared, own])
        if widths.max() < mean:
            return count
    return None


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
