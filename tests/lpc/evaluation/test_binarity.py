import warnings

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from lpc.evaluation.binarity import binarity, hypercube
from lpc.evaluation.mixture import fit_bimodal


def test_degenerate_dimensions_are_left_out(rng):
    n = 100
    control = np.r_[rng.normal(-1, 0.1, n // 2), rng.normal(1, 0.1, n // 2)]
    latent = np.stack([np.full(n, 0.3), np.where(np.arange(n) < 30, -1.0, 2.0), control], axis=1)
    result, alone = binarity(latent), binarity(latent[:, 2:])
    assert result.degenerate == 2
    assert result[:3] == pytest.approx(alone[:3], rel=1e-12)
    with pytest.raises(ValueError, match="all 2 dimensions of latent are degenerate"):
        binarity(latent[:, :2])


def released_fit(x):
    """Return the three numbers of the 2024 release, from scikit-learn: score, mean sd, distance in sds."""
    value = ((x - x.mean()) / x.std())[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianMixture(2, reg_covar=1e-6, tol=1e-14, max_iter=5000, random_state=0).fit(value)
    sd = np.sqrt(np.asarray(model.covariances_)[:, 0, 0])
    mean = np.asarray(model.means_)[:, 0]
    return model.score(value), sd.mean(), abs(mean[1] - mean[0]) / sd.mean()


def test_numbers_of_the_release_against_scikit_learn(rng):
    n = 700
    sign = np.where(rng.random((n, 3)) < 0.3, -1.0, 1.0)
    latent = 1e-4 * (sign * [1, 1, 2] + rng.standard_normal((n, 3)) * [1e-5, 1e-3, 0.3])
    latent[:, 0] = 1e-4 * sign[:, 0]  # two values
    result = binarity(latent, standardise=True, convention="released", reg_covar=1e-6)
    expected = np.mean([released_fit(x) for x in latent.T], axis=0)
    np.testing.assert_allclose(result[:3], expected, rtol=1e-7)
    assert (result.degenerate, result.unconverged) == (0, 0)
    spikes = binarity(latent[:, :1], standardise=True, convention="released", reg_covar=1e-6)
    weight = np.mean(sign[:, 0] < 0)
    distance = 1 / np.sqrt(weight * (1 - weight))  # of two values of variance 1
    assert spikes.sigma == pytest.approx(1e-3, rel=1e-9)
    assert spikes.mu == pytest.approx(1e3 * distance, rel=1e-9)
    entropy = -weight * np.log(weight) - (1 - weight) * np.log(1 - weight)
    assert spikes.log_likelihood == pytest.approx(-np.log(1e-3 * np.sqrt(2 * np.pi)) - entropy, rel=1e-9)
    narrow, added = (binarity(latent[:, 1:2], standardise=True, reg_covar=v).mu for v in (0, 1e-6))
    assert narrow > 1.2 * added
    with pytest.raises(ValueError, match="reg_covar is -1e-06"):
        binarity(latent, reg_covar=-1e-6)


def test_binarity_in_closed_form(rng):
    # quantiles of two far normals: the mean log density is that of a normal's own entropy
    q = norm.ppf((np.arange(2000) + 0.5) / 2000)
    x = np.r_[-3 + 0.01 * q, 3 + 0.02 * q]
    result = binarity(x[:, None])
    entropy = 0.5 * np.log(2 * np.pi * np.e) + 0.5 * np.log(0.01 * 0.02)
    assert result.log_likelihood == pytest.approx(-entropy, abs=1e-3)
    assert result.sigma == pytest.approx(0.015, rel=1e-2)
    assert result.mu == pytest.approx(6 / 0.015, rel=1e-2)
    released = binarity(x[:, None], convention="released")
    assert released.log_likelihood == pytest.approx(result.log_likelihood - np.log(2), abs=1e-9)
    assert released[1:] == result[1:]


def test_binarity_scales_as_stated_and_standardised_does_not(rng):
    x = np.sign(rng.standard_normal((400, 5))) + 0.1 * rng.standard_normal((400, 5))
    base, small = binarity(x), binarity(1e-5 * x)
    assert small.log_likelihood == pytest.approx(base.log_likelihood - np.log(1e-5), abs=1e-8)
    assert small.sigma == pytest.approx(1e-5 * base.sigma, rel=1e-6)
    assert small.mu == pytest.approx(base.mu, rel=1e-6)
    standard = binarity((x - x.mean(axis=0)) / x.std(axis=0), convention="released")
    for scale in (1.0, 1e-5):
        result = binarity(scale * x + 2 * scale, standardise=True, convention="released")
        assert result[:3] == pytest.approx(standard[:3], rel=1e-6)


def test_one_gaussian_is_not_bimodal(rng):
    control = binarity(rng.standard_normal((1000, 6)))
    latent = np.sign(rng.standard_normal((1000, 6))) + 0.02 * rng.standard_normal((1000, 6))
    assert control.mu < 4
    assert control.degenerate == 0
    assert binarity(latent).mu > 80


def test_hypercube_in_closed_form():
    corners = np.array([[1, 1, 2], [1, -1, 2], [-1, 1, -2]], dtype=float)
    label = np.repeat([0, 1, 2], 4)
    jitter = np.tile([[0.1, 0, 0], [-0.1, 0, 0], [0, 0.3, 0], [0, -0.3, 0]], (3, 1))
    result = hypercube(1e-6 * (corners[label] + jitter), label)
    np.testing.assert_allclose(result.variation, 0, atol=1e-12)
    assert result[1:] == (pytest.approx(0, abs=1e-12), 3, 3, 0)
    off = hypercube(np.array([[1.0, 1.0, 1e-3], [3.0, 1.0, -1e-3]]), np.array([0, 1]))
    np.testing.assert_allclose(off.variation, [0.5, 0, np.nan])  # |1|, |3|: sd 1 over mean 2; third is dead
    assert off[1:] == (0.25, 1, 2, 1)
    with pytest.raises(ValueError, match="all class means are zero"):
        hypercube(np.zeros((2, 2)), np.array([0, 1]))


def test_random_means_are_no_hypercube(rng):
    assert hypercube(rng.standard_normal((10, 64)), np.arange(10)).mean_variation > 0.5


@pytest.mark.parametrize("points", [200, 1000])
def test_gaussian_nodes_are_never_one_repeated_value(points):
    """Outliers took all three starts of 32 to 45 of 2,000 such nodes, which were left out."""
    latent = torch.randn(points, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(points))
    fit = fit_bimodal(latent)
    assert int((torch.as_tensor(fit.dropped_starts) == 3).sum()) > 0
    assert not bool(torch.as_tensor(fit.degenerate).any())
    lost = torch.as_tensor(fit.dropped_starts) == 3
    floor = 0.3 * latent[:, lost].std(dim=0, correction=0)
    assert bool((torch.as_tensor(fit.sd)[lost] >= floor[:, None] * (1 - 1e-9)).all())
    found = binarity(latent)
    assert found.degenerate == 0 and 0.5 < found.sigma < 1.0
    assert -1.45 < found.log_likelihood < -1.1


def test_an_outlier_is_no_repeat_and_a_repeat_is():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(300, 3, dtype=torch.float64, generator=generator)
    latent[0, 1] = 40.0  # once
    latent[:30, 2] = 1.5  # a tenth of the points
    fit = fit_bimodal(latent)
    assert torch.as_tensor(fit.degenerate).tolist() == [False, False, True]
    scaled = fit_bimodal(1e-6 * latent + 3.0)
    assert torch.as_tensor(scaled.degenerate).tolist() == [False, False, True]
    torch.testing.assert_close(scaled.sd, 1e-6 * torch.as_tensor(fit.sd), rtol=1e-4, atol=0)
