import math

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.chapters.surrogates.entropy_bounds import bound_of_points, gaussian_bounds
from lpc.evaluation.quantities import ZERO_ENTROPY_VARIANCE, gaussian_quantities
from lpc.losses import conditional_log_variance, log_variance


def cloud(seed=0):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(30, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 0.2]])
    second = 0.3 * rng.normal(size=(10, 3)) + 2
    return torch.from_numpy(np.concatenate([first, second])), torch.tensor([4] * 30 + [9] * 10)


def entropy(covariance):
    return float(stats.multivariate_normal(cov=covariance).entropy())


def test_bounds_are_the_entropies_of_scipys_gaussians():
    mean, label = cloud()
    found = gaussian_bounds(mean, label, variance=0.3)
    parts = [mean, mean[label == 4], mean[label == 9]]
    covariances = [np.cov(part.T, ddof=0) + 0.3 * np.eye(3) for part in parts]
    full = [entropy(one) for one in covariances]
    diagonal = [entropy(np.diag(np.diag(one))) for one in covariances]
    expected = [
        full[0],
        diagonal[0],
        0.75 * full[1] + 0.25 * full[2],
        0.75 * diagonal[1] + 0.25 * diagonal[2],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert found.covariance + 0.1 < found.variances  # the nodes do depend on each other


def test_bounds_are_what_training_penalises_on_many_noisy_draws():
    mean, label = (part.repeat_interleave(3000, dim=0) for part in cloud())
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, found = mean + math.sqrt(ZERO_ENTROPY_VARIANCE) * noise, gaussian_bounds(mean, label)
    assert float(log_variance(z)) == pytest.approx(found.variances, abs=0.01)
    assert float(conditional_log_variance(z, label)) == pytest.approx(found.within_variances, abs=0.01)


def test_exact_entropies_lie_below_and_meet_the_bound_where_a_class_is_a_point():
    mean, label = cloud()
    exact = gaussian_quantities(mean, label, draws=100, generator=torch.Generator().manual_seed(0)).quantities
    found = gaussian_bounds(mean, label)
    assert exact.encoding_entropy < found.covariance
    assert exact.reverse_decoder_uncertainty < found.within_covariance
    points = torch.tensor([[0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    alone = gaussian_bounds(points, torch.arange(2))
    assert alone.within_covariance == pytest.approx(0, abs=1e-12)
    assert alone.covariance > 1


@pytest.mark.parametrize("classes", [2, 5])
def test_points_at_one_distance_have_the_closed_bound(classes):
    sd = math.sqrt(ZERO_ENTROPY_VARIANCE)
    apart = 4.0
    mean = sd * apart / math.sqrt(2) * torch.eye(classes, dtype=torch.float64)  # pairwise apart · sd
    found = gaussian_bounds(mean, torch.arange(classes))
    assert bound_of_points(np.array([apart]), classes=classes)[0] == pytest.approx(found.covariance)


def test_two_points_on_a_diagonal_have_the_closed_bound_of_variances():
    sd, apart, nodes = math.sqrt(ZERO_ENTROPY_VARIANCE), 5.0, 7
    mean = torch.stack([torch.zeros(nodes), torch.full((nodes,), apart * sd / math.sqrt(nodes))]).double()
    found = gaussian_bounds(mean, torch.arange(2))
    bound = bound_of_points(np.array([apart]), classes=2, nodes=nodes)[0]
    assert bound == pytest.approx(found.variances, abs=1e-6)
    assert found.covariance == pytest.approx(bound_of_points(np.array([apart]), classes=2)[0], abs=1e-6)
    assert bound > found.covariance + 0.5


def test_bad_input_is_named():
    mean, label = cloud()
    with pytest.raises(ValueError, match=r"variance is 0\.0"):
        gaussian_bounds(mean, label, variance=0.0)
    for bad in ({"classes": 1}, {"classes": 2, "nodes": 0}, {"classes": 3, "nodes": 4}):
        with pytest.raises(ValueError, match="expected 2 or more"):
            bound_of_points(np.ones(1), **bad)
