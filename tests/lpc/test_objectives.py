"""The loss's main terms against explicit sums, scikit-learn, autograd and the paper's inequalities."""

import math

import pytest
import torch
from sklearn.metrics import log_loss
from torch.func import vmap
from torch.nn.functional import cross_entropy

from lpc.evaluation.information import decoder_uncertainty
from lpc.heads import CategoricalOutput, HeadOutput
from lpc.losses import conditional_log_variance, log_variance, squared_norm
from lpc.objectives import (
    decoder_cross_entropy,
    decoder_uncertainty_loss,
    objective,
    optimal_decoder,
    prediction_cross_entropy,
)
from lpc.specs import ModelSpec, TrainSpec

POINTS, CATEGORIES, CLASSES = 40, 7, 4
CONTINUOUS = ModelSpec(backbone="mlp", backbone_width=8)
CATEGORICAL = ModelSpec(
    backbone="mlp", backbone_width=8, penultimate="linear", latent_width=CATEGORIES, encoder="categorical"
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def label():
    return torch.randint(CLASSES, (POINTS,), generator=generator(5))


@pytest.fixture
def encoder():
    """p(z | x), some way from uniform and from deterministic."""
    return (2 * drawn(POINTS, CATEGORIES)).softmax(dim=1)


@pytest.fixture
def log_decoder():
    return (2 * drawn(CATEGORIES, CLASSES, seed=1)).log_softmax(dim=1)


def train(**options):
    return TrainSpec(epochs=1, learning_rate=1.0, **options)


def exact_uncertainty(encoder, label):
    """H[Y | Z] as it is defined, with p(y | z) a function of the encoder."""
    total = encoder.new_zeros(())
    for z in range(encoder.shape[1]):
        marginal = encoder[:, z].mean()
        for y in label.unique().tolist():
            joint = encoder[label == y, z].sum() / len(label)
            total = total - joint * (joint / marginal).log()
    return total


def test_cross_entropies_are_the_sums_of_section_5(encoder, log_decoder, label):
    expected = 0.0
    for n in range(POINTS):
        for z in range(CATEGORIES):
            expected -= float(encoder[n, z] * log_decoder[z, label[n]]) / POINTS
    assert decoder_cross_entropy(encoder, log_decoder[None], label).item() == pytest.approx(expected)
    predicted = (encoder @ log_decoder.exp()).numpy()
    found = prediction_cross_entropy(encoder, log_decoder[None], label).item()
    assert found == pytest.approx(log_loss(label.numpy(), predicted, labels=range(CLASSES)), rel=1e-12)


def test_prediction_is_below_decoder_and_equal_where_the_encoder_is_deterministic(
    encoder, log_decoder, label
):
    """Eq. 4, with Jensen's gap of two numbers worked by hand."""
    decoder = decoder_cross_entropy(encoder, log_decoder[None], label)
    assert prediction_cross_entropy(encoder, log_decoder[None], label) < decoder - 0.05
    hard = torch.nn.functional.one_hot(encoder.argmax(dim=1), CATEGORIES).double()
    first = decoder_cross_entropy(hard, log_decoder[None], label)
    second = prediction_cross_entropy(hard, log_decoder[None], label)
    expected = cross_entropy(log_decoder[encoder.argmax(dim=1)], label)
    torch.testing.assert_close(first, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(second, expected, rtol=1e-12, atol=0)
    half, table = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()[None]
    one = torch.tensor([0])
    assert decoder_cross_entropy(half, table, one).item() == pytest.approx(-0.5 * math.log(0.09))
    assert prediction_cross_entropy(half, table, one).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", ["decoder_cross_entropy", "prediction_cross_entropy"])
def test_several_samples_stand_one_whole_batch_after_the_other(name, label):
    samples = 3
    logits = drawn(samples * POINTS, CLASSES, seed=2)
    loss = objective(train(objective=name, samples=samples), CONTINUOUS, classes=CLASSES)
    found, _ = loss(HeadOutput(logits, logits), label, gamma=0.0)
    each = logits.split(POINTS)
    decoder = torch.stack([cross_entropy(one, label) for one in each]).mean()
    mean = torch.stack([one.softmax(dim=1) for one in each]).mean(dim=0).numpy()
    prediction = torch.tensor(log_loss(label.numpy(), mean, labels=range(CLASSES)), dtype=torch.float64)
    expected = decoder if name == "decoder_cross_entropy" else prediction
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert decoder - prediction > 0.1
    by_image = logits.reshape(POINTS, samples, CLASSES)
    wrong = -by_image.log_softmax(dim=2)[torch.arange(POINTS), :, label].mean()
    assert abs(found - wrong) > 0.01  # rows laid out image by image are another loss


def test_of_one_sample_both_are_the_usual_cross_entropy(label):
    logits = drawn(POINTS, CLASSES)
    for name in ("decoder_cross_entropy", "prediction_cross_entropy"):
        loss = objective(train(objective=name), CONTINUOUS, classes=CLASSES)
        found, _ = loss(HeadOutput(logits, logits), label, gamma=0.0)
        torch.testing.assert_close(found, cross_entropy(logits, label), rtol=0, atol=0)


def test_the_objective_of_a_categorical_latent_is_what_the_spec_names(encoder, log_decoder, label):
    output = CategoricalOutput(encoder, (encoder @ log_decoder.exp()).log(), log_decoder)
    expected = {
        "decoder_cross_entropy": decoder_cross_entropy(encoder, log_decoder[None], label),
        "prediction_cross_entropy": cross_entropy(output.logits, label),
        "decoder_uncertainty": exact_uncertainty(encoder, label),
    }
    for name, value in expected.items():
        loss = objective(train(objective=name), CATEGORICAL, classes=CLASSES)
        main, penalty = loss(output, label, gamma=3.0)
        torch.testing.assert_close(main, value, rtol=1e-12, atol=0)
        assert penalty == 0
    assert len({round(value.item(), 6) for value in expected.values()}) == 3


@pytest.mark.parametrize("samples", [1, 2])
def test_penalties_are_of_every_sample_with_the_label_of_its_image(samples, label):
    latent, weight = drawn(samples * POINTS, 5, seed=3), drawn(5, 6)
    output = HeadOutput(latent, drawn(samples * POINTS, CLASSES, seed=4))
    labels = torch.cat([label] * samples)
    expected = {
        "squared_norm": squared_norm(latent, reduction="sum"),
        "log_variance": log_variance(latent),
        "conditional_log_variance": conditional_log_variance(latent, labels),
    }
    for name, value in expected.items():
        loss = objective(train(penalty=name, samples=samples), CONTINUOUS, classes=CLASSES)
        _, penalty = loss(output, label, gamma=0.3)
        torch.testing.assert_close(penalty, 0.3 * value, rtol=1e-12, atol=0)
        _, penalty = loss(output, label, gamma=0.3, l1=0.1, weight=weight)
        torch.testing.assert_close(penalty, 0.3 * value + 0.1 * weight.abs().sum(), rtol=1e-12, atol=0)
    if samples > 1:
        shuffled = conditional_log_variance(latent, label.repeat_interleave(samples))
        assert abs(expected["conditional_log_variance"] - shuffled) > 1e-3


def test_decoder_uncertainty_is_the_batchs_own(encoder, label):
    found = decoder_uncertainty_loss(encoder, label, classes=CLASSES)
    assert found.item() == pytest.approx(decoder_uncertainty(encoder, label), rel=1e-12)
    torch.testing.assert_close(found, exact_uncertainty(encoder, label), rtol=1e-12, atol=0)
    useless = torch.full_like(encoder, 1 / CATEGORIES)
    share = label.bincount() / POINTS
    found = decoder_uncertainty_loss(useless, label, classes=CLASSES).item()
    assert found == pytest.approx(float(torch.special.entr(share).sum()))


def gradient(loss, scores):
    leaf = scores.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf.softmax(dim=1)), leaf)
    return found


def test_the_gradient_of_a3_is_autograds_through_everything(label):
    scores = 2 * drawn(POINTS, CATEGORIES)
    full = gradient(lambda p: exact_uncertainty(p, label), scores)
    ours = gradient(lambda p: decoder_uncertainty_loss(p, label, classes=CLASSES), scores)
    torch.testing.assert_close(ours, full, rtol=0, atol=1e-10)
    assert full.abs().max() > 1e-3
    member = torch.nn.functional.one_hot(label, CLASSES).double()

    def another(p):
        """The surprise of the category under its class, in place of that of the class under its category."""
        of_class = (p.T @ member / member.sum(dim=0)).detach()
        return decoder_cross_entropy(p, of_class.log()[None], label)

    assert (gradient(another, scores) - full).abs().max() > 0.1 * full.abs().max()


def test_the_gradient_of_a3_is_each_runs_own_where_runs_are_mapped(label):
    scores = drawn(3, POINTS, CATEGORIES)
    labels = torch.stack([label, label.roll(1), label.flip(0)])
    stacked = scores.clone().requires_grad_()

    def one(own, its_label):
        return decoder_uncertainty_loss(own.softmax(dim=1), its_label, classes=CLASSES)

    vmap(one)(stacked, labels).sum().backward()
    assert stacked.grad is not None
    for place in range(3):
        expected = gradient(lambda p, y=labels[place]: exact_uncertainty(p, y), scores[place])
        torch.testing.assert_close(stacked.grad[place], expected, rtol=0, atol=1e-10)


def test_no_decoder_is_better_than_the_optimal_one(encoder, label):
    member = torch.nn.functional.one_hot(label, CLASSES).double()
    best = optimal_decoder(encoder.T @ member)
    torch.testing.assert_close(best.sum(dim=1), torch.ones(CATEGORIES).double())
    least = decoder_cross_entropy(encoder, best.log()[None], label)
    torch.testing.assert_close(least, exact_uncertainty(encoder, label), rtol=1e-12, atol=0)
    for seed in range(30):
        near = best.log() + 0.1 * drawn(CATEGORIES, CLASSES, seed=seed)
        far = drawn(CATEGORIES, CLASSES, seed=100 + seed)
        for decoder in (near, far):
            other = decoder.log_softmax(dim=1)
            value = decoder_cross_entropy(encoder, other[None], label)
            divergence = (encoder.mean(dim=0)[:, None] * best * (best.log() - other)).sum()
            torch.testing.assert_close(value, least + divergence, rtol=1e-10, atol=0)
            assert value > least


def test_a_category_without_weight_has_equal_class_probabilities():
    joint = torch.tensor([[0.0, 0.0], [3.0, 1.0], [1e-45, 0.0]])
    expected = torch.tensor([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
    torch.testing.assert_close(optimal_decoder(joint), expected)


def test_weights_that_underflow_have_finite_losses_and_gradients():
    """One category nobody has, one with the smallest float32 there is, one of a single class."""
    label = torch.tensor([0, 0, 1, 1])
    rows = [[0.0, 1e-45, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    weight = torch.tensor(rows).requires_grad_()
    loss = decoder_uncertainty_loss(weight, label, classes=2)
    expected = -(3 * 1 / 3 * math.log(1 / 3) + 3 * 2 / 3 * math.log(2 / 3)) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert weight.grad is not None and bool(torch.isfinite(weight.grad).all())
    scores = torch.tensor([[-200.0, -103.0, 0.0], [0.0, -104.0, -300.0]]).requires_grad_()
    decoder_uncertainty_loss(scores.softmax(dim=1), torch.tensor([0, 1]), classes=2).backward()
    assert scores.grad is not None and bool(torch.isfinite(scores.grad).all())


def test_prediction_cross_entropy_takes_weights_of_zero():
    label, table = torch.tensor([0, 1]), torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    weight = torch.tensor([[1.0, 0.0], [0.25, 0.75]]).requires_grad_()
    loss = prediction_cross_entropy(weight, table.log()[None], label)
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    loss.backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, -torch.tensor([[1.0, 0.0], [0.4, 1.2]]) / 2)


def test_the_error_is_bounded_by_the_decoder_cross_entropy(encoder, label):
    """Observation 3, and its equality where every label is as likely as every other."""
    for seed, sharpness in ((0, 0.5), (1, 2.0), (2, 8.0)):
        decoder = (sharpness * drawn(CATEGORIES, CLASSES, seed=seed)).softmax(dim=1)
        wrong = 1 - (encoder @ decoder).gather(1, label[:, None]).mean()
        for found in (decoder_cross_entropy, prediction_cross_entropy):
            assert wrong < 1 - (-found(encoder, decoder.log()[None], label)).exp()
    even = torch.full((CATEGORIES, CLASSES), 1 / CLASSES).double()
    bound = 1 - (-decoder_cross_entropy(encoder, even.log()[None], label)).exp()
    assert bound.item() == pytest.approx(1 - 1 / CLASSES, rel=1e-12)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("loss", [decoder_cross_entropy, prediction_cross_entropy])
def test_cross_entropies_name_what_does_not_fit(loss):
    weight, table = torch.full((4, 2), 0.5), torch.zeros(1, 2, 3).log_softmax(dim=2)
    label = torch.tensor([0, 1, 2, 0])
    assert loss(weight, table, label.int()).item() == pytest.approx(math.log(3))
    wrong = {
        "label is 3 at index 2; expected 0 to 2": (weight, table, label + 1),
        r"log_decoder has shape \(2, 2, 3\) for a weight": (weight, table.expand(2, 2, 3), label),
        r"weight has shape \(4,\)": (weight[:, 0], table, label),
        "label has 3 entries for 4 points": (weight, table, label[:3]),
    }
    for message, given in wrong.items():
        with pytest.raises(ValueError, match=message):
            loss(*given)


@pytest.mark.usefixtures("unhooked")
def test_decoder_uncertainty_names_labels_that_are_no_classes():
    with pytest.raises(ValueError, match="label is 2 at index 1; expected 0 to 1"):
        decoder_uncertainty_loss(torch.full((2, 2), 0.5), torch.tensor([1, 2]), classes=2)
    with pytest.raises(ValueError, match="joint has shape"):
        optimal_decoder(torch.ones(3))
