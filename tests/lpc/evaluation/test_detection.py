"""Out-of-distribution scores against pytorch-ood, closed forms and a negative control."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_ood.detector import KNN, RMD, EnergyBased, Mahalanobis, MaxLogit

from lpc.evaluation.detection import (
    detection,
    energy_confidence,
    mahalanobis_detection,
    maximum_logit,
    neighbour_confidence,
)

SD = np.array([1, 2, 1, 0.5, 1, 3])


@pytest.fixture
def data(rng):
    label = np.arange(400) % 4
    train = 3 * np.eye(4, 6)[label] + rng.standard_normal((400, 6)) * SD
    return train, label, rng.standard_normal((50, 6))


def test_gaussians_are_those_of_pytorch_ood(data):
    train, label, points = data
    tensors, judged = (torch.from_numpy(train).float(), torch.from_numpy(label)), torch.from_numpy(points)
    theirs = Mahalanobis(None).fit_features(*tensors).predict_features(judged.float()).numpy()
    ours = mahalanobis_detection(train, label, points).confidence
    np.testing.assert_allclose(ours, -2 * len(train) * theirs, rtol=1e-3)  # theirs: times 1 / 2N
    relative = RMD(None).fit_features(*tensors).predict_features(judged.float()).numpy()
    found = mahalanobis_detection(train, label, points, relative=True)
    np.testing.assert_array_equal(found.nearest, -ours)
    ours = found.confidence
    assert np.corrcoef(ours, -relative)[0, 1] > 0.999


def test_scores_of_logits_and_neighbours_are_those_of_pytorch_ood(data, rng):
    train, _, points = data
    logits = 5 * rng.standard_normal((30, 7))
    tensor = torch.from_numpy(logits)
    energy, largest = (kind.score(tensor).numpy() for kind in (EnergyBased, MaxLogit))
    np.testing.assert_allclose(energy_confidence(logits), -energy, rtol=1e-6)
    np.testing.assert_allclose(maximum_logit(logits), -largest, rtol=1e-6)
    detector = KNN(None, k=5).fit_features(torch.from_numpy(train), torch.zeros(len(train)).long())
    theirs = detector.predict_features(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(neighbour_confidence(train, points, k=5), -theirs, rtol=1e-4)
    plain = neighbour_confidence(1e-7 * train, 1e-7 * points, k=5, normalise=False)
    each = np.sort(np.linalg.norm(points[:, None] - train, axis=2), axis=1)[:, 4]
    np.testing.assert_allclose(plain, -1e-7 * each, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_scale_does_not_matter_where_a_ridge_would(data, scale):
    train, label, points = data
    every: list[dict[str, Any]] = [{}, {"covariance": "class"}, {"relative": True}, {"shrinkage": 0.1}]
    for options in every:
        plain = mahalanobis_detection(train, label, points, **options).confidence
        moved = mahalanobis_detection(scale * train + 1, label, scale * points + 1, **options).confidence
        np.testing.assert_allclose(moved, plain, rtol=1e-5)


def test_dead_nodes_are_refused_or_left_out_with_their_number(data, rng):
    train, label, points = data
    wide, far = np.c_[train, np.zeros(400), np.full(400, 7.0)], np.c_[points, rng.standard_normal((50, 2))]
    with pytest.raises(ValueError, match=r"2 nodes of train_latent take one value, \[6, 7\].*drop_dead=True"):
        mahalanobis_detection(wide, label, far)
    found = mahalanobis_detection(wide, label, far, drop_dead=True)
    plain = mahalanobis_detection(train, label, points).confidence
    assert found.dead == 2
    np.testing.assert_allclose(found.confidence, plain, rtol=1e-10)
    few = np.r_[np.flatnonzero(label != 3), np.flatnonzero(label == 3)[:6]]
    with pytest.raises(ValueError, match="the covariance of class 3 is singular: 6 points in 6 dim"):
        mahalanobis_detection(train[few], label[few], points, covariance="class")


def test_shifted_points_are_found_and_others_are_not(data, rng):
    train, label, _ = data
    inside = 3 * np.eye(4, 6)[label] + rng.standard_normal((400, 6)) * SD
    every: list[dict[str, Any]] = [{}, {"covariance": "class"}, {"relative": True}]
    for options, least in zip(every, (0.9, 0.9, 0.7), strict=True):
        shifted = inside + 4 * np.eye(6)[3]
        scores = [mahalanobis_detection(train, label, z, **options).confidence for z in (inside, shifted)]
        assert detection(*scores).auroc > least
        other = mahalanobis_detection(train, label, inside[::-1].copy(), **options).confidence
        assert detection(scores[0], other).auroc == pytest.approx(0.5)
    assert detection(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == (1.0, 0.0)


@pytest.mark.parametrize("number", [40, 400])  # few pairs, and too many for differences alone
@pytest.mark.parametrize("far", [[3], [39], [0, 1], [*range(30, 40)]])
@pytest.mark.parametrize("size", [1e3, 2e45, 1e100, 1e200])
def test_points_very_far_away_have_their_distance_and_leave_the_others_theirs(rng, size, far, number):
    train, points = rng.standard_normal((500, 16)), rng.standard_normal((number, 16))
    each = np.sort(np.linalg.norm(points[:, None] - train, axis=2), axis=1)[:, 4]
    points[far] *= size
    each[far] = np.sort(np.linalg.norm(points[far, None] / size - train / size, axis=2), axis=1)[:, 4] * size
    ours = neighbour_confidence(train, points, k=5, normalise=False)
    np.testing.assert_allclose(ours, -each, rtol=1e-12)


@pytest.mark.parametrize("spread", [0.3, 1e-5, 1e-9])
def test_tight_classes_keep_their_digits(rng, spread):
    label, mean = np.arange(700) % 5, rng.standard_normal((5, 32))
    train = mean[label] + spread * rng.standard_normal((700, 32))
    points = mean[label[:200]] + spread * rng.standard_normal((200, 32))
    points[::9] += 0.1
    each = np.sort(np.linalg.norm(points[:, None] - train, axis=2), axis=1)[:, 6]
    ours = neighbour_confidence(train, points, k=7, normalise=False)  # too many pairs for differences alone
    np.testing.assert_allclose(ours, -each, rtol=1e-12)
    centres = np.stack([train[label == value].mean(axis=0) for value in range(5)])
    deviation = train - centres[label]
    away = points[:, None] - centres
    solved = np.linalg.solve(deviation.T @ deviation / 700, away.reshape(-1, 32).T).T.reshape(away.shape)
    found = mahalanobis_detection(train, label, points).confidence
    np.testing.assert_allclose(found, -(away * solved).sum(axis=2).min(axis=1), rtol=5e-15 / spread + 1e-10)
