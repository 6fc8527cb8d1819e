import numpy as np
import pytest

from lpc.errors import Undefined
from lpc.evaluation.class_geometry import class_distance_variance, gram_distance


def test_a_simplex_has_no_gram_distance_and_doubled_means_have_that_of_their_matrix(rng):
    label = np.repeat(np.arange(5), 6)
    noise = rng.standard_normal((30, 7))
    noise -= np.stack([noise[label == c].mean(axis=0) for c in range(5)])[label]
    simplex = np.eye(5, 7)[label] + noise
    assert gram_distance(1e-7 * simplex + 1, label) == pytest.approx(0, abs=1e-7)
    line = np.array([[-1.0], [-1.0], [1.0], [1.0], [0.0], [0.0]])  # means -1, 1, 0: Gram of rank one
    expected = np.outer([-1, 1, 0], [-1, 1, 0]) / 2 - (np.eye(3) - 1 / 3) / np.sqrt(2)
    assert gram_distance(line, np.array([0, 0, 1, 1, 2, 2])) == pytest.approx(np.linalg.norm(expected))
    with pytest.raises(Undefined, match="coincide"):
        gram_distance(np.zeros((4, 2)), np.array([0, 0, 1, 1]))


def test_pairwise_variance_by_hand():
    latent = np.array([[-1.0], [1.0], [8.0], [12.0]])  # variances 1 and 4, means 0 and 10
    label = np.array([0, 0, 1, 1])
    assert class_distance_variance(latent, label) == pytest.approx(5 / 200)
    assert class_distance_variance(1e-8 * latent + 3e-8, label) == pytest.approx(5 / 200)
    with pytest.raises(Undefined, match=r"the means of classes \[0, 1\] coincide"):
        class_distance_variance(np.array([[-1.0], [1.0], [-2.0], [2.0]]), label)
    with pytest.raises(Undefined, match="each of the 2 classes has one point"):
        class_distance_variance(latent[1:3], label[1:3])
