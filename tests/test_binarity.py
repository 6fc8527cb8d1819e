import warnings

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from lpc.evaluation import mixture
from lpc.evaluation.binarity import binarity, fit_bimodal, hypercube


def hard_cases(rng, n=600):
    half = n // 2
    return {
        "separate": np.r_[rng.normal(-1, 0.1, half), rng.normal(1, 0.1, half)],
        "unequal weights": np.r_[rng.normal(-1, 0.1, n - n // 20), rng.normal(1, 0.1, n // 20)],
        "unequal variances": np.r_[rng.normal(-1, 0.02, half), rng.normal(1, 0.8, half)],
        "overlapping": np.r_[rng.normal(-1, 0.5, half), rng.normal(1, 0.7, half)],
        "one in the other": np.r_[rng.normal(0, 0.1, half), rng.normal(0, 2, half)],
        "narrow in broad": np.r_[rng.normal(0.5, 0.01, n // 5), rng.normal(0, 1, n - n // 5)],
        "spread of 1e-9": np.r_[rng.normal(-1, 1e-9, n // 3), rng.normal(1, 3e-9, n - n // 3)],
        "outlier": np.r_[rng.normal(-1, 0.1, half), rng.normal(1, 0.1, half - 1), 50.0],
    }


def scikit_learn(x):
    """Return the best mixture of many starts, fitted to standardised values, in the values' own units."""
    scale = x.std()
    value = ((x - x.mean()) / scale)[:, None]
    best, found = -np.inf, []
    for init in ("kmeans", "random_from_data", "random"):
        model = GaussianMixture(
            2, reg_covar=0, n_init=5, tol=1e-9, max_iter=2000, init_params=init, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model.fit(value)
            except ValueError:  # a component shrank to a point
                continue
        if np.asarray(model.covariances_).min() < 1e-24:  # it shrank to a point without raising
            continue
        if model.score(value) > best:
            best = model.score(value)
            found = [np.asarray(v) for v in (model.weights_, model.means_, model.covariances_)]
    weight, mean, variance = found
    order = mean[:, 0].argsort()
    return (
        weight[order],
        mean[order, 0] * scale + x.mean(),
        np.sqrt(variance[order, 0, 0]) * scale,
        best - np.log(scale),
    )


def test_hard_cases_against_scikit_learn(rng):
    cases = hard_cases(rng)
    fit = fit_bimodal(np.stack(list(cases.values()), axis=1))
    for i, (name, x) in enumerate(cases.items()):
        weight, mean, sd, log_likelihood = scikit_learn(x)
        assert fit.log_likelihood[i] == pytest.approx(log_likelihood, abs=1e-7), name
        np.testing.assert_allclose(fit.weight[i], weight, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(fit.mean[i], mean, atol=2e-3 * x.std(), err_msg=name)
        np.testing.assert_allclose(fit.sd[i], sd, rtol=5e-3, err_msg=name)
        assert fit.converged[i], name
        assert not fit.degenerate[i], name
    assert fit.dropped_starts[-1] >= 1  # 2-means puts the outlier alone
    assert fit.dropped_starts[:-1].sum() == 0


def test_reported_likelihood_is_that_of_the_reported_mixture(rng):
    x = rng.standard_normal((300, 4)) * [1, 1e-6, 1, 5] + np.sign(rng.standard_normal((300, 4))) * [
        0,
        1e-3,
        1,
        9,
    ]
    fit = fit_bimodal(x)
    low, high = (fit.weight[:, c] * norm.pdf(x, fit.mean[:, c], fit.sd[:, c]) for c in (0, 1))
    np.testing.assert_allclose(fit.log_likelihood, np.log(low + high).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(np.asarray(fit.weight).sum(axis=1), 1, rtol=1e-14)
    assert (fit.mean[:, 0] <= fit.mean[:, 1]).all()


def test_likelihood_never_falls(rng, monkeypatch):
    x = torch.from_numpy(np.sort(rng.standard_normal((5, 200)), axis=1))
    floor = torch.full((5,), 1e-15, dtype=torch.float64)
    member = mixture._starts(x)[1]
    start = mixture._maximise(x, member, 1 - member, floor)
    heights = []
    for cycles in (1, 2, 3, 5, 8, 13, 21, 34):
        monkeypatch.setattr(mixture, "_CYCLES", cycles)
        heights.append(mixture._climb(x, start, floor, 0.0)[1].numpy())
    assert (np.diff(heights, axis=0) >= -1e-13).all()
    assert (heights[-1] > heights[0]).all()


def test_fit_is_equivariant_and_the_same_for_each_dimension_alone(rng, monkeypatch):
    x = np.stack(list(hard_cases(rng, 300).values())[:6], axis=1)
    base, moved = fit_bimodal(x), fit_bimodal(torch.from_numpy(-1e-4 * x + 3))
    assert isinstance(moved.mean, torch.Tensor)
    np.testing.assert_allclose(moved.log_likelihood, base.log_likelihood - np.log(1e-4), atol=1e-6)
    np.testing.assert_allclose(np.asarray(moved.sd)[:, ::-1], 1e-4 * base.sd, rtol=2e-2)
    monkeypatch.setattr(mixture, "_BLOCK_ENTRIES", 300)
    alone = fit_bimodal(x)
    for ours, theirs in zip(alone, base, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_what_has_no_maximum_is_reported(rng):
    n = 100
    latent = np.stack(
        [
            np.full(n, 0.3),  # one value
            np.where(np.arange(n) < 30, -1.0, 2.0),  # two values
            np.r_[np.zeros(n // 2), rng.normal(5, 1, n // 2)],  # one value and a spread
            np.r_[rng.normal(-1, 0.1, n // 2), rng.normal(1, 0.1, n // 2)],  # control
        ],
        axis=1,
    )
    fit = fit_bimodal(latent)
    assert fit.degenerate.tolist() == [True, True, True, False]
    assert np.isinf(fit.log_likelihood).tolist() == [True, True, True, False]
    np.testing.assert_allclose(fit.mean[0], 0.3)
    np.testing.assert_allclose(fit.sd[:2], 0)
    np.testing.assert_allclose(fit.mean[1], [-1, 2])
    np.testing.assert_allclose(fit.weight[1], [0.3, 0.7])
    np.testing.assert_allclose(fit.mean[2], [0, latent[50:, 2].mean()], atol=1e-12)
    np.testing.assert_allclose(fit.sd[2], [0, latent[50:, 2].std()])
    result, alone = binarity(latent), binarity(latent[:, 3:])
    assert result.degenerate == 3
    assert result[:3] == pytest.approx(alone[:3], rel=1e-12)
    with pytest.raises(ValueError, match="all 2 dimensions of latent are degenerate"):
        binarity(latent[:, :2])
    with pytest.raises(ValueError, match="has 1 point"):
        fit_bimodal(latent[:1])


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
