import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from sklearn.neighbors import NearestNeighbors

from experiments.chapters.surrogates.estimator_bias import bias, class_gaussians, matched_mixture


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def clouds(*, apart, sizes=(40, 90, 25), width=3, seed=0):
    """Points of unequal classes with labels 2, 5, 8, each stretched along its own directions."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(size=(size, width)) @ rng.normal(size=(width, width)) + apart * rng.normal(size=width)
        for size in sizes
    ]
    return torch.from_numpy(np.concatenate(parts)), torch.tensor([2, 5, 8]).repeat_interleave(
        torch.tensor(sizes)
    )


def gaussian_entropies(latent, label):
    return {
        int(value): float(stats.multivariate_normal(cov=np.cov(latent[label == value].T)).entropy())
        for value in label.unique()
    }


def test_conditional_entropy_is_scipys_and_far_classes_add_the_entropy_of_their_shares():
    latent, label = clouds(apart=1e4)
    found = matched_mixture(latent, label, generator=source())
    entropies, share = gaussian_entropies(latent, label), np.array([40, 90, 25]) / 155
    reverse = float(share @ list(entropies.values()))
    assert found.reverse_decoder_uncertainty == pytest.approx(reverse, abs=1e-9)
    assert found.encoding_entropy == pytest.approx(reverse + float(stats.entropy(share)), abs=1e-9)
    assert found.encoding_entropy_error == pytest.approx(0, abs=1e-9)


def test_classes_of_one_place_have_the_entropy_of_one_gaussian():
    cloud, _ = clouds(apart=0.0, sizes=(50, 0, 0))
    latent, label = torch.cat([cloud, cloud]), torch.arange(2).repeat_interleave(50)
    found = matched_mixture(latent, label, generator=source())
    assert found.encoding_entropy == pytest.approx(found.reverse_decoder_uncertainty, abs=1e-9)


def test_entropy_of_overlapping_classes_is_that_of_quadrature():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 1, 300), rng.normal(1.5, 0.4, 100)
    latent = torch.from_numpy(np.concatenate([first, second])[:, None])
    label = torch.arange(2).repeat_interleave(torch.tensor([300, 100]))
    found = matched_mixture(latent, label, generator=source(), draws=50)
    grid = np.linspace(-12, 12, 40_001)
    each = [stats.norm(own.mean(), own.std(ddof=1)).pdf(grid) for own in (first, second)]
    density = 0.75 * np.asarray(each[0]) + 0.25 * np.asarray(each[1])
    truth = float(integrate.trapezoid(special.entr(density), grid))
    assert found.encoding_entropy == pytest.approx(truth, abs=4 * found.encoding_entropy_error)
    assert 0 < found.encoding_entropy_error < 0.005


def test_standard_error_is_the_spread_over_generators():
    latent, label = clouds(apart=1.0)
    found = [matched_mixture(latent, label, generator=source(seed)) for seed in range(60)]
    spread = np.std([one.encoding_entropy for one in found])
    claimed = np.mean([one.encoding_entropy_error for one in found])
    assert 0.75 < spread / claimed < 1.3


def test_sample_has_the_classes_means_covariances_and_sizes():
    latent, label = clouds(apart=2.0)
    many, labels = latent.repeat(200, 1), label.repeat(200)
    found = matched_mixture(many, labels, generator=source())
    assert found.label.bincount().tolist() == labels.bincount().tolist()
    for value in (2, 5, 8):
        own, given = found.sample[found.label == value], latent[label == value]
        sd = given.std(dim=0, correction=0)
        assert float(((own.mean(dim=0) - given.mean(dim=0)) / sd).abs().max()) < 0.05
        ratio = np.linalg.solve(np.cov(given.T, ddof=0), np.cov(own.T))
        np.testing.assert_allclose(ratio, np.eye(3), atol=0.1)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_scaling_by_1e_7_takes_its_logarithm_a_node(offset):
    latent, label = clouds(apart=1.0)
    small = matched_mixture(1e-7 * latent + offset, label, generator=source())
    found = matched_mixture(latent, label, generator=source())
    fallen = 3 * math.log(1e-7)
    assert small.encoding_entropy == pytest.approx(found.encoding_entropy + fallen, abs=1e-6)
    reverse = found.reverse_decoder_uncertainty + fallen
    assert small.reverse_decoder_uncertainty == pytest.approx(reverse, abs=1e-6)


def test_variances_a_thousand_million_apart_are_kept():
    rng = np.random.default_rng(2)
    sd = np.array([1.0, 1e-4, 3e-5])  # variances down to 1e-9
    turn = stats.ortho_group(3).rvs(random_state=3)
    latent = torch.from_numpy((rng.normal(size=(400, 3)) * sd) @ turn + 5)
    found = class_gaussians(latent, torch.zeros(400, dtype=torch.int64))
    np.testing.assert_allclose(found.sd[0], sd, rtol=0.1)
    exact = matched_mixture(latent, torch.zeros(400, dtype=torch.int64), generator=source())
    white = (latent.numpy() - 5) @ turn.T / sd
    truth = stats.multivariate_normal(cov=np.cov(white.T)).entropy() + np.log(sd).sum()
    assert exact.encoding_entropy == pytest.approx(float(truth), abs=1e-6)


def constant_node(latent):
    latent[:40, 1] = 7.0


def copied_node(latent):
    latent[:40, 2] = 2 * latent[:40, 0] - latent[:40, 1]


def collapsed_class(latent):
    latent[:40] = torch.tensor([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("change", "spans"),
    [(constant_node, 2), (copied_node, 2), (collapsed_class, 0)],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_classes_that_span_too_little_are_named(change, spans):
    latent, label = clouds(apart=1.0)
    change(latent)
    with pytest.raises(ValueError, match=f"class 2 has 40 points that span {spans} of 3 dimensions"):
        matched_mixture(latent, label, generator=source())


def test_too_few_points_and_a_single_one_are_named():
    latent, label = clouds(apart=1.0, sizes=(3, 9, 25))
    with pytest.raises(ValueError, match="class 2 has 3 points that span 2 of 3"):
        class_gaussians(latent, label)
    latent, label = clouds(apart=1.0, sizes=(9, 1, 25))
    with pytest.raises(ValueError, match="class 5 has 1 points that span 0 of 3"):
        class_gaussians(latent, label)


def test_bias_of_a_round_gaussian_is_that_of_an_estimator_written_plainly():
    rng = np.random.default_rng(4)
    total, width, k = 300, 8, 3
    latent = torch.from_numpy(0.2 * rng.normal(size=(total, width)))
    found = bias(latent, torch.zeros(total, dtype=torch.int64), k=k, repeats=40, generator=source())
    off = []
    for _ in range(40):
        points = rng.normal(size=(total, width))
        far = NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points)[0][:, k]
        volume = width / 2 * math.log(math.pi) - math.lgamma(width / 2 + 1)
        estimate = special.digamma(total) - special.digamma(k) + volume + width * np.log(far).mean()
        off.append(estimate - width / 2 * math.log(2 * math.pi * math.e))
    error = np.std(off, ddof=1) / math.sqrt(40)
    both = math.hypot(error, found.isotropic.standard_error)
    assert found.isotropic.bias == pytest.approx(np.mean(off), abs=4 * both)
    assert found.isotropic.standard_error == pytest.approx(error, rel=0.5)
    truth = width / 2 * math.log(2 * math.pi * math.e * float(latent.var(dim=0).mean()))
    assert found.isotropic.truth == pytest.approx(truth)


def test_bias_is_small_on_a_line_and_each_estimate_has_its_own_truth():
    latent, label = clouds(apart=3.0, sizes=(300, 500, 200), width=1)
    found = bias(latent, label, k=3, generator=source())
    for one in found:
        assert abs(one.bias) < 0.1
    mixture = matched_mixture(latent, label, generator=source(9))
    assert found.reverse_decoder_uncertainty.truth == pytest.approx(mixture.reverse_decoder_uncertainty)
    assert found.encoding_entropy.truth == pytest.approx(mixture.encoding_entropy, abs=0.05)
    assert found.encoding_entropy.truth > found.reverse_decoder_uncertainty.truth + 0.3


def test_a_stretched_mixture_is_harder_than_a_round_gaussian():
    rng = np.random.default_rng(5)
    latent = torch.from_numpy(rng.normal(size=(400, 10)) * np.logspace(0, -3, 10))
    found = bias(latent, torch.zeros(400, dtype=torch.int64), k=3, generator=source())
    assert found.encoding_entropy.bias > found.isotropic.bias + 1
    rounded = bias(
        torch.from_numpy(rng.normal(size=(400, 10))),
        torch.zeros(400, dtype=torch.int64),
        k=3,
        generator=source(),
    )
    assert abs(rounded.encoding_entropy.bias - rounded.isotropic.bias) < 0.2  # control: nothing to flatter


def test_numbers_of_draws_and_repeats_are_checked():
    latent, label = clouds(apart=1.0)
    with pytest.raises(ValueError, match="draws is 1; expected 2 or more"):
        matched_mixture(latent, label, generator=source(), draws=1)
    with pytest.raises(ValueError, match="repeats is 1; expected 2 or more"):
        bias(latent, label, k=2, repeats=1, generator=source())
    with pytest.raises(ValueError, match="k is 25"):
        bias(latent, label, k=25, generator=source())
