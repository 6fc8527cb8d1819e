import numpy as np
import pytest
import torch

from lpc.arrays import BLOCK
from lpc.errors import Undefined
from lpc.evaluation.class_moments import ClassMoments
from lpc.evaluation.collapse import within_between_traces
from lpc.evaluation.neural_collapse import neural_collapse


def reference(latent, label, convention):
    """Neural collapse written out from the definitions, with numpy's matrices."""
    values = np.unique(label)
    classes, width = len(values), latent.shape[1]
    means = np.stack([latent[label == c].mean(axis=0) for c in values]) - latent.mean(axis=0)
    parts = [latent[label == c] for c in values]
    if convention == "paper":
        within = sum(np.cov(part.T, bias=True) * len(part) for part in parts) / len(latent)
    else:
        within = sum(np.cov(part.T) for part in parts) / classes
    between = means.T @ means / classes
    inverse = np.linalg.pinv(between, rcond=max(classes, width) * np.finfo(float).eps, hermitian=True)
    norm = np.linalg.norm(means, axis=1)
    cosine = (means / norm[:, None]) @ (means / norm[:, None]).T
    pairs = cosine[np.triu_indices(classes, 1)]
    nc1 = np.trace(within @ inverse) / classes
    return {
        "nc1": nc1,
        "nc1_per_node": nc1 / width,
        "nc1_per_rank": nc1 / min(width, classes - 1),
        "trace_ratio": np.trace(within) / np.trace(between),
        "equinorm": norm.std() / norm.mean(),
        "equiangularity": pairs.std(),
        "max_angle": np.abs(pairs + 1 / (classes - 1)).mean(),
    }


def sample(rng, classes, width, *, spread=0.5, points=1200):
    label = rng.choice(classes, size=points, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    centre = rng.standard_normal((classes, width)) + 2
    return centre[label] + spread * rng.standard_normal((points, width)), label


@pytest.mark.parametrize("convention", ["paper", "released"])
@pytest.mark.parametrize(("classes", "width"), [(4, 3), (4, 16), (6, 2)])
def test_against_the_definitions(rng, convention, classes, width):
    latent, label = sample(rng, classes, width)
    result = neural_collapse(latent, label, convention=convention)
    for name, value in reference(latent, label, convention).items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-9), name
    assert result.nc3 is None
    assert result.nc4 is None


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_more_points_than_are_worked_on_at_once(rng, convention):
    latent, label = sample(rng, 4, 5, points=2 * BLOCK + 7)
    order = np.argsort(label)  # the blocks hold different classes
    weight = rng.standard_normal((4, 5))
    result = neural_collapse(latent[order], label[order], convention=convention, classifier_weight=weight)
    for name, value in reference(latent, label, convention).items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-9), name
    means = np.stack([latent[label == c].mean(axis=0) for c in range(4)])
    nearest = ((latent[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert result.nc4 == ((latent @ weight.T).argmax(axis=1) != nearest).mean()


def test_conventions_differ_on_unbalanced_classes(rng):
    latent, label = sample(rng, 4, 3)
    latent[label == 0] = 5 + 10 * (latent[label == 0] - 5)  # the smallest class is the widest
    paper = neural_collapse(latent, label)
    released = neural_collapse(latent, label, convention="released")
    assert released.nc1 > 1.5 * paper.nc1
    assert released.equinorm == paper.equinorm


def test_invariant_to_scale_and_offset(rng):
    latent, label = sample(rng, 5, 8)
    base, moved = neural_collapse(latent, label), neural_collapse(latent * 1e-7 + 1, label)
    for name in (
        "nc1",
        "nc1_per_node",
        "nc1_per_rank",
        "trace_ratio",
        "equinorm",
        "equiangularity",
        "max_angle",
    ):
        assert getattr(moved, name) == pytest.approx(getattr(base, name), rel=1e-9), name


def test_within_scales_with_the_square_of_the_spread(rng):
    latent, label = sample(rng, 5, 8)
    means = np.stack([latent[label == c].mean(axis=0) for c in range(5)])[label]
    base = neural_collapse(latent, label)
    tight = neural_collapse(means + 1e-7 * (latent - means), label)
    assert tight.nc1 == pytest.approx(1e-14 * base.nc1, rel=1e-6)
    assert tight.trace_ratio == pytest.approx(1e-14 * base.trace_ratio, rel=1e-6)


def test_simplex_is_collapsed_and_random_means_are_not(rng):
    classes, width = 6, 10
    basis, _ = np.linalg.qr(rng.standard_normal((width, classes)))
    simplex = ((np.eye(classes) - 1 / classes) @ basis.T)[np.repeat(np.arange(classes), 20)]
    label = np.repeat(np.arange(classes), 20)
    weight = 3.7 * simplex[::20]
    result = neural_collapse(
        0.01 * simplex + 4, label, classifier_weight=weight, classifier_bias=-4 * weight.sum(axis=1)
    )
    for name in ("nc1", "trace_ratio", "equinorm", "equiangularity", "max_angle", "nc3", "nc4"):
        assert getattr(result, name) == pytest.approx(0, abs=1e-10), name
    latent, label = sample(rng, 6, 10)
    control = neural_collapse(latent, label, classifier_weight=rng.standard_normal((6, 10)))
    assert control.equinorm > 0.05
    assert control.equiangularity > 0.1
    assert control.max_angle > 0.1
    assert control.nc3 is not None
    assert control.nc3 > 0.5
    assert control.nc4 is not None
    assert control.nc4 > 0.3


def test_nc3_is_the_squared_distance_of_directions():
    latent = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    label = np.array([0, 1, 0, 1])
    for angle in (0.0, 0.3, np.pi / 2, np.pi):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        result = neural_collapse(latent, label, classifier_weight=5 * latent[:2] @ turn)
        assert result.nc3 == pytest.approx(2 - 2 * np.cos(angle), abs=1e-14)


def test_nc4_counts_disagreement_with_the_nearest_mean():
    # class means 0 and 10; the classifier's threshold is at 8, so 6 and 7 differ from the nearest mean
    latent = np.array([[-1.0], [1.0], [-6.0], [6.0], [7.0], [13.0], [9.0], [11.0]])
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert latent[label == 0].mean() == 0
    assert latent[label == 1].mean() == 10
    weight, bias = np.array([[-1.0], [1.0]]), np.array([8.0, -8.0])
    result = neural_collapse(latent, label, classifier_weight=weight, classifier_bias=bias)
    assert result.nc4 == 2 / 8
    assert neural_collapse(latent, label, classifier_weight=weight, classifier_bias=bias * 5 / 8).nc4 == 0.0


def test_rank_of_the_class_means_bounds_the_inverse(rng):
    # width above classes - 1: a direction without class means must not be inverted
    latent, label = sample(rng, 3, 40, points=90)
    result = neural_collapse(latent, label)
    assert result.nc1 == pytest.approx(reference(latent, label, "paper")["nc1"], rel=1e-9)
    assert result.nc1_per_rank == pytest.approx(20 * result.nc1_per_node)


def test_tensors_and_float32(rng):
    latent, label = sample(rng, 4, 3)
    single = torch.from_numpy(latent).float()
    assert neural_collapse(single, torch.from_numpy(label)) == neural_collapse(single.double().numpy(), label)


def test_what_is_undefined_is_refused(unchecked):
    latent, label = np.array([[0.1], [0.0], [0.2]] * 2), np.array([0, 1, 2] * 2)
    with pytest.raises(ValueError, match=r"classes \[0\] lie at the global mean"):
        neural_collapse(latent, label)
    with pytest.raises(ValueError, match="one class"):
        neural_collapse(latent, np.zeros(6, dtype=int))
    corners = np.tile(np.eye(3), (2, 1))
    with pytest.raises(ValueError, match="without classifier_weight"):
        neural_collapse(corners, label, classifier_bias=np.ones(3))
    with pytest.raises(ValueError, match="labels go from 0 to 2; the classifier has rows 0 to 1"):
        neural_collapse(corners, label, classifier_weight=np.ones((2, 3)))
    with pytest.raises(ValueError, match="zero for every class"):
        neural_collapse(corners, label, classifier_weight=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="width 2; latent has width 3"):
        unchecked(neural_collapse)(corners, label, classifier_weight=np.ones((3, 2)))
    with pytest.raises(ValueError, match="classifier_bias has 4 entries"):
        unchecked(neural_collapse)(corners, label, classifier_weight=np.eye(3), classifier_bias=np.ones(4))


def test_one_point_a_class_is_no_collapse_and_few_points_are_named(rng):
    for measure in (neural_collapse, within_between_traces):
        with pytest.raises(Undefined, match="each of the 5 classes has one point"):
            measure(np.eye(5), np.arange(5))
    moments = ClassMoments(classes=5)
    moments.update(np.eye(5), np.arange(5))
    with pytest.raises(Undefined, match="each of the 5 classes has one point"):
        moments.neural_collapse()
    latent, label = rng.standard_normal((9, 3)), np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    with pytest.warns(UserWarning, match=r"classes \[3\] have one point"):
        neural_collapse(latent, label)
    with pytest.warns(UserWarning, match=r"classes \[3, 4\] have no point"):
        neural_collapse(latent[:8], label[:8], classifier_weight=rng.standard_normal((5, 3)))
