import numpy as np
import pytest
import torch
from pytorch_ood.detector import Mahalanobis
from scipy.spatial.distance import mahalanobis
from scipy.special import softmax
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from lpc.evaluation.reliability import (
    ClassGaussians,
    mahalanobis_confidence,
    misclassification_auroc,
    odin_confidence,
)


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


def released(latent, label, guess, test, predicted):
    """Scikit-learn's scaler and one-component mixtures, and SciPy's distance."""
    scaler = StandardScaler().fit(latent)
    train, expected = np.asarray(scaler.transform(latent)), []
    for z, c in zip(np.asarray(scaler.transform(test)), predicted, strict=True):
        mean, precision = mixture(train[(label == c) & (guess == c)])
        expected.append(-mahalanobis(z, mean, precision))
    return np.array(expected)


def mixture(member):
    fit = GaussianMixture(1, covariance_type="full", reg_covar=1e-6).fit(member)
    return np.asarray(fit.means_)[0], np.asarray(fit.precisions_)[0]


def test_mahalanobis_as_released_against_scikit_learn(data):
    expected = released(*data)
    np.testing.assert_allclose(mahalanobis_confidence(*data, convention="released"), expected, rtol=1e-9)
    paper = mahalanobis_confidence(*data)
    np.testing.assert_allclose(paper, expected, rtol=1e-4)  # at ordinary scales 1e-6 hardly shows,
    latent, label, guess, test, predicted = data
    means = np.stack([latent[(label == c) & (guess == c)].mean(axis=0) for c in range(3)])
    tight = means[label] + 1e-4 * (latent - means[label])  # in a collapsed class it decides
    near = means[predicted] + 1e-4 * (test - means[predicted])
    collapsed = (tight, label, guess, near, predicted)
    ridged = mahalanobis_confidence(*collapsed, convention="released")
    np.testing.assert_allclose(ridged, released(*collapsed), rtol=1e-7)
    np.testing.assert_allclose(mahalanobis_confidence(*collapsed), paper, rtol=1e-6)
    assert np.median(ridged / paper) < 0.5


def test_mahalanobis_as_released_has_numbers_for_small_classes_but_not_for_skipped_ones(rng):
    label = np.repeat([0, 1, 2], [100, 3, 2])
    latent = rng.standard_normal((105, 6)) + label[:, None]
    test, predicted = latent[[0, 100]] + 0.1, np.array([0, 1])
    np.testing.assert_allclose(
        mahalanobis_confidence(latent, label, label, test, predicted, convention="released"),
        released(latent, label, label, test, predicted),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match=r"class 2 has 2 well-classified training points: .* skips it"):
        mahalanobis_confidence(latent, label, label, test, np.array([0, 2]), convention="released")
    with pytest.raises(ValueError, match=r"shrinkage is 0\.1; convention='released' has none"):
        mahalanobis_confidence(latent, label, label, test, predicted, convention="released", shrinkage=0.1)


def test_gaussians_kept_for_many_batches_judge_as_a_single_call(data):
    latent, label, guess, test, predicted = data
    gaussians = ClassGaussians(latent, label, guess, shrinkage=0.2).fit([0, 2])
    assert sorted(gaussians.kept) == [0, 2]
    parts = [gaussians.confidence(test[i : i + 10], predicted[i : i + 10]) for i in range(0, 40, 10)]
    np.testing.assert_allclose(
        np.concatenate(parts), mahalanobis_confidence(*data, shrinkage=0.2), rtol=1e-12
    )
    with pytest.raises(ValueError, match="class 7 is predicted, but no"):
        gaussians.fit([7])


def shared_covariance(rng, spread):
    """Two classes of one covariance, stretched 1 : 100; wrong predictions lie off along the short axis."""
    deviation = rng.standard_normal((500, 4)) * [1, 1, 0.01, 0.01]
    mean = np.array([[0.0] * 4, [40.0, 0.0, 0.0, 0.0]])
    label = np.repeat([0, 1], 500)
    train = mean[label] + np.concatenate([deviation, deviation])
    correct = rng.random(400) < 0.5
    predicted = rng.integers(0, 2, 400)
    test = mean[predicted] + rng.standard_normal((400, 4)) * [1, 1, 0.01, 0.01]
    test[~correct, 2] += 0.15
    train, test = (spread * (value - mean.mean(axis=0)) for value in (train, test))
    return train.astype(np.float32), label, test.astype(np.float32), predicted, correct


def test_mahalanobis_of_pytorch_ood_agrees_at_ordinary_scale_and_fails_at_1e_minus_6(rng):
    areas = {}
    for spread in (1.0, 1e-6):
        train, label, test, predicted, correct = shared_covariance(np.random.default_rng(1), spread)
        own = mahalanobis_confidence(train, label, label, test, predicted)
        detector = Mahalanobis(None).fit_features(torch.from_numpy(train), torch.from_numpy(label))
        score = detector.predict_features(torch.from_numpy(test)).numpy()
        if spread == 1.0:  # it has half the square, with the scatter (1,000 points) for the covariance
            np.testing.assert_allclose(-np.sqrt(2 * 1000 * score), own, rtol=1e-3)
        areas[spread] = (
            misclassification_auroc(own, correct),
            misclassification_auroc(-score, correct),
        )
    assert areas[1.0][0] > 0.99 and areas[1.0][1] == pytest.approx(areas[1.0][0], abs=1e-4)
    assert areas[1e-6][0] == pytest.approx(areas[1.0][0], abs=1e-4)
    assert areas[1e-6][1] < 0.6  # its ridge of 1e-6 has replaced the covariance


def test_gaussian_mixtures_fail_on_raw_latents_of_spread_1e_minus_6(rng):
    train, label, test, predicted, correct = shared_covariance(rng, 1e-6)
    fits = [mixture(train[label == c].astype(float)) for c in (0, 1)]
    ridged = [-mahalanobis(z, *fits[c]) for z, c in zip(test, predicted, strict=True)]
    assert misclassification_auroc(np.array(ridged), correct) < 0.6
    assert (
        misclassification_auroc(mahalanobis_confidence(train, label, label, test, predicted), correct) > 0.99
    )


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
        ValueError, match="class 7 is predicted, but none of its training points is classified correctly"
    ):
        mahalanobis_confidence(latent, label, guess, test, np.full(40, 7))
    with pytest.raises(ValueError, match="class 0 is predicted, but no"):
        mahalanobis_confidence(latent, label, (label + 1) % 3, test, np.zeros(40, dtype=int))
    with pytest.raises(ValueError, match=r"shrinkage is 1\.5"):
        mahalanobis_confidence(*data, shrinkage=1.5)
    with pytest.raises(ValueError, match="train_latent has width 5; latent has width 4"):
        unchecked(mahalanobis_confidence)(latent, label, guess, test[:, :4], predicted)
    latent[:, 2] = 0.1
    with pytest.raises(ValueError, match=r"nodes \[2\] of train_latent are constant"):
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
