import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.func import vmap

from lpc.losses import (
    absolute_norm,
    batch_conditional_log_variance,
    conditional_log_variance,
    geometric_gamma,
    log_variance,
    squared_norm,
    two_regime_gamma,
    zero_entropy_noise,
)

LATENT = torch.tensor([[3.0, -4.0], [0.0, 1.0], [1.0, 1.0]])


def test_norms_on_numbers_worked_by_hand():
    assert squared_norm(LATENT, reduction="sum").item() == pytest.approx((25 + 1 + 2) / 3)
    assert absolute_norm(LATENT, reduction="sum").item() == pytest.approx((7 + 1 + 2) / 3)


@pytest.mark.parametrize("norm", [squared_norm, absolute_norm])
def test_mean_reduction_divides_by_the_width(norm, unchecked):
    summed, mean = norm(LATENT, reduction="sum"), norm(LATENT, reduction="mean")
    assert mean.item() == pytest.approx(summed.item() / 2)
    with pytest.raises(ValueError, match="'total'"):
        unchecked(norm)(LATENT, reduction="total")


def test_squared_norm_pulls_each_point_towards_zero():
    latent = LATENT.clone().requires_grad_()
    squared_norm(latent, reduction="sum").backward()
    torch.testing.assert_close(latent.grad, 2 * LATENT / 3)


def test_log_variance_is_the_entropy_of_an_axis_aligned_gaussian():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 3)) * [0.1, 1.0, 5.0]
    exact = multivariate_normal(cov=np.diag([0.01, 1.0, 25.0])).entropy()
    assert log_variance(torch.from_numpy(points)).item() == pytest.approx(exact, abs=0.03)
    scaled = log_variance(torch.from_numpy(points * 1e-3)).item()
    assert scaled == pytest.approx(log_variance(torch.from_numpy(points)).item() + 3 * math.log(1e-3))


def test_conditional_log_variance_weights_classes_by_their_share():
    first, second = torch.randn(30, 2, dtype=torch.float64), 3 * torch.randn(10, 2, dtype=torch.float64) + 7
    label = torch.tensor([0] * 30 + [1] * 10)
    expected = 0.75 * log_variance(first) + 0.25 * log_variance(second)
    latent = torch.cat([first, second])
    torch.testing.assert_close(conditional_log_variance(latent, label), expected)
    assert conditional_log_variance(latent, label) < log_variance(latent)


def test_log_variance_of_too_little_is_an_error():
    with pytest.raises(ValueError, match="2 or more points; got 1"):
        log_variance(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"class 1 is not positive at nodes \[0\]"):
        conditional_log_variance(
            torch.tensor([[0.0, 1.0], [1.0, 0.0], [5.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 0, 1, 1])
        )


def test_log_variances_of_a_batch_are_the_checked_ones():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(30, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 1.0, 5.0])
    label = torch.arange(30) % 4
    torch.testing.assert_close(log_variance(latent, check=False), log_variance(latent), rtol=0, atol=0)
    variances = np.stack([latent[label == y].numpy().var(axis=0, ddof=1) for y in range(4)])
    per_class = 0.5 * np.log(2 * np.pi * np.e * variances).sum(axis=1)
    expected = float(label.bincount().numpy() @ per_class / 30)
    for found in (
        conditional_log_variance(latent, label),
        batch_conditional_log_variance(latent, label, classes=4),
        batch_conditional_log_variance(latent, label, classes=9),  # classes the batch has no point of
    ):
        assert found.item() == pytest.approx(expected, rel=1e-12)
    far = batch_conditional_log_variance((latent + 1e3).float(), label, classes=4).item()
    assert far == pytest.approx(expected, abs=1e-2)  # no difference of large squares


def test_a_class_of_one_point_has_no_share_in_a_batch():
    latent = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2, 2])
    pairs = label != 1
    expected = conditional_log_variance(latent[pairs], label[pairs])
    alone = latent.clone().requires_grad_()
    found = batch_conditional_log_variance(alone, label, classes=4)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found.backward()
    assert alone.grad is not None and bool(torch.isfinite(alone.grad).all())
    assert bool((alone.grad[4] == 0).all()) and bool((alone.grad[:4] != 0).all())
    with pytest.raises(ValueError, match="the variance of class 1 needs 2 or more points; got 1"):
        conditional_log_variance(latent, label)
    assert batch_conditional_log_variance(latent[:3], torch.tensor([0, 1, 2]), classes=3) == 0


def test_log_variances_of_a_batch_are_mapped_over_runs():
    generator = torch.Generator().manual_seed(2)
    latent = torch.randn(3, 12, 2, generator=generator, dtype=torch.float64)
    label = torch.stack([torch.arange(12) % size for size in (2, 3, 4)])
    found = vmap(lambda z, y: batch_conditional_log_variance(z, y, classes=4))(latent, label)
    expected = torch.stack([conditional_log_variance(z, y) for z, y in zip(latent, label, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found = vmap(lambda z: log_variance(z, check=False))(latent)
    torch.testing.assert_close(found, torch.stack([log_variance(z) for z in latent]), rtol=1e-12, atol=0)


def test_a_node_without_variance_is_minus_infinity_unless_it_is_looked_for():
    latent = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert log_variance(latent, check=False) == -math.inf
    with pytest.raises(ValueError, match=r"of the batch is not positive at nodes \[0\]"):
        log_variance(latent)


def test_gamma_is_the_papers_schedule():
    cifar = partial(geometric_gamma, initial=1e-2, factor=1.05, maximum=1e6)
    assert cifar(0) == pytest.approx(1e-2)
    assert cifar(10) == pytest.approx(1e-2 * 1.05**10)
    assert cifar(377) < 1e6
    assert cifar(378) == 1e6
    svhn = partial(geometric_gamma, initial=1e-2, factor=1.03, maximum=1e5)
    assert svhn(545) < 1e5 and svhn(546) == 1e5
    assert cifar(10**6) == 1e6


@pytest.mark.parametrize(
    ("factor", "maximum"), [(1.05, 1e6), (1.03, 1e5), (2.0, 0.04), (2.0, 0.01), (3.0, 1e-3)]
)
def test_gamma_overshoots_as_the_release_multiplies(factor, maximum):
    gamma = 1e-2
    for epoch in range(600):
        there = geometric_gamma(epoch, initial=1e-2, factor=factor, maximum=maximum, overshoot=True)
        assert there == pytest.approx(gamma, rel=1e-9)
        if gamma < maximum * (1 - 1e-12):
            gamma *= factor


@pytest.mark.parametrize(
    ("epoch", "changed"),
    [(-1, {}), (0, {"initial": 0.0}), (0, {"factor": 0.5}), (0, {"maximum": -1.0})],
)
def test_gamma_rejects_what_is_no_schedule(epoch, changed):
    with pytest.raises(ValueError, match="expected"):
        geometric_gamma(epoch, **{"initial": 1e-2, "factor": 1.05, "maximum": 1e6, **changed})


def test_zero_entropy_noise_has_zero_entropy():
    noise = zero_entropy_noise((200_000,), torch.Generator().manual_seed(0))
    assert noise.var().item() == pytest.approx(1 / (2 * math.pi * math.e), rel=0.02)
    again = zero_entropy_noise((200_000,), torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)


def test_noise_without_a_generator_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"generator is 0; expected a torch\.Generator"):
        unchecked(zero_entropy_noise)((3,), 0)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("loss", [squared_norm, absolute_norm])
@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.ones(8, 6, 4, 4), r"latent has shape \(8, 6, 4, 4\); .*pool feature maps"),
        (torch.ones(8, 5, 6), r"latent has shape \(8, 5, 6\); .*tokens"),
        (torch.ones(8), r"latent has shape \(8,\); expected \(batch, width\)"),
        (torch.ones(0, 3), "it holds no values"),
        (torch.ones(8, 3, dtype=torch.int64), r"latent has dtype torch\.int64; expected floats"),
        (torch.eye(3).to_sparse(), "latent is a sparse tensor"),
        (np.ones((8, 3)), "latent is a ndarray; expected a tensor"),
    ],
)
def test_norms_of_what_is_no_batch_of_latents_are_refused(loss, latent, message):
    with pytest.raises(ValueError, match=message):
        loss(latent, reduction="sum")
    if message != "it holds no values":
        with pytest.raises(ValueError, match=message):
            log_variance(latent)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    "change",
    [lambda y: y.int(), lambda y: y.to(torch.uint8), lambda y: y + 1, lambda y: y - 1, lambda y: y * 10**10],
)
def test_conditional_log_variance_takes_any_integers_as_classes(change):
    latent = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    label = torch.arange(12) % 3
    expected = conditional_log_variance(latent, label)
    torch.testing.assert_close(conditional_log_variance(latent, change(label)), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y.float(), r"label has dtype torch\.float32; expected integers"),
        (lambda y: y > 0, r"label has dtype torch\.bool"),
        (lambda y: y.numpy(), "label is a ndarray; expected a tensor of integers"),
        (lambda y: torch.nn.functional.one_hot(y), r"label has shape \(12, 3\); .*argmax"),
        (lambda y: y[:7], "label has 7 entries for 12 points"),
    ],
)
def test_labels_that_are_none_are_refused(change, message):
    latent, label = torch.randn(12, 5), change(torch.arange(12) % 3)
    with pytest.raises(ValueError, match=message):
        conditional_log_variance(latent, label)
    with pytest.raises(ValueError, match=message):
        batch_conditional_log_variance(latent, label, classes=3)


def test_labels_out_of_range_are_seen_on_the_host_unless_told_not_to():
    latent, label = torch.randn(12, 5), torch.arange(12) % 3 + 1
    with pytest.raises(ValueError, match="label is 3 at index 2; expected 0 to 2"):
        batch_conditional_log_variance(latent, label, classes=3)
    seen = label < 3
    expected = batch_conditional_log_variance(latent[seen], label[seen], classes=3)
    found = batch_conditional_log_variance(latent, label, classes=3, check=False)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="classes is 0; expected 1 or more"):
        batch_conditional_log_variance(latent, label, classes=0)
    with pytest.raises(RuntimeError, match="vmap"):
        vmap(lambda y: batch_conditional_log_variance(latent, y, classes=4, check=True))(label[None])


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("name", ["initial", "factor", "maximum"])
@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None])
def test_a_schedule_of_what_is_no_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected"):
        geometric_gamma(3, **{"initial": 1e-2, "factor": 1.05, "maximum": 1e6, name: value})


@pytest.mark.usefixtures("unhooked")
def test_schedules_take_numpys_numbers_and_survive_the_largest_powers():
    rule: dict[str, Any] = {"initial": np.float64(1e-2), "factor": np.float32(2), "maximum": np.int64(9)}
    epoch: Any = np.int64(3)
    assert geometric_gamma(epoch, **rule) == 0.08
    assert geometric_gamma(9999, initial=1e-300, factor=1.5, maximum=1e300) == 1e300
    grown = geometric_gamma(1200, initial=1e-300, factor=3.0, maximum=1e300)
    assert grown == pytest.approx(math.exp(1200 * math.log(3.0) + math.log(1e-300)), rel=1e-9)
    assert two_regime_gamma(
        3, initial=1.0, factor=1.0, late_factor=2.0, late_from=5.0, maximum=9.0
    ) == geometric_gamma(3, initial=1.0, factor=1.0, maximum=9.0)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("shape", [3, (3.5,), (-1,), ("3",)])
def test_noise_of_what_is_no_shape_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        zero_entropy_noise(shape, torch.Generator())
