"""The ceiling of boundary distances, against brute force and a network that reaches it."""

import itertools
import math

import numpy as np
import pytest
import torch

from lpc.evaluation.ceilings import boundary_ceiling, mean_ceiling
from lpc.evaluation.robustness import deepfool, relative_perturbation


def test_against_brute_force(rng):
    points, among = rng.standard_normal((20, 6)), rng.standard_normal((300, 6))
    label, among_label = rng.integers(0, 3, 20), rng.integers(0, 3, 300)
    found = boundary_ceiling(points, label, among, among_label)
    for n in range(20):
        others = np.flatnonzero(among_label != label[n])
        distance = np.linalg.norm(among[others] - points[n], axis=1)
        nearest = others[distance.argmin()]
        assert int(found.stranger[n]) == nearest
        assert float(found.distance[n]) == pytest.approx(distance.min(), rel=1e-12)
        norms = np.linalg.norm(points[n]), np.linalg.norm(among[nearest])
        assert float(found.single[n]) == pytest.approx(distance.min() / norms[0], rel=1e-12)
        assert float(found.both[n]) == pytest.approx(distance.min() / (2 * min(norms)), rel=1e-12)


def test_blocks_do_not_matter(rng, monkeypatch):
    points, among = rng.standard_normal((9, 4)), rng.standard_normal((40, 4))
    label, among_label = rng.integers(0, 2, 9), rng.integers(0, 2, 40)
    whole = boundary_ceiling(points, label, among, among_label)
    monkeypatch.setattr("lpc.evaluation.ceilings.rows_at_once", lambda columns, device: 2)
    torch.testing.assert_close(boundary_ceiling(points, label, among, among_label), whole)


def test_the_perpendicular_boundary_reaches_it_and_no_other_does():
    """Two points and the plane half-way between them; a plane that is moved or turned loses on the mean."""
    points = torch.tensor([[3.0, 1.0, 0.0], [-1.0, 2.0, 2.0]], dtype=torch.float64)
    label = torch.tensor([0, 1])
    found = boundary_ceiling(points, label, points, label)
    assert found.stranger.tolist() == [1, 0] and found.distance[0] == found.distance[1]
    middle, way = points.mean(dim=0), points[0] - points[1]
    turned = way + torch.tensor([0.0, 0.0, 1.5])

    def lengths(normal, through):
        def logits(batch):
            score = (batch.flatten(1) - through) @ normal
            return torch.stack([score, -score], dim=1)

        assert logits(points).argmax(dim=1).tolist() == [0, 1]
        image = points.reshape(2, 1, 1, 3)
        step = deepfool(logits, image, overshoot=0.0, candidates=2).perturbation
        return step.flatten(1).norm(dim=1), relative_perturbation(step, image)

    best, relative = lengths(way, middle)
    assert float(best.mean()) == pytest.approx(float(found.distance[0]) / 2, rel=1e-6)
    assert float(torch.as_tensor(relative).mean()) <= float(found.both.max()) * (1 + 1e-6)
    moved, _ = lengths(way, middle + 0.3 * way)
    assert float(moved.mean()) == pytest.approx(float(best.mean()), rel=1e-6)
    assert float(moved.max()) <= float(found.distance[0])
    assert float(lengths(turned, middle)[0].mean()) < 0.98 * float(best.mean())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"among": np.zeros((3, 2))}, "points has width 3 and among has width 2"),
        ({"points": np.zeros((2, 3))}, "points has norm 0 at index 0"),
        ({"among_label": np.zeros(3, dtype=int)}, "among_label holds one class, 0, and so does label"),
    ],
)
def test_bad_values_are_named(change, words, unchecked):
    given = {
        "points": np.ones((2, 3)),
        "label": np.array([0, 1]),
        "among": np.eye(3),
        "among_label": np.array([0, 1, 1]),
    }
    with pytest.raises(ValueError, match=words):
        unchecked(boundary_ceiling)(**{**given, **change})


def test_the_mean_is_bounded_by_the_best_assignment(rng):
    points, label = rng.standard_normal((6, 4)), np.array([0, 0, 1, 1, 2, 2])
    norms = np.linalg.norm(points, axis=1)
    cost = np.linalg.norm(points[:, None] - points[None], axis=2) / np.minimum(norms[:, None], norms)
    allowed = [
        sigma
        for sigma in itertools.permutations(range(6))
        if all(label[i] != label[j] for i, j in enumerate(sigma))
    ]
    best = min(np.mean([cost[i, j] for i, j in enumerate(sigma)]) for sigma in allowed)
    assert mean_ceiling(points, label) == pytest.approx(best / 2, rel=1e-12)
    assert 0 < len(allowed) < math.factorial(6)


def test_a_simplex_of_classes_has_the_largest_mean_ceiling_and_no_directions_have_a_larger(rng):
    classes = 10
    simplex = np.eye(classes) - 1 / classes
    label = np.repeat(np.arange(classes), 4)
    largest = math.sqrt(2 * classes / (classes - 1)) / 2
    assert mean_ceiling(simplex[label], label) == pytest.approx(largest, rel=1e-12)
    assert largest == pytest.approx(0.745, abs=5e-4)
    for _ in range(5):
        points = rng.standard_normal((40, 6))
        assert mean_ceiling(points / np.linalg.norm(points, axis=1, keepdims=True), label) < largest


def test_a_class_without_partners_is_refused():
    with pytest.raises(ValueError, match="a class has 3 of 5 points; expected at most half"):
        mean_ceiling(np.ones((5, 2)), np.array([0, 0, 0, 1, 2]))
