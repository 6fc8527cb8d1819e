import warnings

import numpy as np
import pytest
import torch

from lpc.evaluation.robustness import Status, deepfool, perturbation_summary, relative_perturbation


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def affine(generator, classes=6, shape=(2, 3, 3), dtype=torch.float64):
    size = int(np.prod(shape))
    weight = torch.randn(classes, size, generator=generator, dtype=dtype)
    bias = torch.randn(classes, generator=generator, dtype=dtype)
    return weight, bias, lambda x: x.flatten(start_dim=1) @ weight.T + bias


def network(generator, size=64, classes=10, dtype=torch.float64):
    first = torch.randn(size, 32, generator=generator, dtype=dtype) / size**0.5
    second = 3 * torch.randn(32, classes, generator=generator, dtype=dtype) / 32**0.5
    return lambda x: torch.tanh(2 * x.flatten(start_dim=1) @ first) @ second


@pytest.mark.parametrize("overshoot", [0.0001, 0.02, 0.5])
def test_affine_classifier_in_closed_form(generator, overshoot):
    weight, _, logits_fn = affine(generator)
    image = torch.randn(20, 2, 3, 3, generator=generator, dtype=torch.float64)
    logits = logits_fn(image)
    label = logits.argmax(dim=1)
    expected = torch.empty(20, dtype=torch.float64)
    for n in range(20):
        others = [k for k in range(6) if k != label[n]]
        expected[n] = min(
            (logits[n, label[n]] - logits[n, k]) / (weight[label[n]] - weight[k]).norm() for k in others
        )
    result = deepfool(logits_fn, image, overshoot=overshoot)
    size = result.perturbation.flatten(start_dim=1).norm(dim=1)
    torch.testing.assert_close(size, (1 + overshoot) * expected, rtol=1e-10, atol=0)
    assert bool(result.fooled.all())
    assert result.iterations.tolist() == [1] * 20
    assert bool((logits_fn(image + result.perturbation).argmax(dim=1) != label).all())


def test_step_floor_lengthens_each_step(generator):
    _, _, logits_fn = affine(generator)
    image = torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64)
    plain, floor = deepfool(logits_fn, image), deepfool(logits_fn, image, step_floor=1e-4)
    lengths = [r.perturbation.flatten(start_dim=1).norm(dim=1) for r in (plain, floor)]
    torch.testing.assert_close(lengths[1] - lengths[0], torch.full((5,), 1.02e-4, dtype=torch.float64))


def test_candidates_are_the_highest_initial_logits():
    # the nearest boundary is that of class 2, which has the lowest logit and a steep slope
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
    bias = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    image = torch.zeros(1, 2, dtype=torch.float64)
    for candidates, expected in [(2, [[1.02, 0.0]]), (3, [[0.0, 0.204]])]:
        result = deepfool(lambda x: x @ weight.T + bias, image, candidates=candidates)
        torch.testing.assert_close(result.perturbation, torch.tensor(expected, dtype=torch.float64))


def test_against_foolbox(generator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from foolbox.attacks.deepfool import L2DeepFoolAttack
        from foolbox.models.pytorch import PyTorchModel
    first, second = torch.nn.Linear(64, 32), torch.nn.Linear(32, 12)
    for layer, gain in ((first, 0.25), (second, 1.0)):
        for parameter in layer.parameters():
            parameter.data = gain * torch.randn(parameter.shape, generator=generator)
    module = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.Tanh(), second).double().eval()
    image = torch.rand(30, 1, 8, 8, generator=generator).double()
    model = PyTorchModel(module, bounds=(-100, 100), device="cpu")  # wide: foolbox clips, we do not
    attack = L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02, loss="logits")
    theirs = attack(model, image, module(image).argmax(dim=1), epsilons=None)[0] - image
    ours = deepfool(module, image, step_floor=1e-4)  # foolbox adds 1e-4 to each step, and 1e-8 to the norms
    assert bool(ours.fooled.all()) and int(ours.iterations.max()) >= 2
    torch.testing.assert_close(ours.perturbation, theirs, rtol=1e-6, atol=1e-9)
    without = deepfool(module, image).perturbation
    assert float((without - theirs).flatten(1).norm(dim=1).min()) > 1e-5


def test_neither_batch_nor_chunk_matters(generator):
    logits_fn = network(generator)
    image = torch.randn(24, 1, 8, 8, generator=generator, dtype=torch.float64)
    whole = deepfool(logits_fn, image)
    assert len(set(whole.iterations.tolist())) > 1
    order = torch.randperm(24, generator=generator)
    others = [tuple(value[order.argsort()] for value in deepfool(logits_fn, image[order]))]
    others += [deepfool(logits_fn, image, chunk=chunk) for chunk in (1, 5, 24, 1000)]
    parts = [deepfool(logits_fn, part) for part in image.split(7)]
    others.append(tuple(torch.cat(values) for values in zip(*parts, strict=True)))
    for other in others:
        torch.testing.assert_close(other[0], whole.perturbation, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip(other[1:], whole[1:], strict=True):
            assert torch.equal(ours, theirs)


def test_without_rounding_chunks_agree_to_the_bit(generator):
    # sums of a few small integers are exact in any order, so that only the algorithm could differ
    weight = torch.randint(-3, 4, (6, 9), generator=generator).double()
    image = torch.randint(-3, 4, (40, 1, 3, 3), generator=generator).double() + 0.25
    image = image[(image.flatten(1) @ weight.T).topk(2).values.diff().abs()[:, 0] > 0]
    whole = deepfool(lambda x: x.flatten(1) @ weight.T, image)
    for chunk in (1, 7):
        other = deepfool(lambda x: x.flatten(1) @ weight.T, image, chunk=chunk)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(other, whole, strict=True))


def test_chunk_bounds_every_call_and_fills_the_places_of_finished_images(generator):
    net, seen = network(generator), []

    def logits_fn(x):
        seen.append(len(x))
        return net(x)

    image = torch.randn(40, 1, 8, 8, generator=generator, dtype=torch.float64)
    result = deepfool(logits_fn, image, chunk=8)
    assert seen[:3] == [8, 8, 4]  # whether the logits are a function of each image
    del seen[:3]
    assert max(seen) == 8
    assert sum(seen) == 2 * int(result.iterations.sum())  # two forward passes a step, no other
    assert len(seen) < 2 * sum(int(part.max()) for part in result.iterations.split(8))
    seen.clear()
    deepfool(logits_fn, image)
    assert seen[3] == 40


def test_fooled_is_true_and_the_image_just_inside_is_not(generator):
    logits_fn = network(generator)
    image = torch.randn(50, 1, 8, 8, generator=generator, dtype=torch.float64)
    result = deepfool(logits_fn, image)
    label = logits_fn(image).argmax(dim=1)
    assert bool(result.fooled.all())
    assert bool((logits_fn(image + result.perturbation).argmax(dim=1) != label).all())
    inside = logits_fn(image + 0.9 * result.perturbation).argmax(dim=1) == label
    assert float(inside.double().mean()) > 0.9
    short = deepfool(logits_fn, image, max_iter=1)
    assert torch.equal(short.fooled, result.iterations == 1)
    assert int(short.iterations.max()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_callers_tensors_are_kept(generator, dtype):
    weight = torch.nn.Parameter(torch.randn(9, 3, generator=generator, dtype=dtype))
    image = torch.randn(4, 1, 3, 3, generator=generator, dtype=dtype, requires_grad=True)
    before = image.detach().clone()
    result = deepfool(lambda x: x.flatten(start_dim=1) @ weight, image)
    assert result.perturbation.dtype == dtype
    assert result.perturbation.shape == image.shape
    assert result.iterations.dtype == torch.int64
    assert weight.grad is None
    assert image.grad is None
    assert torch.equal(image, before)
    with torch.no_grad():
        again = deepfool(lambda x: x.flatten(start_dim=1) @ weight, image)
    assert torch.equal(again.perturbation, result.perturbation)


def test_without_gradient_nothing_is_fooled_and_all_is_finite():
    image = torch.ones(3, 4)
    scores = torch.tensor([[1.0, 0.0]])
    flat = {
        "constant": lambda x: scores.expand(len(x), 2),
        "steps": lambda x: torch.stack([torch.round(x.sum(dim=1)), 0 * x[:, 0]], dim=1),
        "detached": lambda x: torch.stack([x.detach().sum(dim=1), 0 * x.detach()[:, 0]], dim=1),
    }
    for name, logits_fn in flat.items():
        result = deepfool(logits_fn, image)
        assert not bool(result.fooled.any()), name
        assert torch.equal(result.perturbation, torch.zeros_like(image)), name
        assert result.iterations.tolist() == [0, 0, 0], name


def test_every_ending_is_reported_beside_the_others():
    def logits_fn(x):
        ramp = torch.stack([torch.relu(x[:, 0]), 0 * x[:, 0] + 0.5], dim=1)  # flat where x is negative
        steep = torch.where(
            x[:, 0] > 50, x[:, 0] - x[:, 0].detach(), 1.0
        )  # its root's slope is infinite at 0
        ramp[:, 0] = ramp[:, 0] + torch.sqrt(steep)
        ramp[:, 1] = ramp[:, 1] + torch.where(x[:, 0] > 50, 0.0, 1.0)
        ramp[:, 0] = torch.where((x[:, 0] > 7) & (x[:, 0] < 9), torch.sin(1e3 * x[:, 0]) + 9, ramp[:, 0])
        return ramp

    image = torch.tensor([[1.0], [-1.0], [60.0], [8.0]], dtype=torch.float64)
    result = deepfool(logits_fn, image, max_iter=3)
    expected = [Status.FOOLED, Status.NO_GRADIENT, Status.NOT_FINITE, Status.OUT_OF_STEPS]
    assert result.status.tolist() == expected
    assert result.fooled.tolist() == [True, False, False, False]
    assert result.iterations.tolist() == [1, 0, 0, 3]
    assert bool(torch.isfinite(result.perturbation).all())
    torch.testing.assert_close(result.perturbation[:3, 0], torch.tensor([-0.51, 0.0, 0.0]).double())


def test_logits_that_break_on_the_way_are_reported():
    # the step leads to x = -0.02, where the logarithm is NaN
    def logits_fn(x):
        return torch.stack([x[:, 0], torch.where(x[:, 0] < 0, torch.log(x[:, 0]), 0 * x[:, 0])], dim=1)

    result = deepfool(logits_fn, torch.ones(1, 1))
    assert result.status.tolist() == [Status.NOT_FINITE]
    assert result.fooled.tolist() == [False]


def test_gradients_whose_squares_underflow_are_followed():
    image = torch.ones(1, 2)
    result = deepfool(lambda x: torch.stack([1e-30 * x.sum(dim=1), 0 * x[:, 0]], dim=1), image)
    torch.testing.assert_close(result.perturbation, torch.full((1, 2), -1.02))
    assert result.fooled.tolist() == [True]


def test_summary_counts_the_unfooled_in_and_out():
    def logits_fn(x):  # flat where x is negative; class 0 wins above 0.5
        return torch.stack([torch.relu(x[:, 0]), 0 * x[:, 0] + 0.5], dim=1)

    image = torch.tensor([[1.0], [2.0], [-1.0], [8.0]], dtype=torch.float64)
    result = deepfool(logits_fn, image, overshoot=0.0, step_floor=0.5)
    found = perturbation_summary(result, image)
    assert found[:5] == (4, 3, 0, 1, 0)
    assert found[5:] == pytest.approx((3 / 4, 1.0, 1.0, 1.0))
    among = torch.tensor([False, False, True, False])
    assert perturbation_summary(result, image, among=among)[5:] == (0.0, 0.0, None, None)
    result = result._replace(perturbation=torch.tensor([[1.0], [4.0], [-1.5], [24.0]], dtype=torch.float64))
    found = perturbation_summary(result, image)
    assert found[5:] == pytest.approx(((1 + 2 + 1.5 + 3) / 4, 1.75, 2.0, 2.0))
    with pytest.raises(ValueError, match="among selects none"):
        perturbation_summary(result, image, among=torch.zeros(4, dtype=torch.bool))


def test_one_flat_image_does_not_stop_the_others():
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    result = deepfool(lambda x: torch.stack([torch.relu(x[:, 0]) - 0.1, 0 * x[:, 0]], dim=1), image)
    assert result.fooled.tolist() == [True, False]
    assert bool(torch.isfinite(result.perturbation).all())


def test_deepfool_refuses_bad_input(unchecked):
    attack, image = unchecked(deepfool), torch.ones(2, 3)
    with pytest.raises(ValueError, match="logits_fn gave NaN or infinity for image 1"):
        attack(lambda x: x[:, :2].clone().index_fill_(0, torch.arange(1, len(x)), torch.nan), image)
    with pytest.raises(ValueError, match="logits_fn gave NaN or infinity for image 2"):
        attack(torch.log, torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, -1.0]]), chunk=1)
    with pytest.raises(ValueError, match=r"logits_fn gave shape \(2, 1\)"):
        attack(lambda x: x[:, :1], image)
    with pytest.raises(ValueError, match="candidates=1"):
        attack(lambda x: x, image, candidates=1)
    with pytest.raises(ValueError, match="chunk=0"):
        attack(lambda x: x, image, chunk=0)
    with pytest.raises(ValueError, match=r"logits_fn gave shape \(2, 3\) for 1 images"):
        attack(lambda x: torch.ones(2, 3), image, chunk=1)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch\.inference_mode is on"):
        attack(lambda x: x, torch.ones(2, 3))
    with pytest.raises(ValueError, match="image has dtype"):
        attack(lambda x: x, image.long())
    with pytest.raises(ValueError, match=r"image has shape \(2,\)"):
        attack(lambda x: x, image[:, 0])


def test_relative_perturbation_by_hand(unchecked):
    image = np.array([[[3.0, 4.0]], [[0.0, 2.0]]])
    change = np.array([[[0.0, 1.0]], [[3.0, 4.0]]])
    ratio = relative_perturbation(change, image)
    assert isinstance(ratio, np.ndarray)
    np.testing.assert_allclose(ratio, [0.2, 2.5])
    tensor = relative_perturbation(torch.from_numpy(change).float(), torch.from_numpy(image).float())
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64
    image[1] = 0
    with pytest.raises(ValueError, match="image 1 is all zeros"):
        relative_perturbation(change, image)
    with pytest.raises(ValueError, match="perturbation has shape"):
        unchecked(relative_perturbation)(change[:1], image)
