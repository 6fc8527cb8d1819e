import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

from lpc.evaluation.information import (
    conditional_knn_entropy,
    decoder_uncertainty,
    knn_entropy,
)

LOG_2PIE = np.log(2 * np.pi * np.e)


def collapsed(rng, width, spread, points=600, classes=10):
    centre = rng.standard_normal((classes, width))
    label = rng.integers(0, classes, points)
    return centre[label] + spread * rng.standard_normal((points, width)), label


def scipy_distance(points, *, k, p):
    return np.asarray(cKDTree(points).query(points, k=[k + 1], p=p)[0])[:, 0]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_entropy_by_hand(norm):
    # on a line both norms are the same: r = 1, 1, 2 and the unit ball has length 2
    latent = np.array([[0.0], [1.0], [3.0]])
    expected = digamma(3) - digamma(1) + np.log(2) + np.log(2) / 3
    assert knn_entropy(latent, k=1, norm=norm) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_entropy_of_a_gaussian(rng, norm, width):
    latent = rng.standard_normal((8000, width)) * 0.3
    expected = 0.5 * width * LOG_2PIE + width * np.log(0.3)
    assert knn_entropy(latent, k=20, norm=norm) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_entropy_of_correlated_gaussians(rng, norm, correlation):
    covariance = np.array([[1.0, 0.2 * correlation, 0.0], [0.2 * correlation, 0.04, 0.0], [0.0, 0.0, 9.0]])
    latent = rng.standard_normal((20_000, 3)) @ np.linalg.cholesky(covariance).T
    expected = 1.5 * LOG_2PIE + 0.5 * np.linalg.slogdet(covariance)[1]
    assert knn_entropy(latent, k=5, norm=norm) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("width", "k"), [(8, 200), (40, 100)])
def test_entropy_term_by_term_against_scipy(rng, norm, width, k):
    latent, _ = collapsed(rng, width, 1e-4, points=2000)
    found = cKDTree(latent).query(latent, k=[k + 1], p=2 if norm == "l2" else np.inf)
    distance = np.asarray(found[0])[:, 0]
    ball = width * np.log(2.0) if norm == "linf" else 0.5 * width * np.log(np.pi) - gammaln(0.5 * width + 1)
    head = digamma(2000) - digamma(k) + ball
    value = knn_entropy(latent, k=k, norm=norm)
    assert value == pytest.approx(head + width * np.log(distance).mean(), rel=1e-12)
    lifted = knn_entropy(latent, k=k, norm=norm, floor=1e-3)
    assert lifted == pytest.approx(head + width * np.log(distance + 1e-3).mean(), rel=1e-12)
    assert lifted > value


def test_the_floor_gives_repeated_points_a_number_that_depends_on_it_alone():
    latent = np.zeros((50, 4))
    expected = digamma(50) - digamma(3) + 4 * np.log(2) + 4 * np.log(1e-10)
    assert knn_entropy(latent, k=3, norm="linf", floor=1e-10) == pytest.approx(expected, rel=1e-13)
    label = np.arange(50) % 2
    within = conditional_knn_entropy(latent, label, k=3, norm="linf", floor=1e-10)
    assert within == pytest.approx(expected - digamma(50) + digamma(25), rel=1e-13)
    for floor in (-1e-10, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"floor is .*; expected 0 or more"):
            knn_entropy(latent, k=3, floor=floor)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_entropy_of_the_unit_cube_is_zero_and_of_its_double_is_not(rng, norm):
    latent = rng.random((8000, 2))
    assert knn_entropy(latent, k=5, norm=norm) == pytest.approx(0.0, abs=0.05)
    assert knn_entropy(2 * latent, k=5, norm=norm) == pytest.approx(2 * np.log(2), abs=0.05)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("width", [4, 32])
@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_entropy_under_scale_and_offset(rng, norm, width, spread):
    latent, _ = collapsed(rng, width, spread)
    moved = knn_entropy(latent * 1e-7 + 1, k=10, norm=norm)
    expected = knn_entropy(latent, k=10, norm=norm) + width * np.log(1e-7)
    assert moved == pytest.approx(expected, abs=1e-6)


def test_entropy_of_tensors_and_float32(rng):
    latent = torch.from_numpy(rng.standard_normal((300, 5))).float()
    assert knn_entropy(latent, k=3) == knn_entropy(latent.double().numpy(), k=3)


def test_repeated_points_are_counted_not_hidden(rng):
    latent = rng.standard_normal((50, 3))
    latent[:4] = latent[0]
    with pytest.raises(ValueError, match="4 of the 50 points of latent lie at distance zero from their 3-th"):
        knn_entropy(latent, k=3)
    assert np.isfinite(knn_entropy(latent, k=4))
    with pytest.raises(ValueError, match="k is 50 for 50 points of latent"):
        knn_entropy(latent, k=50)


def test_conditional_entropy_is_the_weighted_mean_over_classes(rng):
    label = np.repeat([3, 8], [100, 300])
    latent = rng.standard_normal((400, 2)) * np.where(label == 3, 0.1, 5.0)[:, None]
    expected = 0.25 * knn_entropy(latent[label == 3], k=5) + 0.75 * knn_entropy(latent[label == 8], k=5)
    assert conditional_knn_entropy(latent, label, k=5) == pytest.approx(expected, rel=1e-13)
    with pytest.raises(ValueError, match="k is 100 for 100 points of class 3"):
        conditional_knn_entropy(latent, label, k=100)


def test_conditional_entropy_falls_by_the_information_of_the_label(rng):
    latent, label = collapsed(rng, 2, 1e-3, points=4000, classes=4)
    share = np.bincount(label) / 4000
    difference = knn_entropy(latent, k=5) - conditional_knn_entropy(latent, label, k=5)
    assert difference == pytest.approx(-(share * np.log(share)).sum(), abs=0.01)


def test_decoder_uncertainty_in_closed_form():
    label = np.array([0, 0, 1, 1])
    known = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert decoder_uncertainty(known, label) == 0.0
    assert decoder_uncertainty(np.full((4, 3), 1 / 3), label) == pytest.approx(np.log(2), rel=1e-14)
    noisy = 0.9 * known + 0.1 * known[:, ::-1]
    expected = -0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    assert decoder_uncertainty(noisy, label) == pytest.approx(expected, rel=1e-14)


def test_decoder_uncertainty_against_sums(rng):
    p = rng.dirichlet(np.ones(5), size=60)
    label = rng.integers(0, 3, 60)
    joint = np.stack([p[label == c].sum(axis=0) for c in range(3)], axis=1) / 60
    conditional = joint / joint.sum(axis=1, keepdims=True)
    expected = -(joint * np.log(conditional)).sum()
    assert decoder_uncertainty(torch.from_numpy(p), torch.from_numpy(label)) == pytest.approx(expected)


def test_decoder_uncertainty_refuses_what_is_no_distribution():
    label = np.array([0, 1])
    with pytest.raises(ValueError, match="1 rows of p_z_given_x do not sum to one; the first is row 1"):
        decoder_uncertainty(np.array([[0.5, 0.5], [0.5, 0.6]]), label)
    with pytest.raises(ValueError, match=r"negative; the first such entry is at index \(0, 1\)"):
        decoder_uncertainty(np.array([[1.5, -0.5], [0.5, 0.5]]), label)
