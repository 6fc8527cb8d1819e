import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from lpc.evaluation import information
from lpc.evaluation.mutual_information import (
    discrete_mutual_information,
    mixed_mutual_information,
    mutual_information,
)

TRUTH = -0.5 * np.log(1 - 0.8**2)  # of two Gaussians with a correlation of 0.8


def gaussians(rng, points=1000):
    x = rng.standard_normal((points, 1))
    return x, 0.8 * x + 0.6 * rng.standard_normal((points, 1))


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_mutual_information_of_gaussians(rng, rho):
    x = rng.standard_normal((4000, 1))
    y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal((4000, 1))
    assert mutual_information(x, y, k=5) == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.05)


def test_mutual_information_against_scikit_learn(rng):
    x = rng.standard_normal((500, 1))
    y = np.sin(2 * x) + 0.3 * rng.standard_normal((500, 1))
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    theirs = mutual_info_regression(x, y[:, 0], n_neighbors=4, random_state=0)[0]  # adds noise of 1e-10
    assert mutual_information(x, y, k=4) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("width", [2, 9])
def test_mutual_information_ignores_scale_offset_and_order(rng, width):
    x = rng.standard_normal((300, width))
    y = x[:, :1] + rng.standard_normal((300, width))
    base = mutual_information(x, y, k=3)
    assert base > 0.05
    assert mutual_information(1e-7 * x + 1, 1e5 * y, k=3) == pytest.approx(base, abs=2e-3)
    assert mutual_information(2.0**-20 * x, 8.0 * y, k=3) == pytest.approx(base, abs=1e-12)
    assert mutual_information(y, x, k=3) == pytest.approx(base, abs=1e-12)


def test_mutual_information_refuses_what_is_undefined(unchecked):
    x = np.zeros((10, 1))
    with pytest.raises(ValueError, match=r"10 of 10 joint points.*use mixed_mutual_information"):
        mutual_information(x, x, k=3)
    with pytest.raises(ValueError, match="x has 10 points and y has 9"):
        unchecked(mutual_information)(x, x[1:], k=3)
    with pytest.raises(ValueError, match="k is 10 for 10 points"):
        mutual_information(x, x, k=10)


def test_the_name_of_before_is_the_same_function():
    assert information.mutual_information is mutual_information


@pytest.mark.parametrize("grids", ["x", "y", "both"])
def test_values_on_a_grid_do_not_raise_the_estimate(rng, grids):
    """Broken ties leave 0.51 nats, where counting them gave 0.65: mean over 8 sets of 1,000 points."""
    found = []
    for _ in range(8):
        x, y = gaussians(rng)
        x = np.round(x, 1) if grids != "y" else x
        y = np.round(y, 1) if grids != "x" else y
        found.append(mutual_information(x, y, k=8))
    assert np.mean(found) == pytest.approx(TRUTH, abs=0.03)


def test_one_grid_of_many_points_each_value_repeated_often(rng):
    x, y = gaussians(rng, points=4000)
    assert mutual_information(np.round(x), y, k=5) == pytest.approx(
        discrete_mutual_information(y, np.round(x[:, 0]).clip(-2, 2).astype(int), k=5), abs=0.03
    )


def test_ties_are_broken_by_the_seed_and_only_ties(rng):
    x, y = gaussians(rng, points=300)
    assert mutual_information(x, y, k=3, seed=1) == mutual_information(x, y, k=3)
    grid = np.round(x, 1)
    found = mutual_information(grid, y, k=3)
    assert found == mutual_information(grid, y, k=3, seed=0) != mutual_information(grid, y, k=3, seed=1)
    tied = x.copy()
    tied[7] = tied[3]
    assert mutual_information(tied, y, k=3) == pytest.approx(mutual_information(x, y, k=3), abs=0.01)
    with pytest.raises(ValueError, match="seed is -1; expected an integer"):
        mutual_information(x, y, k=3, seed=-1)


def test_a_node_of_one_value_tells_nothing(rng):
    x, y = gaussians(rng, points=300)
    with_constant = np.concatenate([x, np.full_like(x, 3.0)], axis=1)
    scaled = x / np.sqrt(2)  # what dividing by the rms of both nodes makes of the first
    assert mutual_information(with_constant, y, k=3) == pytest.approx(
        mutual_information(np.concatenate([scaled, scaled], axis=1), y, k=3), abs=0.05
    )
    assert mutual_information(np.full_like(x, 3.0), y, k=3) == pytest.approx(0.0, abs=1e-12)


def test_mixed_is_the_continuous_estimate_where_no_point_repeats(rng):
    x, y = gaussians(rng, points=300)
    for values in (x, np.round(x, 1)):
        expected = mutual_information(values, y, k=3)
        assert mixed_mutual_information(values, y, k=3) == pytest.approx(expected, rel=1e-12)


def test_mixed_counts_atoms_by_hand():
    """Two values of 6 and 4 points each side, x = y: every count is the size of the atom."""
    x = np.repeat([0.0, 1.0], [6, 4])[:, None]
    expected = digamma(10) - (6 * digamma(6) + 4 * digamma(4)) / 10
    assert mixed_mutual_information(x, x, k=3) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("make", "truth", "within"),
    [
        (
            lambda rng, n: (a := rng.integers(0, 5, (n, 1)).astype(float), a + 2 * rng.random((n, 1))),
            np.log(5) - 4 * np.log(2) / 5,
            0.03,
        ),
        (
            lambda rng, n: (a := rng.integers(0, 2, (n, 1)), np.where(rng.random((n, 1)) < 0.9, a, 1 - a)),
            np.log(2) + 0.9 * np.log(0.9) + 0.1 * np.log(0.1),
            0.02,
        ),
        (
            lambda rng, n: (rng.integers(0, 4, (n, 1)), rng.integers(0, 4, (n, 1))),
            0.0,
            0.01,
        ),
        (
            lambda rng, n: (
                e := rng.exponential(1.0, (n, 1)),
                (rng.random((n, 1)) < 0.85) * rng.poisson(e),
            ),
            0.85 * (2 * np.log(2) - np.euler_gamma - sum(np.log(j) * 2.0**-j for j in range(1, 60))),
            0.05,
        ),
    ],
    ids=["uniform", "binary channel", "independent", "zero-inflated Poisson"],
)
def test_mixed_on_the_cases_of_gao_et_al(rng, make, truth, within):
    """Section 5 of the paper, and a channel of two values: mean over 4 sets of 2,000 points."""
    found = [mixed_mutual_information(*(v.astype(float) for v in make(rng, 2000)), k=5) for _ in range(4)]
    assert np.mean(found) == pytest.approx(truth, abs=within)


def test_discrete_against_scikit_learn(rng):
    label = rng.integers(0, 3, 600)
    latent = rng.standard_normal((600, 1)) + 0.7 * label[:, None]
    latent = (latent - latent.mean()) / latent.std()
    theirs = mutual_info_classif(latent, label, n_neighbors=4, random_state=0)[0]  # adds noise of 1e-10
    assert discrete_mutual_information(latent, label, k=4) == pytest.approx(theirs, abs=1e-6)
    assert discrete_mutual_information(3.0 * latent + 5.0, label - 7, k=4) == pytest.approx(theirs, abs=1e-6)


def test_discrete_of_gaussians_apart_and_on_a_grid(rng):
    label = rng.integers(0, 2, 4000)
    latent = rng.standard_normal((4000, 2)) + 2.0 * label[:, None] * [1.0, 0.0]
    t = np.linspace(-9, 11, 20_001)
    mixture = 0.5 * (np.exp(-(t**2) / 2) + np.exp(-((t - 2) ** 2) / 2)) / np.sqrt(2 * np.pi)
    truth = -np.sum(mixture * np.log(mixture)) * (t[1] - t[0]) - 0.5 * np.log(2 * np.pi * np.e)
    assert discrete_mutual_information(latent, label, k=10) == pytest.approx(truth, abs=0.03)
    assert discrete_mutual_information(np.round(latent, 1), label, k=10) == pytest.approx(truth, abs=0.03)
    apart = latent + 100 * label[:, None]
    assert discrete_mutual_information(apart, label, k=10) == pytest.approx(np.log(2), abs=1e-3)


@pytest.mark.usefixtures("unhooked")
def test_discrete_names_what_it_cannot_measure(rng):
    latent, label = rng.standard_normal((10, 2)), np.repeat([4, 9], [7, 3])
    with pytest.raises(ValueError, match="k is 3 for 3 points of class 9"):
        discrete_mutual_information(latent, label, k=3)
    with pytest.raises(ValueError, match="label has 9 entries for 10 points"):
        discrete_mutual_information(torch.from_numpy(latent), label[:9], k=2)
    with pytest.raises(ValueError, match=r"7 points of class 4 lie at .*mixed_mutual_information"):
        discrete_mutual_information(np.zeros((10, 2)), label, k=2)
