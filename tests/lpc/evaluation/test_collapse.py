import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from lpc.evaluation.collapse import (
    mean_entry,
    nearest_mean_accuracy,
    norm_coefficient_of_variation,
    rescale_to_unit_rms,
    within_between_traces,
    within_class_covariance,
)


@pytest.fixture
def unbalanced(rng):
    label = np.repeat([0, 1, 2], [10, 20, 70])
    latent = 3 * np.eye(3, 5)[label] + rng.standard_normal((100, 5)) * (1 + label[:, None])
    order = rng.permutation(100)
    return latent[order], label[order]


def test_covariance_of_the_paper_against_numpy(unbalanced):
    latent, label = unbalanced
    expected = sum(np.cov(latent[label == c].T, bias=True) * (label == c).mean() for c in range(3))
    covariance = within_class_covariance(latent, label)
    assert isinstance(covariance, np.ndarray)
    np.testing.assert_allclose(covariance, expected, rtol=1e-12, atol=1e-14)


def test_covariance_as_released_against_numpy(unbalanced):
    latent, label = unbalanced
    expected = np.mean([np.cov(latent[label == c].T) for c in range(3)], axis=0)
    covariance = within_class_covariance(latent, label, convention="released")
    np.testing.assert_allclose(covariance, expected, rtol=1e-12, atol=1e-14)
    paper = within_class_covariance(latent, label)
    assert np.trace(paper) > 1.3 * np.trace(covariance)  # the widest class is the largest: weights matter


def test_covariance_of_tensors_is_a_tensor_and_float32_is_computed_in_float64(unbalanced):
    latent, label = unbalanced
    single = torch.from_numpy(latent).float()
    covariance = within_class_covariance(single, torch.from_numpy(label))
    assert isinstance(covariance, torch.Tensor)
    assert covariance.dtype == torch.float64
    exact = within_class_covariance(single.double(), torch.from_numpy(label))
    assert torch.equal(covariance, exact)


def test_covariance_of_a_collapsed_set_on_an_offset(unbalanced):
    latent, label = unbalanced
    reference = within_class_covariance(latent, label)
    moved = within_class_covariance(latent * 1e-7 + 1.0, label)
    np.testing.assert_allclose(moved * 1e14, reference, rtol=1e-6, atol=1e-7)


def test_covariance_names_the_class_with_one_point():
    latent, label = np.eye(3), np.array([4, 9, 9])
    with pytest.raises(ValueError, match=r"classes \[4\] have one point"):
        within_class_covariance(latent, label, convention="released")
    assert within_class_covariance(latent, label).shape == (3, 3)


def test_covariance_refuses_bad_input(unchecked):
    covariance = unchecked(within_class_covariance)
    with pytest.raises(ValueError, match="convention is 'theirs'"):
        covariance(np.eye(2), np.array([0, 1]), convention="theirs")
    with pytest.raises(ValueError, match="label has 3 entries for 2 points"):
        covariance(np.eye(2), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="label has dtype"):
        covariance(np.eye(2), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="latent holds 1 NaN"):
        covariance(np.array([[np.nan, 1.0]]), np.array([0]))


def test_mean_entry_is_not_the_trace(unchecked):
    assert mean_entry(np.array([[1.0, 2.0], [2.0, 5.0]])) == 2.5
    with pytest.raises(ValueError, match="square"):
        unchecked(mean_entry)(np.ones((2, 3)))


def test_traces_in_closed_form():
    # two classes at +-(3, 4), each with deviations of +-(0, 1): within 1, between 25
    latent = np.array([[3.0, 5.0], [3.0, 3.0], [-3.0, -3.0], [-3.0, -5.0]])
    traces = within_between_traces(latent, np.array([0, 0, 1, 1]))
    assert traces == pytest.approx((1.0, 25.0, 1 / 25))


def test_traces_agree_with_the_covariance(unbalanced):
    latent, label = unbalanced
    traces = within_between_traces(latent, label)
    assert traces.within == pytest.approx(np.trace(within_class_covariance(latent, label)), rel=1e-12)
    means = np.stack([latent[label == c].mean(axis=0) for c in range(3)])
    between = ((means - latent.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert traces.between == pytest.approx(between, rel=1e-12)


def test_shrinking_is_not_collapse(unbalanced):
    latent, label = unbalanced
    reference, shrunk = within_between_traces(latent, label), within_between_traces(1e-4 * latent, label)
    assert shrunk.within == pytest.approx(1e-8 * reference.within, rel=1e-12)
    assert shrunk.ratio == pytest.approx(reference.ratio, rel=1e-12)
    means = np.stack([latent[label == c].mean(axis=0) for c in range(3)])[label]
    collapsed = within_between_traces(means + 0.1 * (latent - means), label)
    assert collapsed.ratio == pytest.approx(0.01 * reference.ratio, rel=1e-10)


def test_traces_need_classes_that_differ():
    with pytest.raises(ValueError, match="one class"):
        within_between_traces(np.eye(3), np.array([1, 1, 1]))
    with pytest.raises(ValueError, match="coincide"):
        within_between_traces(np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([0, 0, 1, 1]))


def test_coefficient_of_variation_is_of_norms_with_the_population_sd():
    # norms 5 and 13: mean 9, population sd 4
    latent = np.array([[3.0, 4.0], [-5.0, 12.0]])
    assert norm_coefficient_of_variation(latent) == pytest.approx(4 / 9, rel=1e-14)
    assert norm_coefficient_of_variation(1e-170 * latent) == pytest.approx(4 / 9, rel=1e-14)
    assert norm_coefficient_of_variation(np.array([[1.0, 0.0], [0.0, -1.0]])) == 0.0
    with pytest.raises(ValueError, match="all latents are zero"):
        norm_coefficient_of_variation(np.zeros((3, 2)))


def test_unit_rms_is_about_zero_over_points_and_nodes(rng):
    latent = 5 + rng.standard_normal((40, 6))
    rescaled = rescale_to_unit_rms(1e-6 * latent)
    assert np.mean(rescaled**2) == pytest.approx(1.0, rel=1e-13)
    np.testing.assert_allclose(rescaled, latent / np.sqrt(np.mean(latent**2)), rtol=1e-12)
    assert rescaled.mean() > 0.9
    with pytest.raises(ValueError, match="all latents are zero"):
        rescale_to_unit_rms(np.zeros((3, 2)))


def test_nearest_mean_accuracy_against_scikit_learn(rng):
    train_label, label = rng.integers(0, 5, 300) * 2, rng.integers(0, 5, 200) * 2
    centre = rng.standard_normal((9, 4))
    train = centre[train_label] + 0.8 * rng.standard_normal((300, 4))
    test = centre[label] + 0.8 * rng.standard_normal((200, 4))
    expected = NearestCentroid().fit(train, train_label).score(test, label)
    assert 0.3 < expected < 0.9
    assert nearest_mean_accuracy(train, train_label, test, label) == pytest.approx(expected, abs=1e-12)
    small = nearest_mean_accuracy(1e-7 * train + 1, train_label, 1e-7 * test + 1, label)
    assert small == pytest.approx(expected, abs=1e-12)


def test_nearest_mean_accuracy_refuses_what_it_cannot_classify(unchecked):
    train, label = np.eye(2), np.array([0, 1])
    with pytest.raises(ValueError, match=r"label holds \[2\], which no training point has"):
        nearest_mean_accuracy(train, label, train, np.array([0, 2]))
    with pytest.raises(ValueError, match="width 2 and latent has width 3"):
        unchecked(nearest_mean_accuracy)(train, label, np.eye(3), np.array([0, 1, 1]))
