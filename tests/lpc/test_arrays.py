import numpy as np
import pytest
import torch

from lpc.arrays import (
    as_flags,
    as_float64,
    as_labels,
    as_points,
    binary_scale,
    centre,
    deviations,
    group,
    group_means,
    group_sums,
    like,
    product_sums,
    within_weights,
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_keep_their_values_in_float64(rng, dtype):
    value = rng.standard_normal((5, 3)).astype(dtype)
    for source in (value, torch.from_numpy(value.copy())):
        points = as_points(source)
        assert points.dtype == torch.float64
        assert np.array_equal(points.numpy(), value.astype(np.float64))


def test_read_only_points_are_copied(rng):
    value = rng.standard_normal((4, 2))
    value.flags.writeable = False
    as_points(value).zero_()
    assert np.abs(value).min() > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_points_are_counted_and_located(bad):
    value = np.ones((4, 3))
    value[1, 2] = value[3, 0] = bad
    with pytest.raises(
        ValueError, match=r"latent holds 2 NaN or infinite values; the first is at index \(1, 2\)"
    ):
        as_points(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(3), "shape .3,.; expected 2 dimensions"),
        (np.ones((2, 3, 4)), "expected 2 dimensions"),
        (np.ones((0, 3)), "holds no values"),
        (np.ones((2, 3), dtype=np.int64), "dtype torch.int64; expected float32 or float64"),
        (torch.ones(2, 3, dtype=torch.bfloat16), "bfloat16; expected float32 or float64"),
        (np.array([["a"]]), "expected numbers"),
    ],
)
def test_points_of_another_form_are_refused(unchecked, value, message):
    with pytest.raises(ValueError, match=message):
        unchecked(as_points)(value)


def test_lists_are_refused_by_name(unchecked):
    with pytest.raises(ValueError, match="z is a list"):
        unchecked(as_float64)([[1.0]], name="z")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros(3), "label has dtype torch.float64; expected integers"),
        (np.zeros(3, dtype=bool), "expected integers"),
        (np.zeros(4, dtype=np.int64), "label has 4 entries for 3 points"),
        (np.zeros((3, 1), dtype=np.int64), "expected 1 dimension"),
    ],
)
def test_labels_of_another_form_are_refused(label, message):
    with pytest.raises(ValueError, match=message):
        as_labels(label, torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_labels_of_every_integer_width(dtype):
    assert as_labels(np.array([2, 0], dtype=dtype), torch.zeros(2, 1)).tolist() == [2, 0]


def test_flags_must_be_boolean_and_fit():
    points = torch.zeros(2, 1)
    assert as_flags(np.array([True, False]), points, name="correct").tolist() == [True, False]
    with pytest.raises(ValueError, match=r"correct has dtype .*; expected booleans"):
        as_flags(np.array([1, 0]), points, name="correct")
    with pytest.raises(ValueError, match="for 2 points"):
        as_flags(np.array([True]), points, name="correct")


def test_like_gives_back_the_kind_that_came_in():
    value = torch.ones(2, dtype=torch.float64)
    assert isinstance(like(value, np.zeros(1)), np.ndarray)
    assert like(value, torch.zeros(1)) is value


def test_group_means_against_numpy(rng):
    z = rng.standard_normal((30, 4))
    label = rng.permutation(np.repeat([7, -2, 3], 10))
    groups = group(torch.from_numpy(label))
    assert groups.value.tolist() == [-2, 3, 7]
    mean = group_means(torch.from_numpy(z), groups).numpy()
    expected = np.stack([z[label == c].mean(axis=0) for c in (-2, 3, 7)])
    np.testing.assert_allclose(mean, expected, rtol=1e-13, atol=1e-15)
    deviation = deviations(torch.from_numpy(z), groups).numpy()
    np.testing.assert_allclose(deviation, z - expected[np.searchsorted([-2, 3, 7], label)], atol=1e-14)


def test_a_class_of_one_repeated_value_deviates_by_nothing():
    points = torch.tensor([[0.1, 1 / 3, 1e-4]], dtype=torch.float64).repeat(30_001, 1)
    assert float(deviations(points, group(torch.zeros(30_001, dtype=torch.int64))).abs().max()) < 1e-16


@pytest.mark.parametrize("sums", [group_sums, product_sums])
def test_sums_of_classes_one_of_them_empty(sums):
    points = torch.arange(18.0, dtype=torch.float64).reshape(9, 2)
    index = torch.tensor([2, 0, 0, 2, 2, 0, 2, 0, 0])
    assert sums(points, index, 4).tolist() == [[46.0, 51.0], [0.0, 0.0], [26.0, 30.0], [0.0, 0.0]]
    assert group_sums(points.to("meta"), index.to("meta"), 4).shape == (4, 2)


def test_within_weights_of_unequal_classes():
    groups = group(torch.tensor([0, 0, 1, 1, 1]))
    assert within_weights(groups, "paper").tolist() == [0.2] * 5
    assert within_weights(groups, "released").tolist() == [0.5, 0.5, 0.25, 0.25, 0.25]


def test_centre_leaves_no_offset(rng):
    z = torch.from_numpy(1e8 + rng.standard_normal((1000, 3)))
    assert float(centre(z).mean(dim=0).abs().max()) < 1e-15


@pytest.mark.parametrize("value", [1.0, 3.0, 1e-300, 1e300, -0.7])
def test_binary_scale_is_a_power_of_two_below_the_largest(value):
    scale = binary_scale(torch.tensor([value, value / 3], dtype=torch.float64))
    assert np.log2(scale) == np.round(np.log2(scale))
    assert scale <= abs(value) < 2 * scale


def test_binary_scale_of_zeros_is_one():
    assert binary_scale(torch.zeros(3, dtype=torch.float64)) == 1.0
