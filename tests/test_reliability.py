import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from lpc.evaluation.reliability import mahalanobis_confidence, misclassification_auroc, odin_confidence


@pytest.fixture
def data(rng):
    label = rng.integers(0, 3, 300)
    latent = 4 * np.eye(3, 5)[label] + rng.standard_normal((300, 5)) @ rng.standard_normal((5, 5))
    guess = np.where(rng.random(300) < 0.1, (label + 1) % 3, label)
    test = rng.standard_normal((40, 5)) * 3
    return latent, label, guess, test, rng.integers(0, 3, 40)


def test_mahalanobis_against_scipy(data):
    latent, label, guess, test, predicted = data
    expected = []
    for z, c in zip(test, predicted, strict=True):
        member = latent[(label == c) & (guess == c)]
        expected.append(-mahalanobis(z, member.mean(axis=0), np.linalg.inv(np.cov(member.T, bias=True))))
    confidence = mahalanobis_confidence(*data)
    np.testing.assert_allclose(confidence, expected, rtol=1e-9)
    misfit = latent[label == predicted[0]]  # control: badly classified points would change the Gaussian
    other = -mahalanobis(test[0], misfit.mean(axis=0), np.linalg.inv(np.cov(misfit.T, bias=True)))
    assert abs(confidence[0] - other) > 1e-3


def test_mahalanobis_is_invariant_to_scale_and_offset(data):
    latent, label, guess, test, predicted = data
    base = mahalanobis_confidence(*data)
    scale = np.array([1e-7, 1e-3, 1e-7, 1.0, 10.0])
    moved = mahalanobis_confidence(latent * scale + 1, label, guess, test * scale + 1, predicted)
    np.testing.assert_allclose(moved, base, rtol=1e-6)


def test_mahalanobis_of_a_collapsed_class(data):
    latent, label, guess, test, predicted = data
    means = np.stack([latent[(label == c) & (guess == c)].mean(axis=0) for c in range(3)])
    tight = means[label] + 1e-8 * (latent - means[label])
    near = means[predicted] + 1e-8 * (test - means[predicted])
    np.testing.assert_allclose(
        mahalanobis_confidence(tight, label, guess, near, predicted), mahalanobis_confidence(*data), rtol=1e-5
    )


def test_mahalanobis_of_tensors(data):
    single = tuple(torch.from_numpy(value) for value in data)
    confidence = mahalanobis_confidence(single[0].float(), single[1], single[2], single[3].float(), single[4])
    assert isinstance(confidence, torch.Tensor)
    assert confidence.dtype == torch.float64
    np.testing.assert_allclose(confidence.numpy(), mahalanobis_confidence(*data), rtol=1e-4)


def test_shrinkage_against_the_definition(data):
    latent, label, guess, test, predicted = data
    scale = latent.std(axis=0)
    for shrinkage in (0.1, 1.0):
        confidence = mahalanobis_confidence(*data, shrinkage=shrinkage)
        for n in range(5):
            member = latent[(label == predicted[n]) & (guess == predicted[n])] / scale
            covariance = np.cov(member.T, bias=True)
            covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 5 * np.eye(5)
            expected = -mahalanobis(test[n] / scale, member.mean(axis=0), np.linalg.inv(covariance))
            assert confidence[n] == pytest.approx(expected, rel=1e-9)


def test_singular_covariance_names_the_class(rng):
    label = np.repeat([0, 1], [100, 20])
    latent = rng.standard_normal((120, 30)) + label[:, None]
    zero, one = np.zeros(5, dtype=int), np.ones(5, dtype=int)
    assert np.isfinite(mahalanobis_confidence(latent, label, label, latent[:5], zero)).all()
    with pytest.raises(ValueError, match="class 1 is singular: 20 well-classified training points in 30 dim"):
        mahalanobis_confidence(latent, label, label, latent[:5], one)
    assert np.isfinite(mahalanobis_confidence(latent, label, label, latent[:5], one, shrinkage=0.1)).all()
    latent[label == 0, 3] = 2 * latent[label == 0, 1] - latent[label == 0, 2]  # linearly dependent
    with pytest.raises(ValueError, match="class 0 is singular: 100"):
        mahalanobis_confidence(latent, label, label, latent[:5], zero)
    latent[label == 0, 3] = 7.0  # one value within the class
    with pytest.raises(ValueError, match="class 0 is singular"):
        mahalanobis_confidence(latent, label, label, latent[:5], zero)
    latent[label == 0] = 7.0
    with pytest.raises(ValueError, match="class 0 is singular"):
        mahalanobis_confidence(latent, label, label, latent[:5], zero, shrinkage=0.5)


def test_mahalanobis_refuses_what_it_cannot_judge(data, unchecked):
    latent, label, guess, test, predicted = data
    with pytest.raises(
        ValueError, match="class 7 is predicted, but no training point of it is well classified"
    ):
        mahalanobis_confidence(latent, label, guess, test, np.full(40, 7))
    with pytest.raises(ValueError, match="class 0 is predicted, but no"):
        mahalanobis_confidence(latent, label, (label + 1) % 3, test, np.zeros(40, dtype=int))
    with pytest.raises(ValueError, match=r"shrinkage is 1\.5"):
        mahalanobis_confidence(*data, shrinkage=1.5)
    with pytest.raises(ValueError, match="train_latent has width 5; latent has width 4"):
        unchecked(mahalanobis_confidence)(latent, label, guess, test[:, :4], predicted)
    latent[:, 2] = 0.1
    with pytest.raises(ValueError, match=r"nodes \[2\] of train_latent take one value"):
        mahalanobis_confidence(latent, label, guess, test, predicted)


def test_odin_of_the_paper_and_as_released(rng):
    logits = 50 * rng.standard_normal((20, 7))
    np.testing.assert_allclose(odin_confidence(logits), softmax(logits / 100, axis=1).max(axis=1), rtol=1e-13)
    released = odin_confidence(torch.from_numpy(logits), convention="released")
    assert isinstance(released, torch.Tensor)
    twice = np.exp(softmax(logits, axis=1) / 100)
    np.testing.assert_allclose(
        released.numpy(), (twice / twice.sum(axis=1, keepdims=True)).max(axis=1), rtol=1e-13
    )
    np.testing.assert_allclose(odin_confidence(logits, temperature=1.0), softmax(logits, axis=1).max(axis=1))


def test_odin_in_closed_form_and_its_limits(unchecked):
    logits = np.array([[np.log(3.0), 0.0], [1e5, -1e5]])
    np.testing.assert_allclose(odin_confidence(logits, temperature=1.0), [0.75, 1.0], rtol=1e-15)
    with pytest.raises(ValueError, match="temperature is 0"):
        odin_confidence(logits, temperature=0.0)
    with pytest.raises(ValueError, match="2 or more classes"):
        odin_confidence(logits[:, :1])
    with pytest.raises(ValueError, match="convention is 'ours'"):
        unchecked(odin_confidence)(logits, convention="ours")


@pytest.mark.parametrize("levels", [3, 10**9])
def test_auroc_against_scikit_learn_also_with_ties(rng, levels):
    correct = rng.random(500) < 0.8
    confidence = np.floor(levels * (0.2 * correct + rng.random(500))) / levels
    value = misclassification_auroc(confidence, correct)
    assert value == pytest.approx(roc_auc_score(correct, confidence), rel=1e-13)
    assert 0.55 < value < 0.9
    assert misclassification_auroc(-confidence, correct) == pytest.approx(1 - value, rel=1e-12)
    tensor = misclassification_auroc(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert tensor == value


def test_auroc_by_hand_and_its_negative_control(rng):
    assert (
        misclassification_auroc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
        == 3.5 / 4
    )
    assert misclassification_auroc(np.array([1.0, 0.0]), np.array([True, False])) == 1.0
    assert misclassification_auroc(rng.random(4000), rng.random(4000) < 0.5) == pytest.approx(0.5, abs=0.03)


def test_auroc_refuses_what_ranks_nothing(unchecked):
    confidence = np.array([0.1, 0.2])
    with pytest.raises(ValueError, match="2 predictions are right and 0 wrong"):
        misclassification_auroc(confidence, np.array([True, True]))
    with pytest.raises(ValueError, match=r"every confidence is 0\.5: it ranks nothing"):
        misclassification_auroc(np.array([0.5, 0.5]), np.array([True, False]))
    with pytest.raises(ValueError, match="confidence holds 1 NaN"):
        misclassification_auroc(np.array([np.nan, 0.5]), np.array([True, False]))
    with pytest.raises(ValueError, match="expected booleans"):
        unchecked(misclassification_auroc)(confidence, np.array([1, 0]))
