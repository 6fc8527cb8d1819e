import warnings

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.mixture import GaussianMixture
from support.pretended_gpu import pretended_gpu

from lpc import arrays
from lpc.evaluation import mixture
from lpc.evaluation._searching import mixture_climb
from lpc.evaluation._searching.mixture_climb import Rows, climb, survey
from lpc.evaluation.mixture import fit_bimodal


def hard_cases(rng, n):
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


@pytest.mark.parametrize("n", [400, 1500])  # every point by itself, and in groups at first
def test_hard_cases_against_scikit_learn(rng, n):
    cases = hard_cases(rng, n)
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
    sign = np.sign(rng.standard_normal((700, 4)))
    x = rng.standard_normal((700, 4)) * [1, 1e-6, 1, 5] + sign * [0, 1e-3, 1, 9]
    for reg_covar in (0.0, 1e-6):
        fit = fit_bimodal(x, reg_covar=reg_covar)
        low, high = (fit.weight[:, c] * norm.pdf(x, fit.mean[:, c], fit.sd[:, c]) for c in (0, 1))
        np.testing.assert_allclose(fit.log_likelihood, np.log(low + high).mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(np.asarray(fit.weight).sum(axis=1), 1, rtol=1e-14)
        assert (fit.mean[:, 0] <= fit.mean[:, 1]).all()


def group_likelihood(step, theta, unit, rows):
    """Return the log-likelihood of groups that share a membership, written out, for autograd."""
    logit, mean1, mean2, log_sd1, log_sd2 = torch.unbind(theta[0] + step * unit)
    terms = [
        torch.log(w)
        - s
        - 0.5 * np.log(2 * np.pi)
        - ((rows.x - m).square() + rows.within) / (2 * torch.exp(2 * s))
        for w, m, s in ((torch.sigmoid(-logit), mean1, log_sd1), (torch.sigmoid(logit), mean2, log_sd2))
    ]
    return (rows.share * torch.logsumexp(torch.stack(terms), dim=0)).sum()


def test_derivatives_against_automatic_ones(rng):
    x, within, share = (torch.from_numpy(rng.random((1, 9))) for _ in range(3))
    rows = Rows(4 * x, within, share / share.sum(), torch.tensor([1e-15], dtype=torch.float64))
    theta = torch.tensor([[0.3, 1.2, 2.9, -0.2, 0.4]], dtype=torch.float64)
    unit = torch.ones(5, dtype=torch.float64)
    unit[1:3] = theta[0, 3:].exp()
    found = survey(rows, torch.tensor([0]), theta)
    zero = torch.zeros(5, dtype=torch.float64)
    height = group_likelihood(zero, theta, unit, rows)
    slope = torch.autograd.functional.jacobian(lambda s: group_likelihood(s, theta, unit, rows), zero)
    second = torch.autograd.functional.hessian(lambda s: group_likelihood(s, theta, unit, rows), zero)
    torch.testing.assert_close(found.likelihood[0], height, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.slope[0], slope, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(-found.curvature[0], torch.as_tensor(second), rtol=1e-12, atol=1e-15)


def test_slope_with_added_variance_vanishes_where_the_step_stands_still(rng):
    """And its curvature is minus the slope's own differences."""
    x = torch.from_numpy(rng.standard_normal((1, 50)))
    rows = Rows(x, None, None, torch.tensor([1e-15], dtype=torch.float64))
    added, theta = torch.tensor([0.3], dtype=torch.float64), torch.tensor([[0.4, -0.5, 0.6, -0.2, 0.1]])
    theta, index = theta.double(), torch.tensor([0])
    here = survey(rows, index, theta, added)
    unit = torch.ones_like(theta)
    unit[:, 1:3] = theta[:, 3:].exp()
    for j in range(5):
        move = torch.zeros_like(theta)
        move[0, j] = 1e-6 * unit[0, j]
        ends = []
        for sign in (1, -1):
            at = theta + sign * move
            units = unit.clone()
            units[:, 1:3] = at[:, 3:].exp()
            ends.append(survey(rows, index, at, added).slope / units * unit)  # per unit of theta's own sds
        torch.testing.assert_close(
            here.curvature[0, :, j], -(ends[0] - ends[1])[0] / 2e-6, rtol=1e-6, atol=1e-8
        )
    still = theta.clone()
    for _ in range(2000):
        still = survey(rows, index, still, added).update
    assert float(survey(rows, index, still, added).slope.abs().max()) < 1e-6
    assert float(survey(rows, index, still).slope.abs().max()) > 1e-3  # not where the likelihood is highest


def test_groups_keep_mean_and_variance_and_split_at_gaps(rng):
    x = np.sort(np.r_[rng.normal(-1, 1e-9, 1001), rng.normal(1, 1e-9, 700), 30.0])
    mean, within, share = (v[0].numpy() for v in mixture._grouped(torch.from_numpy(x[None])))
    assert len(mean) < 500
    assert share.sum() == pytest.approx(1, rel=1e-14)
    assert share @ mean == pytest.approx(x.mean(), rel=1e-13)
    assert share @ (mean**2 + within) == pytest.approx((x**2).mean(), rel=1e-13)
    assert share[mean < 0].sum() == pytest.approx(1001 / 1702, rel=1e-13)
    low = mean < 0
    variance = share[low] @ ((mean[low] - x[:1001].mean()) ** 2 + within[low]) / share[low].sum()
    assert variance == pytest.approx(x[:1001].var(), rel=1e-6)  # of 1e-18: no group spans both spikes
    assert (share[-1], within[-1]) == (1 / 1702, 0)  # the outlier is by itself


def test_groups_lead_to_the_same_tops_as_points(rng, monkeypatch):
    x = np.stack(list(hard_cases(rng, 1500).values()), axis=1)
    grouped = fit_bimodal(x)
    monkeypatch.setattr(mixture, "_SINGLE", 10_000)
    single = fit_bimodal(x)
    np.testing.assert_allclose(grouped.log_likelihood, single.log_likelihood, rtol=0, atol=1e-13)
    np.testing.assert_allclose(grouped.mean, single.mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(grouped.sd, single.sd, rtol=1e-7)


def test_likelihood_never_falls(rng, monkeypatch):
    x = torch.from_numpy(np.sort(np.r_[[rng.standard_normal(200) for _ in range(5)]], axis=1))
    x[3] = x[3] ** 3
    rows = Rows(x, None, None, torch.full((5,), 1e-15, dtype=torch.float64))
    start = torch.tensor([0.3, -0.5, 2.5, -0.7, -1.0], dtype=torch.float64).expand(5, 5).clone()
    heights = []
    for passes in (*range(30), 60, 100):
        monkeypatch.setattr(mixture_climb, "_PASSES", passes)
        heights.append(climb(rows, torch.arange(5), start, tolerance=0.0, dead=50.0)[1].numpy())
    assert (np.diff(heights, axis=0) >= -3e-14).all()
    assert (heights[-1] > heights[0] + 0.01).all()
    expected = np.log(sum(w * norm.pdf(x, m, s) for w, m, s in mixture_terms(start[0]))).mean(axis=1)
    np.testing.assert_allclose(heights[0], expected, rtol=1e-12)


def mixture_terms(theta):
    logit, mean1, mean2, log_sd1, log_sd2 = theta.tolist()
    second = 1 / (1 + np.exp(-logit))
    return (1 - second, mean1, np.exp(log_sd1)), (second, mean2, np.exp(log_sd2))


@pytest.mark.parametrize("n", [300, 900])
def test_fit_is_equivariant_and_the_same_for_each_dimension_alone(rng, monkeypatch, n):
    x = np.stack(list(hard_cases(rng, n).values())[:6], axis=1)
    base, moved = fit_bimodal(x), fit_bimodal(torch.from_numpy(-1e-4 * x + 3))
    assert isinstance(moved.mean, torch.Tensor)
    np.testing.assert_allclose(moved.log_likelihood, base.log_likelihood - np.log(1e-4), atol=1e-8)
    np.testing.assert_allclose(np.asarray(moved.sd)[:, ::-1], 1e-4 * base.sd, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(moved.mean)[:, ::-1], 3 - 1e-4 * base.mean, atol=1e-9)
    monkeypatch.setattr(mixture, "_BLOCK_ENTRIES", n)
    monkeypatch.setattr(arrays, "_CACHED_ENTRIES", n)
    alone = fit_bimodal(x)
    shuffled = fit_bimodal(rng.permutation(x))
    for ours, theirs, others in zip(alone, base, shuffled, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(ours, others, rtol=1e-6, atol=1e-7)


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
    for repeats in (1, 20):  # few points by themselves, many in groups
        points = np.repeat(latent, repeats, axis=0)
        points[:, 3] += 1e-3 * rng.standard_normal(n * repeats)
        fit = fit_bimodal(points)
        assert fit.degenerate.tolist() == [True, True, True, False]
        assert np.isinf(fit.log_likelihood).tolist() == [True, True, True, False]
        np.testing.assert_allclose(fit.mean[0], 0.3)
        np.testing.assert_allclose(fit.sd[:2], 0)
        np.testing.assert_allclose(fit.mean[1], [-1, 2])
        np.testing.assert_allclose(fit.weight[1], [0.3, 0.7])
        np.testing.assert_allclose(fit.mean[2], [0, latent[50:, 2].mean()], atol=1e-12)
        np.testing.assert_allclose(fit.sd[2], [0, latent[50:, 2].std()])
    with pytest.raises(ValueError, match="has 1 point"):
        fit_bimodal(latent[:1])


def test_one_gaussian_gains_little(rng):
    n = 1000
    x = rng.standard_normal((n, 20))
    fit = fit_bimodal(x)
    gain = n * (fit.log_likelihood + 0.5 * np.log(2 * np.pi * np.e * x.var(axis=0)))
    assert (gain >= -1e-9).all()  # one Gaussian is a mixture of two
    assert np.median(gain) < 5  # 3 parameters more
    assert fit.degenerate.sum() == 0
    two = fit_bimodal(x + 2 * np.sign(rng.standard_normal((n, 20))))
    gain = n * (two.log_likelihood + 0.5 * np.log(2 * np.pi * np.e * (x.var(axis=0) + 4)))
    assert (gain > 50).all()


def test_added_variance_against_scikit_learn(rng):
    cases = hard_cases(rng, 600)
    cases["one value"], cases["two values"] = np.full(600, 0.3), np.where(rng.random(600) < 0.3, -1.0, 2.0)
    for reg_covar in (1e-6, 0.01):
        fit = fit_bimodal(np.stack(list(cases.values()), axis=1), reg_covar=reg_covar)
        assert (fit.sd >= np.sqrt(reg_covar) * (1 - 1e-12)).all()
        assert fit.degenerate.sum() == fit.dropped_starts.sum() == 0
        for i, (name, x) in enumerate(cases.items()):
            model = GaussianMixture(
                2,
                reg_covar=reg_covar,
                tol=0,
                max_iter=30,
                weights_init=fit.weight[i],
                means_init=fit.mean[i, :, None],
                precisions_init=1 / fit.sd[i, :, None, None] ** 2,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(x[:, None])
            order = np.asarray(model.means_)[:, 0].argsort(kind="stable")
            sd = np.sqrt(np.asarray(model.covariances_)[order, 0, 0])
            np.testing.assert_allclose(fit.sd[i], sd, rtol=1e-8, err_msg=name)  # it stands still there
            np.testing.assert_allclose(
                fit.mean[i], np.asarray(model.means_)[order, 0], atol=1e-8, err_msg=name
            )
            assert fit.log_likelihood[i] == pytest.approx(model.score(x[:, None]), abs=1e-9), name
            assert fit.converged[i], name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other = GaussianMixture(2, reg_covar=reg_covar, tol=1e-12, max_iter=3000, random_state=0)
                other.fit(x[:, None])
            assert fit.log_likelihood[i] >= other.score(x[:, None]) - 1e-6, name


def test_added_variance_follows_the_units_and_vanishes(rng):
    x = np.stack(list(hard_cases(rng, 600).values())[:6], axis=1)
    base, scaled = fit_bimodal(x, reg_covar=1e-2), fit_bimodal(1e-3 * x + 5, reg_covar=1e-8)
    np.testing.assert_allclose(scaled.sd, 1e-3 * base.sd, rtol=1e-6)
    np.testing.assert_allclose(scaled.log_likelihood, base.log_likelihood - np.log(1e-3), atol=1e-7)
    none, little = fit_bimodal(x), fit_bimodal(x, reg_covar=1e-15)
    np.testing.assert_allclose(little.log_likelihood, none.log_likelihood, atol=1e-9)
    np.testing.assert_allclose(little.sd, none.sd, rtol=1e-6)
    assert (base.log_likelihood < none.log_likelihood).all()


@pytest.mark.parametrize("reg_covar", [-1e-6, float("nan"), float("inf")])
def test_impossible_reg_covar(reg_covar):
    with pytest.raises(ValueError, match="reg_covar is"):
        fit_bimodal(np.zeros((5, 2)), reg_covar=reg_covar)


def test_a_gpu_is_not_given_the_chunks_of_a_cpus_cache(monkeypatch):
    """Launches cost there; how many dimensions are worked on together changes no number."""
    points = torch.randn(400, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[:200] += 3.0
    assert points.numel() > 2 * arrays._CACHED_ENTRIES

    def fitted():
        with pretended_gpu() as gpu:
            found = torch.as_tensor(fit_bimodal(points.cuda()).mean).cpu()
        return found, gpu.launches.total()

    found, launches = fitted()
    monkeypatch.setattr(arrays, "_BLOCK_ENTRIES", arrays._CACHED_ENTRIES)
    expected, more = fitted()
    assert torch.equal(found, expected)
    assert launches < 0.8 * more
