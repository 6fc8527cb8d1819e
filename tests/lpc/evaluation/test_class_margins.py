import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from lpc.evaluation.class_margins import distance_margin, summary
from lpc.evaluation.collapse import nearest_mean_accuracy


@pytest.fixture
def sets(rng):
    """Return unbalanced train points, their labels, and test points with theirs: classes 2, 5 and 9."""
    mean = rng.standard_normal((3, 7))
    train, test = np.repeat([0, 1, 2], [10, 25, 65]), np.repeat([0, 1, 2], 15)
    names = np.array([2, 5, 9])
    points = [
        mean[which] + rng.standard_normal((len(which), 7)) * (1 + which[:, None]) for which in (train, test)
    ]
    return points[0], names[train], points[1], names[test]


def by_hand(train, train_label, latent, label):
    """The same ratio from scipy's distances, point by point."""
    names = np.unique(train_label)
    distance = cdist(latent, np.stack([train[train_label == name].mean(axis=0) for name in names]))
    return [
        min(d for d, name in zip(row, names, strict=True) if name != own) / row[names.tolist().index(own)]
        for row, own in zip(distance, label, strict=True)
    ]


def test_margins_against_scipy(sets):
    np.testing.assert_allclose(distance_margin(*sets), by_hand(*sets), rtol=1e-12)
    own = (*sets[:2], *sets[:2])
    np.testing.assert_allclose(distance_margin(*own), by_hand(*own), rtol=1e-12)


def test_margins_of_an_exact_construction():
    # means (0, 0), (10, 0), (0, 6); the points lie 3-4-5 triangles away from them
    train = np.array([[-1.0, 0], [1, 0], [9, 0], [11, 0], [-1, 6], [1, 6]])
    train_label = np.array([0, 0, 1, 1, 2, 2])
    point = np.array([[3.0, 2.0], [4.0, 0.0], [6.0, 3.0], [0.0, 1.5], [10.0, 0.0]])
    margin = distance_margin(train, train_label, point, np.array([2, 0, 1, 0, 1]))
    expected = [math.sqrt(13) / 5, 6 / 4, math.sqrt(45) / 5, 4.5 / 1.5, math.inf]
    np.testing.assert_allclose(margin, expected, rtol=1e-15)
    found = summary(margin)
    assert found.points == 5 and found.on_mean == 1 and found.mean == math.inf
    assert found.median == 1.5 and found.share_below_one == 0.2
    finite = summary(margin[:4])
    assert finite.on_mean == 0
    assert finite.mean == pytest.approx(sum(expected[:4]) / 4, rel=1e-15)
    assert finite.median == pytest.approx((expected[1] + expected[2]) / 2, rel=1e-15)


@pytest.mark.parametrize(("scale", "offset"), [(1e-7, 1.0), (2.0**-900, 0.0), (1e150, -3e150), (-3.0, 5.0)])
def test_neither_scale_nor_offset_matters(sets, scale, offset):
    train, train_label, test, label = sets
    moved = distance_margin(scale * train + offset, train_label, scale * test + offset, label)
    np.testing.assert_allclose(moved, distance_margin(*sets), rtol=1e-6 if offset == 1.0 else 1e-11)


def test_moving_the_points_away_from_their_mean_divides_the_margin(rng):
    # far means: the other distance hardly changes, so twice the spread is half the margin
    label = np.repeat([0, 1], 50)
    spread = rng.standard_normal((100, 4))
    spread -= np.stack([spread[label == k].mean(axis=0) for k in (0, 1)])[label]
    mean = np.array([[0, 0, 0, 0], [1e9, 0, 0, 0.0]])[label]
    one, two = (distance_margin(mean + c * spread, label, mean + c * spread, label) for c in (1, 2))
    np.testing.assert_allclose(one / two, 2.0, rtol=1e-6)
    shrunk = distance_margin(mean / 3 + spread, label, mean / 3 + spread, label)
    np.testing.assert_allclose(one / shrunk, 3.0, rtol=1e-6)


def test_collapsed_classes_lose_nothing():
    # spread 2**-40 of the distance between means, on an offset: exact in rational numbers
    tiny, base = 2.0**-40, 1.0
    step = np.array([-3, -1, 0, 4]) * tiny
    train = np.concatenate([base + step, base + 1.0 + step])[:, None]
    label = np.repeat([3, 4], 4)
    exact = []
    values = [Fraction(float(v)) for v in train[:, 0]]
    means = {3: sum(values[:4], Fraction(0)) / 4, 4: sum(values[4:], Fraction(0)) / 4}
    for value, own in zip(values, label.tolist(), strict=True):
        near = abs(value - means[own])
        exact.append(float(abs(value - means[7 - own]) / near) if near else math.inf)
    margin = distance_margin(train, label, train, label)
    assert exact[2] == exact[6] == math.inf
    np.testing.assert_allclose(margin, exact, rtol=1e-12)


def test_points_on_their_mean_are_infinite_and_counted(rng):
    center = rng.standard_normal((3, 5))
    label = np.repeat([0, 1, 2], 7)
    collapsed = center[label] * (1 / 3)
    margin = distance_margin(collapsed, label, collapsed, label)
    assert np.isinf(margin).all()
    assert summary(margin) == (21, math.inf, math.inf, 0.0, 21)
    moved = distance_margin(collapsed, label, collapsed + 1e-9, label)
    assert np.isfinite(moved).all()


def test_the_share_below_one_is_what_the_nearest_mean_gets_wrong(sets):
    share = summary(distance_margin(*sets)).share_below_one
    assert share == pytest.approx(1 - nearest_mean_accuracy(*sets))
    assert 0.1 < share < 0.9  # the test would pass for nothing otherwise


def test_kinds_dtypes_and_blocks(sets, monkeypatch):
    train, train_label, test, label = sets
    whole = distance_margin(*sets)
    single = distance_margin(torch.from_numpy(train).float(), torch.from_numpy(train_label), test, label)
    assert isinstance(whole, np.ndarray) and isinstance(single, np.ndarray)
    tensors = distance_margin(*map(torch.from_numpy, sets))
    assert isinstance(tensors, torch.Tensor) and tensors.dtype == torch.float64
    assert summary(tensors) == summary(whole)
    np.testing.assert_allclose(single, whole, rtol=1e-5)
    monkeypatch.setattr("lpc.arrays.BLOCK", 4)
    np.testing.assert_allclose(distance_margin(*sets), whole, rtol=1e-12)


def test_bad_input_is_named(sets, unchecked):
    margin, summarise = unchecked(distance_margin), unchecked(summary)
    train, train_label, test, label = sets
    with pytest.raises(ValueError, match="train_latent has width 7 and latent has width 6"):
        margin(train, train_label, test[:, :6], label)
    with pytest.raises(ValueError, match=r"train_label holds one class, \[1\]"):
        margin(train, np.ones(100, dtype=int), test, label)
    with pytest.raises(ValueError, match=r"label holds \[4\], which no training point has"):
        margin(train, train_label, test, np.where(label == 5, 4, label))
    with pytest.raises(ValueError, match="latent holds 1 NaN"):
        margin(train, train_label, np.where(np.arange(45)[:, None] + np.arange(7) == 0, np.nan, test), label)
    twice = np.array([[-1.0], [1], [-2], [2], [7]])
    with pytest.raises(ValueError, match="point 1 lies on the means of classes 0 and 1"):
        margin(twice, np.array([0, 0, 1, 1, 2]), np.array([[3.0], [0.0]]), np.array([0, 0]))
    with pytest.raises(ValueError, match=r"margin is nan at index 1"):
        summarise(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=r"margin is -1.0 at index 0"):
        summarise(np.array([-1.0]))
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        summarise(np.array([]))
