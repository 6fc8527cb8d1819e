import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from lpc.arrays import (
    _has_float64,
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
    measuring_device,
    product_sums,
    within_weights,
)
from lpc.evaluation.class_margins import summary
from lpc.evaluation.collapse import norm_coefficient_of_variation, within_class_covariance
from lpc.evaluation.neural_collapse import neural_collapse


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


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0]], r"z is a list; .*pass np\.asarray\(z\)"),
        (pd.DataFrame({"a": [1.0]}), r"z is a DataFrame; .*pass z\.to_numpy\(\)"),
        (scipy.sparse.csr_array(np.eye(2)), r"z is a csr_array; .*pass z\.toarray\(\)"),
        (np.ma.masked_invalid([[1.0, np.nan]]), "z is a masked array, with 1 of 2 entries masked"),
        (np.ma.masked_array(np.eye(2)), "z is a masked array, with 0 of 4 entries masked"),
        (torch.eye(2).to_sparse(), r"z is a sparse tensor .*pass z\.to_dense\(\)"),
        (torch.eye(2, device="meta"), "z is on the device meta"),
        (torch.eye(2).half(), r"z has dtype torch\.float16; expected float32 or float64; pass z\.float\(\)"),
        (np.eye(2, dtype=np.float16), r"z has dtype torch\.float16"),
        (np.eye(2).astype(complex), r"z has dtype torch\.complex128"),
        (np.eye(2).astype(object), "z has dtype object; expected numbers"),
        (None, "z is a NoneType; expected a numpy array"),
    ],
)
def test_what_is_no_plain_array_is_refused_by_name(value, message):
    with pytest.raises(ValueError, match=message):
        as_float64(value, name="z")


@pytest.mark.usefixtures("unhooked")
def test_masks_are_never_dropped():
    latent = np.random.default_rng(0).standard_normal((40, 2))
    latent[0] = 1e6
    masked = np.ma.masked_greater(latent, 1e5)
    with pytest.raises(ValueError, match="latent is a masked array, with 2 of 80"):
        norm_coefficient_of_variation(masked)
    with pytest.raises(ValueError, match="margin is a masked array, with 1 of 2"):
        summary(np.ma.masked_array([1.0, 2.0], mask=[False, True]))
    with pytest.warns(UserWarning, match="prototype"):
        tensor = torch.masked.masked_tensor(torch.eye(2), torch.eye(2) > 0)
    with pytest.raises(ValueError, match="latent is a masked tensor"):
        as_points(tensor)


def test_arrays_of_any_strides_and_byte_order(rng):
    value = rng.standard_normal((6, 4))
    backwards, swapped = value[::-1, ::2], value.astype(value.dtype.newbyteorder(">"))
    assert np.array_equal(as_points(backwards).numpy(), backwards)
    assert np.array_equal(as_points(swapped).numpy(), value)
    assert np.array_equal(as_points(torch.from_numpy(value).T).numpy(), value.T)
    expanded = torch.ones(1, 3).expand(5, 3)
    assert torch.equal(as_points(expanded), torch.ones(5, 3, dtype=torch.float64))
    negated = torch.complex(torch.zeros(2, 2), torch.ones(2, 2)).conj().imag
    assert torch.equal(as_points(negated), -torch.ones(2, 2, dtype=torch.float64))
    assert as_float64(np.array(3.0), name="z").shape == ()


def test_longdouble_is_taken_where_float64_holds_it():
    assert torch.equal(as_points(np.eye(2, dtype=np.longdouble)), torch.eye(2, dtype=torch.float64))
    if np.finfo(np.longdouble).eps < np.finfo(np.float64).eps:
        with pytest.raises(ValueError, match=r"latent has dtype .* with digits that float64 does not hold"):
            as_points(np.eye(2, dtype=np.longdouble) / 3)


class LikeMps(torch.Tensor):
    """A tensor that says it is on Apple's GPU, and as there refuses float64."""

    @property
    def device(self):  # type: ignore[override]
        return torch.device("mps")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if any(value is torch.float64 for value in (*args, *(kwargs or {}).values())):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_devices_without_float64_are_measured_on_the_cpu_and_that_is_said_once():
    _has_float64.cache_clear()
    latent, label = torch.randn(40, 3), torch.arange(40) % 4
    with pytest.warns(UserWarning, match="mps has no float64: latents there are measured on the CPU"):
        found = neural_collapse(latent.as_subclass(LikeMps), label)
    again = within_class_covariance(latent.as_subclass(LikeMps), label.as_subclass(LikeMps))  # not again
    assert found == neural_collapse(latent, label)
    assert torch.equal(again, within_class_covariance(latent, label))
    assert measuring_device(torch.device("cuda")).type == "cuda"
    _has_float64.cache_clear()


def test_labels_that_int64_cannot_hold():
    assert as_labels(np.array([2, 0], dtype=np.uint64), torch.zeros(2, 1)).tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"label holds values of 2\*\*63 or more"):
        as_labels(np.array([2**63, 0], dtype=np.uint64), torch.zeros(2, 1))


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
