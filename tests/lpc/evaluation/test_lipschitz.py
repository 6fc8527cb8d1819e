import math

import pytest
import torch

from lpc.evaluation.lipschitz import lipschitz_estimate, margin_gradient, margin_gradient_norm


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def network(generator, classes=5):
    first = torch.randn(12, 16, generator=generator, dtype=torch.float64) / 3
    second = torch.randn(16, classes, generator=generator, dtype=torch.float64)
    return lambda x: torch.tanh(x.flatten(start_dim=1) @ first.to(x)) @ second.to(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [False, True])
def test_affine_classifier_in_closed_form(generator, dtype, given):
    weight = torch.randn(4, 12, generator=generator, dtype=dtype)
    bias = torch.randn(4, generator=generator, dtype=dtype)
    image = torch.randn(9, 3, 2, 2, generator=generator, dtype=dtype)
    label = torch.randint(4, (9,), generator=generator)

    def logits_fn(x):
        return x.flatten(start_dim=1) @ weight.T + bias

    found = margin_gradient(logits_fn, image, label=label if given else None)
    margins, norms = [], []
    for row, own in zip(logits_fn(image).double().tolist(), label.tolist(), strict=True):
        if not given:
            own = row.index(max(row))
        other = max((k for k in range(4) if k != own), key=lambda k, row=row: row[k])
        margins.append(row[own] - row[other])
        norms.append(math.sqrt(float(((weight[own] - weight[other]).double() ** 2).sum())))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    expected = torch.tensor([margins, norms], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(tuple(found)), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.distance, expected[0] / expected[1], rtol=tolerance, atol=tolerance)
    estimate = lipschitz_estimate(logits_fn, image, label=label if given else None)
    assert estimate.mean == pytest.approx(sum(norms) / 9, rel=tolerance)
    assert estimate.maximum == pytest.approx(max(norms), rel=tolerance)
    assert estimate.mean_distance == pytest.approx(float((expected[0] / expected[1]).mean()), rel=tolerance)
    assert (estimate.images, estimate.zero_gradients) == (9, 0)
    assert bool((found.margin < 0).any()) == given  # only a given label can lose


def test_against_finite_differences(generator):
    logits_fn, step = network(generator), 1e-6
    image = torch.randn(6, 3, 4, generator=generator, dtype=torch.float64)

    def margin(x):
        top = logits_fn(x).topk(2, dim=1).values
        return top[:, 0] - top[:, 1]

    squares = torch.zeros(6, dtype=torch.float64)
    for entry in range(12):
        change = torch.zeros(12, dtype=torch.float64)
        change[entry] = step
        change = change.reshape(3, 4)
        squares += ((margin(image + change) - margin(image - change)) / (2 * step)) ** 2
    torch.testing.assert_close(margin_gradient_norm(logits_fn, image), squares.sqrt(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("scale", [1e-9, 7.0, 1e6])
def test_scaled_logits_scale_the_norm_and_leave_the_distance(generator, scale):
    logits_fn = network(generator)
    image = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    one, other = (margin_gradient(lambda x, c=c: c * logits_fn(x), image) for c in (1.0, scale))
    torch.testing.assert_close(other.norm, scale * one.norm, rtol=1e-10, atol=0)
    torch.testing.assert_close(other.distance, one.distance, rtol=1e-8, atol=0)


def test_isometric_networks_are_estimated_exactly_and_contractions_below(generator):
    # rotations and absolute values keep every length: the margin of two of its outputs has slope sqrt(2)
    matrix = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
    rotation = [torch.linalg.qr(one).Q for one in matrix]

    def isometry(x):
        return ((x @ rotation[0]).abs() @ rotation[1]).abs() @ rotation[2]

    image = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    found = lipschitz_estimate(isometry, image)
    assert (found.mean, found.maximum) == pytest.approx((math.sqrt(2), math.sqrt(2)), rel=1e-12)
    # over sqrt(2), every margin is 1-Lipschitz; tanh contracts further
    contraction = lipschitz_estimate(lambda x: torch.tanh(isometry(x)) / math.sqrt(2), image)
    assert 0.1 < contraction.mean < contraction.maximum <= 1
    steeper = lipschitz_estimate(lambda x: isometry(1.1 * x) / math.sqrt(2), image)
    assert steeper.maximum > 1  # the bound is seen to be broken


def test_zero_gradients_are_counted_and_leave_the_distance():
    def logits_fn(x):  # flat where the input is negative
        return torch.stack([2 * torch.relu(x[:, 0]), 0 * x[:, 0] - 1], dim=1)

    image = torch.tensor([[3.0], [-3.0], [-1.0], [1.0]])
    found = margin_gradient(logits_fn, image)
    assert found.norm.tolist() == [2, 0, 0, 2]
    assert found.distance.tolist() == [3.5, math.inf, math.inf, 1.5]
    assert lipschitz_estimate(logits_fn, image) == (4, 1.0, 2.0, 2, 2.5)
    assert lipschitz_estimate(lambda x: logits_fn(x).detach(), image) == (4, 0.0, 0.0, 4, None)
    label = torch.ones(4, dtype=torch.int64)
    assert margin_gradient(logits_fn, image, label=label).distance.tolist() == [
        -3.5,
        -math.inf,
        -math.inf,
        -1.5,
    ]


def test_small_gradients_do_not_underflow_in_float32():
    norm = margin_gradient_norm(lambda x: 1e-30 * x, torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(norm, torch.tensor([1e-30 * 2**0.5]).double(), rtol=1e-6, atol=0)


def test_neither_batch_nor_chunk_matters_and_nothing_is_touched(generator):
    logits_fn, seen = network(generator), []
    image = torch.randn(20, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.randint(5, (20,), generator=generator)

    def counted(x):
        seen.append(len(x))
        return logits_fn(x)

    whole = margin_gradient(counted, image, label=label)
    with torch.no_grad():
        chunked = margin_gradient(counted, image, label=label, chunk=6)
    assert seen == [8, 8, 4, 20, 6, 6, 3, 6, 6, 6, 2]  # of each the first three look at the network
    for ours, theirs in zip(chunked, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert image.grad is None and not whole.norm.requires_grad


def test_lipschitz_refuses_bad_input(unchecked):
    estimate, image = unchecked(margin_gradient), torch.ones(5, 3)
    with pytest.raises(ValueError, match="logits_fn gave NaN or infinity for image 3"):
        estimate(lambda x: torch.log(x), torch.tensor([1.0, 2.0, 3.0, -1.0, 1.0])[:, None] * image, chunk=2)
    with pytest.raises(ValueError, match="the margin's gradient is NaN or infinity for image 0"):
        estimate(lambda x: torch.sqrt(x - 1) * torch.tensor([1.0, 0.0, 0.0]), image)
    with pytest.raises(ValueError, match=r"logits_fn gave shape \(5, 1\) for 5 images"):
        estimate(lambda x: x[:, :1], image)
    with pytest.raises(ValueError, match="label holds classes outside 0 to 2"):
        estimate(lambda x: x, image, label=torch.full((5,), 3))
    with pytest.raises(ValueError, match="label has 4 entries for 5 points"):
        estimate(lambda x: x, image, label=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="chunk=0"):
        estimate(lambda x: x, image, chunk=0)
    with pytest.raises(ValueError, match="image has dtype"):
        estimate(lambda x: x, image.long())
    with pytest.raises(ValueError, match=r"image has shape \(5,\)"):
        estimate(lambda x: x, image[:, 0])
    with pytest.raises(ValueError, match="holds no values"):
        estimate(lambda x: x, image[:0])
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch\.inference_mode is on"):
        estimate(lambda x: x, torch.ones(5, 3))
