import pickle

import numpy as np
import pytest
import torch

from lpc.evaluation.class_moments import ClassMoments
from lpc.evaluation.collapse import within_between_traces, within_class_covariance
from lpc.evaluation.neural_collapse import neural_collapse

CONVENTIONS = ("paper", "released")


def sample(rng, classes=5, width=8, points=1200, spread=0.5):
    """Unbalanced classes, of different spread, far from the origin."""
    label = rng.choice(classes, size=points, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    noise = rng.standard_normal((points, width)) * (1 + label[:, None])
    return rng.standard_normal((classes, width))[label] + 2 + spread * noise, label


def streamed(rng, latent, label, *, batches=40, classes=5, **options):
    moments = ClassMoments(classes=classes, **options)
    for part in cut(rng, len(latent), batches):
        moments.update(latent[part], label[part])
    return moments


def cut(rng, points, batches):
    """Cut the points, in a random order, into batches of random sizes."""
    ends = np.sort(rng.choice(np.arange(1, points), batches - 1, replace=False))
    return np.split(rng.permutation(points), ends)


def assert_same(result, expected, *, rel=1e-12, but=()):
    for name, value in expected._asdict().items():
        if value is None:
            assert getattr(result, name) is None, name
        elif name not in but:
            assert getattr(result, name) == pytest.approx(value, rel=rel), name


@pytest.mark.parametrize(("convention", "divisor"), [("paper", None), ("released", 1)])
def test_against_the_pseudo_inverse(rng, convention, divisor):
    latent, label = sample(rng, classes=4, width=16)
    parts = [latent[label == c] for c in range(4)]
    means = np.stack([part.mean(axis=0) for part in parts]) - latent.mean(axis=0)
    if divisor is None:
        within = sum((part - part.mean(axis=0)).T @ (part - part.mean(axis=0)) for part in parts) / len(
            latent
        )
    else:
        within = sum(np.cov(part.T) for part in parts) / 4
    inverse = np.linalg.pinv(means.T @ means / 4, rcond=1e-12, hermitian=True)
    moments = streamed(rng, latent, label, classes=4, convention=convention)
    result = moments.neural_collapse()
    assert result.nc1 == pytest.approx(np.trace(within @ inverse) / 4, rel=1e-10)
    assert result.nc1_per_rank == pytest.approx(result.nc1 / 3, rel=1e-14)
    assert result.trace_ratio == pytest.approx(4 * np.trace(within) / (means**2).sum(), rel=1e-12)
    np.testing.assert_allclose(moments.within_class_covariance().numpy(), within, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("batches", [1, 7, 1200])
def test_equals_the_one_shot_measures(rng, convention, batches):
    latent, label = sample(rng)
    weight, bias = rng.standard_normal((5, 8)), rng.standard_normal(5)
    moments = streamed(rng, latent, label, batches=batches, convention=convention)
    expected = neural_collapse(
        latent, label, convention=convention, classifier_weight=weight, classifier_bias=bias
    )
    result = moments.neural_collapse(classifier_weight=weight, classifier_bias=bias)
    assert result.nc4 is None
    wrong = sum(
        moments.disagreements(latent[part], classifier_weight=weight, classifier_bias=bias)
        for part in cut(rng, len(latent), 9)
    )
    assert_same(result._replace(nc4=wrong / moments.points), expected)
    assert_same(moments.within_between_traces(), within_between_traces(latent, label))
    covariance = within_class_covariance(latent, label, convention=convention)
    np.testing.assert_allclose(moments.within_class_covariance().numpy(), covariance, rtol=1e-12, atol=1e-13)


def test_conventions_differ_where_classes_are_unbalanced(rng):
    latent, label = sample(rng)
    latent[label == 0] = 2 + 30 * (latent[label == 0] - 2)  # the rarest class is the widest
    paper, released = (streamed(rng, latent, label, convention=c).neural_collapse() for c in CONVENTIONS)
    assert released.nc1 > 1.5 * paper.nc1
    assert released.equinorm == pytest.approx(paper.equinorm, rel=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_tiny_spread_about_an_offset_of_one(rng, convention):
    latent, label = sample(rng)
    moved = 1 + 1e-7 * latent
    moments = streamed(rng, moved, label, batches=400, convention=convention)
    assert_same(moments.neural_collapse(), neural_collapse(moved, label, convention=convention))
    assert moments.neural_collapse().nc1 == pytest.approx(
        neural_collapse(latent, label, convention=convention).nc1, rel=1e-9
    )
    assert moments.within_between_traces().within == pytest.approx(
        1e-14 * within_between_traces(latent, label).within, rel=1e-9
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_classes_that_have_collapsed_to_points_far_apart(rng, convention):
    latent, label = sample(rng)
    centre = 1 + rng.standard_normal((5, 8))
    tight = centre[label] + 1e-7 * latent
    moments = streamed(rng, tight, label, batches=400, convention=convention)
    assert_same(moments.neural_collapse(), neural_collapse(tight, label, convention=convention), rel=1e-9)
    np.testing.assert_allclose(
        moments.within_class_covariance().numpy(),
        1e-14 * within_class_covariance(latent, label, convention=convention),
        rtol=1e-6,
        atol=1e-20,
    )


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_extreme_scales(rng, scale):
    latent, label = sample(rng)
    moments = streamed(rng, latent * scale, label)
    assert_same(moments.neural_collapse(), neural_collapse(latent, label))
    assert moments.within_between_traces().within == pytest.approx(
        scale**2 * within_between_traces(latent, label).within, rel=1e-12
    )


def test_float32_batches_are_exact(rng):
    latent, label = sample(rng)
    single = torch.from_numpy(latent).float()
    moments = ClassMoments(classes=5)
    for part, index in zip(single.split(100), torch.from_numpy(label).split(100), strict=True):
        moments.update(part, index)
    assert moments.sums.scatter.dtype == torch.float64
    assert_same(moments.neural_collapse(), neural_collapse(single, torch.from_numpy(label)))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_merging_is_associative_and_leaves_the_other_alone(rng, convention):
    latent, label = sample(rng)
    order = np.argsort(label, kind="stable")  # no worker has all the classes
    parts = [streamed(rng, latent[p], label[p], convention=convention) for p in np.split(order, [100, 700])]
    left, right = ClassMoments(classes=5, convention=convention), pickle.loads(pickle.dumps(parts[1]))
    for part in parts:
        left.merge(part)
    right.merge(parts[2])
    both = pickle.loads(pickle.dumps(parts[0]))
    both.merge(right)
    both.merge(ClassMoments(classes=5, convention=convention))  # of no points: changes nothing
    assert left.sums.count.tolist() == both.sums.count.tolist() == np.bincount(label).tolist()
    assert parts[0].points == 100
    assert_same(left.neural_collapse(), both.neural_collapse())
    assert_same(left.neural_collapse(), neural_collapse(latent, label, convention=convention))


def test_gaussian_clusters_about_a_simplex(rng):
    # Sb has K - 1 eigenvalues r^2 / (K - 1): noise of variance s^2 gives NC1 = s^2 (K - 1)^2 / (K r^2)
    classes, width, spread, radius, each = 6, 12, 0.3, 2.0, 5000
    basis, _ = np.linalg.qr(rng.standard_normal((width, classes)))
    simplex = (np.eye(classes) - 1 / classes) @ basis.T * radius / np.sqrt(1 - 1 / classes)
    label = np.repeat(np.arange(classes), each)
    exact = streamed(rng, simplex[label] + 4, label, classes=6).neural_collapse(classifier_weight=simplex)
    for name in ("nc1", "trace_ratio", "equinorm", "equiangularity", "max_angle", "nc3"):
        assert getattr(exact, name) == pytest.approx(0, abs=1e-12), name
    noisy = simplex[label] + spread * rng.standard_normal((len(label), width))
    result = streamed(rng, noisy, label, classes=6).neural_collapse()
    assert result.nc1 == pytest.approx(spread**2 * (classes - 1) ** 2 / (classes * radius**2), rel=0.03)
    assert result.trace_ratio == pytest.approx(spread**2 * width / radius**2, rel=0.03)


def test_random_labels_have_not_collapsed(rng):
    # class means then differ by chance alone: tr Sb = tr Sw (K - 1) / N
    latent, label = rng.standard_normal((1200, 400)), np.arange(1200) % 4
    ratio = streamed(rng, latent, label, classes=4).neural_collapse().trace_ratio
    assert ratio == pytest.approx(1200 / 3, rel=0.1)


@pytest.mark.filterwarnings("ignore:classes .* have no point")
def test_classes_never_seen_are_left_out(rng):
    latent, label = sample(rng)
    label = np.array([1, 2, 4, 7, 9])[label]
    weight = rng.standard_normal((12, 8))
    moments = streamed(rng, latent, label, classes=12)
    expected = neural_collapse(latent, label, classifier_weight=weight)
    assert_same(moments.neural_collapse(classifier_weight=weight), expected, but=("nc4",))
    assert set(moments.nearest_mean(latent).tolist()) <= {1, 2, 4, 7, 9}


def test_nearest_mean_is_of_the_final_means():
    moments = ClassMoments(classes=2)
    first = np.array([[0.0], [10.0]])
    moments.update(first, np.array([0, 1]))
    assert moments.nearest_mean(np.array([[4.0]])).tolist() == [0]
    moments.update(np.array([[-8.0]]), np.array([0]))  # the mean of class 0 moves to -4
    assert moments.nearest_mean(np.array([[4.0]])).tolist() == [1]
    weight, bias = np.array([[-1.0], [1.0]]), np.array([10.0, -10.0])  # decides for 1 above 10
    assert moments.disagreements(first - 1, classifier_weight=weight, classifier_bias=bias) == 1


def test_bounded_memory_is_refused_beyond_the_limit():
    with pytest.raises(ValueError, match=r"need 3355443200 bytes .* max_bytes is 1073741824"):
        ClassMoments(classes=100, width=2048, convention="released")
    assert ClassMoments(classes=100, width=2048).sums.scatter.shape == (1, 2048, 2048)
    moments = ClassMoments(classes=3, convention="released", max_bytes=8 * 3 * 4 - 1)
    with pytest.raises(ValueError, match="need 96 bytes"):
        moments.update(np.ones((1, 2)), np.zeros(1, dtype=int))


def refused(latent, label, message, moments, unchecked):
    """Assert that a batch is refused and that nothing is lost by it."""
    before, points = [state.clone() for state in moments.sums], moments.points
    with pytest.raises(ValueError, match=message):
        unchecked(ClassMoments.update)(moments, latent, label)
    assert moments.points == points
    assert all(torch.equal(old, new) for old, new in zip(before, moments.sums, strict=True))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_bad_batch_changes_nothing(rng, unchecked, convention):
    latent, label = sample(rng)
    moments = streamed(rng, latent, label, convention=convention)
    bad = latent[:10].copy()
    bad[3, 1] = np.nan
    refused(bad, label[:10], r"1 NaN or infinite values; the first is at index \(3, 1\)", moments, unchecked)
    refused(latent[:10, :5], label[:10], "width 8; these have width 5", moments, unchecked)
    refused(latent[:2], np.array([0, 5]), "labels go from 0 to 5; expected 0 to 4", moments, unchecked)
    refused(latent[:2], np.array([-1, 4]), "labels go from -1 to 4; expected 0 to 4", moments, unchecked)
    refused(latent[:2] * 1e140, label[:2], "largest entry of latent is", moments, unchecked)
    refused(latent[:2] * 1e-140, label[:2], "largest entry of latent is", moments, unchecked)
    refused(latent[:2], label[:3], "3 entries for 2 points", moments, unchecked)
    refused(torch.zeros(2, 8, dtype=torch.bfloat16), label[:2], "expected float32", moments, unchecked)
    elsewhere = ClassMoments(classes=5, width=8, convention=convention, device="meta")
    with pytest.raises(ValueError, match="the sums are on meta and latent on cpu"):
        elsewhere.update(latent, label)
    assert_same(moments.neural_collapse(), neural_collapse(latent, label, convention=convention))


@pytest.mark.filterwarnings("ignore:classes .* have one point")
def test_what_is_undefined_is_refused(rng):
    with pytest.raises(ValueError, match="classes is 1; expected 2"):
        ClassMoments(classes=1)
    with pytest.raises(ValueError, match="width is 0"):
        ClassMoments(classes=2, width=0)
    with pytest.raises(ValueError, match="no points yet"):
        ClassMoments(classes=2).neural_collapse()
    moments = ClassMoments(classes=3)
    moments.update(np.array([[0.1], [0.1]]), np.array([2, 2]))
    for measure in (moments.neural_collapse, moments.within_between_traces):
        with pytest.raises(ValueError, match=r"one class, \[2\]"):
            measure()
    moments.update(np.array([[0.0], [0.2], [0.0], [0.2]]), np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"classes \[2\] lie at the global mean"):
        moments.neural_collapse()
    with pytest.raises(ValueError, match="without classifier_weight"):
        streamed(rng, *sample(rng)).neural_collapse(classifier_bias=np.ones(5))
    latent, label = sample(rng)
    label[label == 3] = 4
    label[0] = 3
    single = streamed(rng, latent, label, convention="released")
    with pytest.raises(ValueError, match=r"classes \[3\] have one point each"):
        single.neural_collapse()
    for name, other in (
        ("classes", ClassMoments(classes=4)),
        ("convention", ClassMoments(classes=5)),
        ("width 8; these have width 3", streamed(rng, latent[:, :3], label, convention="released")),
    ):
        with pytest.raises(ValueError, match=name):
            single.merge(other)
    assert single.points == 1200
