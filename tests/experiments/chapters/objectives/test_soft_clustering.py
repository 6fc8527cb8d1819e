import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from experiments.chapters.objectives.soft_clustering import (
    ZERO_ENTROPY_SD,
    blobs,
    class_posterior,
    descend,
    entropies,
    fixed_noise,
)
from lpc.evaluation.quantities import gaussian_quantities


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def on_a_line(mean, label, sd):
    """H[Z], H[Z|Y] and the gradient of H[Z|Y] by quadrature, for points on a line."""
    grid = np.linspace(min(mean) - 9 * sd, max(mean) + 9 * sd, 20_001)
    each = np.asarray(stats.norm(np.asarray(mean)[:, None], sd).pdf(grid))
    log_each = np.asarray(stats.norm(np.asarray(mean)[:, None], sd).logpdf(grid))
    total = np.logaddexp.reduce(log_each) - math.log(len(mean))
    whole = -integrate.trapezoid(np.exp(total) * total, grid)
    reverse, slope = 0.0, np.zeros(len(mean))
    for value in set(label):
        own = [i for i, other in enumerate(label) if other == value]
        log_own = np.logaddexp.reduce(log_each[own]) - math.log(len(own))
        reverse -= len(own) / len(mean) * integrate.trapezoid(np.exp(log_own) * log_own, grid)
        score = np.gradient(log_own, grid)
        for i in own:
            slope[i] = -integrate.trapezoid(each[i] * score, grid) / len(mean)  # the chapter's one force
    return whole, reverse, slope


def test_posterior_is_bayes_rule_and_the_printed_distance_is_not():
    mean, label = blobs(points=5)
    z = mean + 0.3
    density = np.stack([stats.multivariate_normal(m, 0.04).pdf(z) for m in mean.numpy()], axis=1)
    bayes = np.stack([density[:, label == y].sum(axis=1) for y in range(3)], axis=1)
    bayes /= density.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(class_posterior(z, mean, label, sd=0.2), bayes, atol=1e-12)
    assert np.abs(class_posterior(z, mean, label, sd=0.2, printed=True).numpy() - bayes).max() > 0.05


def test_fixed_noise_is_white_and_gives_the_noises_entropy():
    noise = fixed_noise(draws=40, width=3, seed=0)
    np.testing.assert_allclose(noise.mean(dim=0), 0, atol=1e-15)
    np.testing.assert_allclose(noise.T @ noise / 40, np.eye(3), atol=1e-12)
    alone = entropies(torch.zeros(4, 3).double(), torch.tensor([0, 0, 1, 1]), sd=0.7, noise=noise)
    expected = stats.multivariate_normal(cov=0.49 * np.eye(3)).entropy()
    assert float(alone.encoding_entropy) == pytest.approx(float(expected), abs=1e-12)
    assert float(alone.decoder_uncertainty) == pytest.approx(math.log(2))


def test_entropies_and_their_gradient_are_those_of_quadrature():
    place, label, sd = [0.0, 0.5, 1.4, 0.9, 2.0], [0, 0, 0, 1, 1], 0.4
    mean = torch.tensor(place, dtype=torch.float64)[:, None].requires_grad_()
    found = entropies(mean, torch.tensor(label), sd=sd, noise=fixed_noise(draws=40_000, width=1, seed=0))
    whole, reverse, slope = on_a_line(place, label, sd)
    assert found.encoding_entropy.item() == pytest.approx(whole, abs=2e-3)
    assert found.reverse_decoder_uncertainty.item() == pytest.approx(reverse, abs=2e-3)
    own = stats.entropy([3 / 5, 2 / 5])
    assert found.decoder_uncertainty.item() == pytest.approx(reverse - whole + own, abs=4e-3)
    (gradient,) = torch.autograd.grad(found.reverse_decoder_uncertainty, mean)
    np.testing.assert_allclose(gradient[:, 0], slope, atol=3e-3)
    assert np.abs(slope).max() > 0.05


def test_entropies_are_the_librarys():
    mean, label = blobs(points=8)
    found = entropies(mean, label, sd=ZERO_ENTROPY_SD, noise=fixed_noise(draws=2000, width=2, seed=0))
    estimate = gaussian_quantities(mean, label, draws=200, generator=torch.Generator().manual_seed(0))
    for name in ("encoding_entropy", "reverse_decoder_uncertainty", "decoder_uncertainty"):
        error = getattr(estimate.standard_error, name)
        assert float(getattr(found, name)) == pytest.approx(
            getattr(estimate.quantities, name), abs=6 * error + 0.01
        )


def test_a_class_counts_by_its_share_in_the_gradient():
    mean, label = blobs(points=10)
    mean, label = mean[:14], label[:14]
    noise = fixed_noise(draws=60, width=2, seed=0)

    def slope(points, own):
        points = points.clone().requires_grad_()
        found = entropies(points, own, sd=ZERO_ENTROPY_SD, noise=noise)
        return torch.autograd.grad(found.reverse_decoder_uncertainty, points)[0]

    torch.testing.assert_close(slope(mean, label)[10:], slope(mean[10:], label[10:]) * 4 / 14)


def test_fixed_noise_gathers_classes_and_free_noise_has_no_floor():
    mean, label = blobs(points=6, seed=1)
    fixed = descend(mean, label, draws=32)
    first, last = fixed.history.iloc[0], fixed.history.iloc[-1]
    assert last["within"] < 0.05 * first["within"] and last["between"] > 5 * ZERO_ENTROPY_SD
    assert last["decoder_uncertainty"] < 0.01 < first["decoder_uncertainty"]
    assert -1e-9 < last["reverse_decoder_uncertainty"] < 0.02
    free = descend(mean, label, draws=32, free_noise=True)
    reverse = free.history["reverse_decoder_uncertainty"]
    assert reverse.iloc[-1] < -3
    late = free.history.iloc[-30:]  # two nodes: 2 nats for every unit of ln sd, to infinity
    slope = np.polyfit(np.log(late["sd"]), late["reverse_decoder_uncertainty"], 1)[0]
    assert slope == pytest.approx(2.0, abs=0.1)
    np.testing.assert_array_equal(descend(mean, label, draws=32).mean, fixed.mean)


def test_history_begins_at_the_start():
    mean, label = blobs(points=4)
    done = descend(mean, label, steps=0, draws=8)
    torch.testing.assert_close(done.mean, mean)
    row = done.history.iloc[0]
    centre = np.stack([mean[label == value].mean(dim=0).numpy() for value in range(3)])
    apart = [np.linalg.norm(centre[i] - centre[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert row["between"] == pytest.approx(math.sqrt(np.mean(np.square(apart))))
    within = ((mean.numpy() - centre[label.numpy()]) ** 2).sum(axis=1).mean()
    assert row["within"] == pytest.approx(math.sqrt(within))


def test_bad_input_is_named():
    mean, label = blobs(points=4)
    with pytest.raises(ValueError, match="draws=7"):
        fixed_noise(draws=7, width=2, seed=0)
    with pytest.raises(ValueError, match="noise of width 3"):
        entropies(mean, label, sd=0.1, noise=fixed_noise(draws=8, width=3, seed=0))
