"""Last layers that see only directions: their formula, and measurements with them."""

import copy
import dataclasses
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from lpc.classifiers import build_classifier
from lpc.data import load_images
from lpc.heads import BottleneckHead, CosineClassifier, readout_weight
from lpc.latents import collect
from lpc.runs.measurements import latent_metrics, table2_metrics
from lpc.specs import EMBEDDINGS, DataSpec, TrainSpec, variant_spec
from lpc.training import load_member
from lpc.training.cohorts import Cohort
from lpc.training.solo import Solo

DATA = DataSpec(name="digits", validation=100, train_limit=150)
TRAIN = TrainSpec(epochs=2, batch_size=64, learning_rate=5e-3)


def make(**changes):
    """ArcFace's network, and its cosine classifier under the plain cross-entropy."""
    spec = variant_spec(
        "ArcFace",
        data=DATA,
        backbone="mlp",
        backbone_width=16,
        train=TRAIN,
        seed=0,
        variants=EMBEDDINGS,
    )
    return dataclasses.replace(spec, train=dataclasses.replace(spec.train, **changes))


@pytest.fixture(scope="module")
def splits():
    return load_images(DATA)


def test_logits_are_the_scaled_cosines_of_angles():
    torch.manual_seed(0)
    layer, latent = CosineClassifier(5, 3, scale=7.0).double(), torch.randn(8, 5, dtype=torch.float64)
    found = layer(latent)
    for n in range(8):
        for k in range(3):
            z, w = latent[n], layer.weight[k]
            # a triangle of sides |z|, |w| and |z - w|: the law of cosines
            opposite = (z - w).square().sum()
            cosine = (z.square().sum() + w.square().sum() - opposite) / (2 * z.norm() * w.norm())
            assert found[n, k].item() == pytest.approx(7 * cosine.item(), rel=1e-9)
    torch.testing.assert_close(layer(1e-7 * latent), found, rtol=1e-9, atol=0)
    layer.weight.data *= torch.tensor([[1e-4], [1.0], [1e3]])
    torch.testing.assert_close(layer(latent), found, rtol=1e-9, atol=0)


def test_the_bias_is_zero_and_not_trained():
    head = BottleneckHead(6, 3, latent_width=4, classifier="cosine", classifier_scale=5.0)
    assert {name for name, _ in head.classifier.named_parameters()} == {"weight"}
    assert torch.equal(head.state_dict()["classifier.bias"], torch.zeros(3))
    output = head(torch.randn(10, 6))
    torch.testing.assert_close(output.logits, head.classifier(output.latent))
    assert output.logits.abs().max() <= 5.0 * (1 + 1e-6)


def test_a_latent_of_zero_has_logits_of_zero_and_finite_gradients():
    layer, latent = CosineClassifier(4, 3, scale=32.0), torch.zeros(2, 4, requires_grad=True)
    logits = layer(latent)
    assert torch.equal(logits, torch.zeros(2, 3))
    for gradient in torch.autograd.grad(cross_entropy(logits, torch.tensor([0, 2])), [latent, layer.weight]):
        assert bool(torch.isfinite(gradient).all())


def test_the_head_stays_in_float32_under_autocast():
    head = BottleneckHead(6, 3, latent_width=4, classifier="cosine")
    features = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(features)
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits, head(features).logits, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_that_are_not_positive_are_refused(scale):
    with pytest.raises(ValueError, match=r"scale of a cosine classifier is .*positive"):
        CosineClassifier(4, 3, scale=scale)


def test_unknown_classifiers_are_named(unchecked):
    head = BottleneckHead.__new__(BottleneckHead)
    with pytest.raises(ValueError, match=r"unknown classifier 'cosin'.*cosine"):
        unchecked(BottleneckHead.__init__)(head, 6, 3, classifier="cosin")


def test_the_readouts_weight_decides_as_the_layer_does():
    """Rows of other lengths decide otherwise until they are brought to one length."""
    torch.manual_seed(0)
    layer, latent = CosineClassifier(5, 4, scale=9.0), torch.randn(300, 5)
    layer.weight.data *= torch.tensor([[1.0], [30.0], [0.1], [3.0]])
    decided = layer(latent).argmax(dim=1)
    readout = readout_weight(layer.weight.detach(), "cosine")
    assert torch.equal((latent @ readout.T).argmax(dim=1), decided)
    assert ((latent @ layer.weight.T).argmax(dim=1) != decided).float().mean() > 0.3
    assert readout_weight(layer.weight, "linear") is layer.weight


def test_accuracies_and_neural_collapse_are_those_of_directions(splits):
    """A trained network, its classifier's rows brought to very unequal lengths: nothing changes."""
    spec = make()
    training = Solo([spec], splits.train)
    for _ in range(2):
        training.train_epoch()
    model = load_member(spec, splits.train, training.member_state(0))
    stretched = copy.deepcopy(model)
    stretched.get_parameter("head.classifier.weight").data *= torch.logspace(-2, 2, 10)[:, None]
    found = []
    for one in (model, stretched):
        latents, weight = collect(one, splits.train), one.get_parameter("head.classifier.weight").detach()
        values = latent_metrics(
            latents,
            weight=readout_weight(weight, "cosine"),
            bias=one.get_buffer("head.classifier.bias"),
            classes=10,
            mixtures=False,
        ).values
        on_test = table2_metrics(one, splits).values
        assert values["bias_free_accuracy"] == values["accuracy"] > 0.15  # 0.31 to 0.68 over eight seeds
        assert on_test["bias_free_accuracy"] == on_test["accuracy"]
        found.append([values["nc3"], values["nc4"], on_test["accuracy"], on_test["deepfool_median"]])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    raw = latent_metrics(
        latents, weight=weight, bias=one.get_buffer("head.classifier.bias"), classes=10, mixtures=False
    ).values
    # over eight seeds 0.14 to 0.31, and 0.38 to 0.59
    assert raw["bias_free_accuracy"] < raw["accuracy"] - 0.03 and abs(raw["nc3"] - found[0][0]) > 0.1


def test_under_plain_cross_entropy_a_cosine_classifier_is_packed_as_any_other(splits):
    """A run alone and in a cohort agree; only its direction is trained."""
    alike = [dataclasses.replace(make(objective="decoder_cross_entropy"), seed=seed) for seed in range(2)]
    together = Cohort(alike, splits.train)
    alone = Solo(alike[:1], splits.train)
    for _ in range(2):
        expected = alone.train_epoch().cross_entropy[0]
        torch.testing.assert_close(together.train_epoch().cross_entropy[0], expected, rtol=1e-3, atol=0)
    state, before = (
        alone.member_state(0),
        build_classifier(alike[0].model, channels=1, size=8, classes=10, seed=0),
    )
    assert torch.equal(state["head.classifier.bias"], torch.zeros(10))
    assert not torch.equal(state["head.classifier.weight"], before.get_parameter("head.classifier.weight"))
