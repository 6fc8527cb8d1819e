"""Losses of metric learning against loops, angles and closed forms, and training with them."""

import copy
import dataclasses
import io
import math
import sys
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

from lpc.classifiers import build_classifier
from lpc.data import load_images
from lpc.heads import CosineClassifier, HeadOutput
from lpc.losses import squared_norm
from lpc.metric_learning import arcface, cosface, library, supervised_contrastive
from lpc.objectives import objective
from lpc.runs import execute
from lpc.specs import EMBEDDINGS, METRIC_LEARNING, DataSpec, ModelSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore
from lpc.training import trainer
from lpc.training.cohorts import Cohort
from lpc.training.solo import Solo

POINTS, WIDTH, CLASSES, SCALE = 24, 6, 4, 32.0


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def latent():
    return drawn(POINTS, WIDTH).requires_grad_()


@pytest.fixture
def weight():
    return drawn(CLASSES, WIDTH, seed=1).requires_grad_()


@pytest.fixture
def label():
    """Three classes at random, and one with a single point."""
    found = torch.randint(CLASSES - 1, (POINTS,), generator=torch.Generator().manual_seed(5))
    found[7] = CLASSES - 1
    return found


def contrastive_by_a_loop(latent, label, temperature):
    """Eq. 2 of Khosla et al. 2020, and beside it their Eq. 3, whose mean is inside of the logarithm."""
    unit = latent / latent.square().sum(dim=1, keepdim=True).sqrt()
    outside, inside = [], []
    for i in range(len(label)):
        positives = [p for p in range(len(label)) if p != i and label[p] == label[i]]
        if not positives:
            continue
        terms = [torch.exp(unit[i] @ unit[a] / temperature) for a in range(len(label)) if a != i]
        shares = [torch.exp(unit[i] @ unit[p] / temperature) / torch.stack(terms).sum() for p in positives]
        outside.append(-torch.stack(shares).log().mean())
        inside.append(-torch.stack(shares).mean().log())
    return torch.stack(outside).mean(), torch.stack(inside).mean()


@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_contrastive_loss_is_the_mean_over_anchors_that_have_a_positive(latent, label, temperature):
    found = supervised_contrastive(latent, label, temperature=temperature)
    expected, inside = contrastive_by_a_loop(latent, label, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(value, latent)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert found - inside > 0.01  # Jensen: their Eq. 3 is smaller
    assert found > 1.04 * expected * (POINTS - 1) / POINTS  # over all anchors, the lonely one as 0


def test_contrastive_loss_of_collapsed_classes_is_its_lower_bound():
    """K points that are a simplex, n times each (Graf et al. 2021, Theorem 2)."""
    classes, copies, temperature = 5, 6, 0.4
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    label = torch.arange(classes).repeat_interleave(copies)
    cosine = -1 / (classes - 1)
    others = copies * (classes - 1) * math.exp((cosine - 1) / temperature)
    found = supervised_contrastive(3e-4 * centred[label], label, temperature=temperature)
    assert found.item() == pytest.approx(math.log(copies - 1 + others), rel=1e-12)
    spread = centred[label] + 0.05 * drawn(len(label), classes)
    assert supervised_contrastive(spread, label, temperature=temperature) > found


def test_anchors_that_are_perfect_to_rounding_count():
    """The library's own mean leaves them out: it would give the mean of the other pair."""
    latent = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    label = torch.tensor([0, 0, 1, 1])
    found = supervised_contrastive(latent, label, temperature=0.02)
    hard = math.log(3)  # a positive and two others, all orthogonal
    assert found.item() == pytest.approx(hard / 2, rel=1e-5)
    own = library()[0].SupConLoss(temperature=0.02)(latent, label)
    assert own.item() == pytest.approx(hard, rel=1e-5)


@pytest.mark.parametrize("label", [torch.arange(POINTS), torch.zeros(POINTS, dtype=torch.long)])
def test_without_a_positive_or_a_negative_the_contrastive_loss_is_zero(latent, label):
    found = supervised_contrastive(latent, label, temperature=0.1)
    assert found == 0
    (gradient,) = torch.autograd.grad(found, latent)
    assert bool((gradient == 0).all())


def angles(latent, weight):
    cosine = normalize(latent) @ normalize(weight).T
    return cosine, torch.acos(cosine)


def test_arcface_adds_its_margin_to_the_angle(latent, weight, label):
    cosine, angle = angles(latent, weight)
    own = one_hot(label, CLASSES).bool()
    assert angle[own].max() < math.pi - 0.3
    expected = cross_entropy(SCALE * torch.where(own, (angle + 0.3).cos(), cosine), label)
    found = arcface(latent, label, weight, margin=0.3, scale=SCALE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(value, (latent, weight)) for value in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    degrees = cross_entropy(SCALE * torch.where(own, (angle + math.radians(0.3)).cos(), cosine), label)
    assert found - degrees > 1  # the library's margins are in degrees, ours in radians


def test_cosface_takes_its_margin_off_the_cosine(latent, weight, label):
    cosine, _ = angles(latent, weight)
    expected = cross_entropy(SCALE * (cosine - 0.3 * one_hot(label, CLASSES).double()), label)
    found = cosface(latent, label, weight, margin=0.3, scale=SCALE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(value, (latent, weight)) for value in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_arcface_goes_on_falling_beyond_half_a_turn():
    angle = torch.linspace(2.5, 3.14, 60, dtype=torch.float64)
    latent = torch.stack([angle.cos(), angle.sin()], dim=1)
    weight = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    label = torch.zeros(1, dtype=torch.long)
    losses = torch.stack([arcface(row[None], label, weight, margin=0.3, scale=4.0) for row in latent])
    own = torch.where(angle + 0.3 <= math.pi, (angle + 0.3).cos(), angle.cos() - 0.3 * math.sin(0.3))
    expected = torch.log1p((4 * (-angle.sin() - own)).exp())
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)
    assert int((angle + 0.3 > math.pi).sum()) > 20


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_without_a_margin_both_are_the_cross_entropy_of_a_cosine_classifier(latent, weight, label, name):
    layer = CosineClassifier(WIDTH, CLASSES, scale=SCALE).double()
    layer.weight.data = weight.detach()
    loss = {"arcface": arcface, "cosface": cosface}[name]
    found = loss(latent, label, weight, margin=0.0, scale=SCALE)
    torch.testing.assert_close(found, cross_entropy(layer(latent), label), rtol=1e-12, atol=0)
    assert loss(latent, label, weight, margin=0.3, scale=SCALE) > found + 1


@pytest.mark.parametrize("factor", [1e-9, 1e6])
def test_no_loss_sees_the_length_of_latents_or_weights(latent, weight, label, factor):
    for loss in (arcface, cosface):
        found = loss(factor * latent, label, 3 * weight, margin=0.3, scale=SCALE)
        expected = loss(latent, label, weight, margin=0.3, scale=SCALE)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found = supervised_contrastive(factor * latent, label, temperature=0.05)
    torch.testing.assert_close(
        found, supervised_contrastive(latent, label, temperature=0.05), rtol=1e-12, atol=0
    )


def test_latents_on_their_classes_weights_have_finite_gradients():
    """Where the cosine is 1 the angle's own gradient is infinite."""
    weight = torch.eye(3).requires_grad_()
    label = torch.tensor([0, 1, 2, 2])
    latent = torch.eye(3)[label].requires_grad_()
    for gradient in torch.autograd.grad(
        arcface(latent, label, weight, margin=0.3, scale=64.0), (latent, weight)
    ):
        assert bool(torch.isfinite(gradient).all())
    one = torch.ones(()).requires_grad_()
    assert torch.autograd.grad(one.acos(), one)[0] == -math.inf


def test_latents_of_zero_have_finite_losses_and_gradients(label):
    latent, weight = torch.zeros(POINTS, WIDTH).requires_grad_(), drawn(CLASSES, WIDTH).float()
    losses = [loss(latent, label, weight, margin=0.3, scale=SCALE) for loss in (arcface, cosface)]
    expected = [math.log1p(3 * math.exp(SCALE * taken)) for taken in (math.sin(0.3), 0.3)]
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-6)
    for loss in (*losses, supervised_contrastive(latent, label, temperature=0.05)):
        (gradient,) = torch.autograd.grad(loss, latent)
        assert bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())


def test_half_precision_is_computed_in_float32(latent, weight, label):
    half, small = latent.detach().bfloat16(), weight.detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = arcface(half, label, small, margin=0.3, scale=SCALE)
        contrast = supervised_contrastive(half, label, temperature=0.05)
    assert found.dtype == contrast.dtype == torch.float32
    assert found == arcface(half.float(), label, small, margin=0.3, scale=SCALE)
    assert contrast == supervised_contrastive(half.float(), label, temperature=0.05)


def test_no_random_numbers_are_taken_from_the_caller(latent, weight, label):
    before = torch.get_rng_state()
    for scale in (7.25, 7.5):  # each a new loss of the library
        arcface(latent, label, weight, margin=0.3, scale=scale)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda z, y, w: supervised_contrastive(z, y, temperature=0.0), r"temperature is 0\.0; .*positive"),
        (lambda z, y, w: arcface(z, y, w, margin=-0.1, scale=1.0), r"margin is -0\.1; .*below pi / 2"),
        (lambda z, y, w: cosface(z, y, w, margin=17.2, scale=1.0), r"margin is 17\.2; .*below pi / 2"),
        (lambda z, y, w: cosface(z, y, w, margin=0.1, scale=math.inf), "scale is inf; .*positive"),
        (
            lambda z, y, w: arcface(z, y, w.float(), margin=0.1, scale=1.0),
            "float64 but the weight torch.float32",
        ),
    ],
)
def test_bad_values_are_named(latent, weight, label, call, words):
    with pytest.raises(ValueError, match=words):
        call(latent, label, weight)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    train = TrainSpec(epochs=1, learning_rate=1.0, objective="supervised_contrastive")
    with pytest.raises(ImportError, match="extra 'margins'"):
        objective(train, ModelSpec(backbone="mlp", backbone_width=8), classes=10)


# Objectives


MODEL = ModelSpec(backbone="mlp", backbone_width=8)
COSINE = dataclasses.replace(MODEL, classifier="cosine", classifier_scale=SCALE)


def loss_of(name, **train):
    model = COSINE if name in ("arcface", "cosface") else MODEL
    spec = TrainSpec(epochs=1, learning_rate=1.0, objective=name, **train)
    return objective(spec, model, classes=CLASSES)


def output_of(latent, weight):
    """A last layer with these weights, and what a head with it returns."""
    layer = torch.nn.Linear(WIDTH, CLASSES).double()
    layer.weight.data = weight.detach()
    return layer, HeadOutput(latent, layer(latent))


def test_the_probe_of_a_contrastive_latent_sends_it_no_gradient(latent, weight, label):
    layer, output = output_of(latent, weight)
    contrast = supervised_contrastive(latent, label, temperature=0.05)
    entropy = cross_entropy(layer(latent.detach()), label)
    (expected,) = torch.autograd.grad(contrast, latent)
    ours = list(layer.parameters())
    of_layer = torch.autograd.grad(entropy, ours)
    for name in ("supervised_contrastive", "contrastive_cross_entropy"):
        main, penalty = loss_of(name)(output, label, gamma=0.0, classifier=layer)
        torch.testing.assert_close(main, contrast + entropy, rtol=1e-12, atol=0)
        assert penalty == 0
        found, *others = torch.autograd.grad(main, [latent, *ours], retain_graph=True)
        for one, other in zip(others, of_layer, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
        same = torch.allclose(found, expected, rtol=1e-10, atol=1e-14)
        assert same == (name == "supervised_contrastive")


@pytest.mark.parametrize("name", ["contrastive_cross_entropy", "arcface", "cosface"])
def test_the_squared_norm_stands_beside_the_main_term(latent, weight, label, name):
    layer, output = output_of(latent, weight)
    loss = loss_of(name, penalty="squared_norm", margin=0.2, temperature=0.3)
    main, penalty = loss(output, label, gamma=0.7, classifier=layer)
    torch.testing.assert_close(penalty, 0.7 * squared_norm(latent, reduction="sum"), rtol=1e-12, atol=0)
    margins = {"arcface": arcface, "cosface": cosface}
    if name in margins:
        expected = margins[name](latent, label, layer.weight, margin=0.2, scale=SCALE)
    else:
        contrast = supervised_contrastive(latent, label, temperature=0.3)
        expected = contrast + cross_entropy(output.logits, label)
    torch.testing.assert_close(main, expected, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=f"classifier is None; the objective '{name}'"):
        loss(output, label, gamma=0.7)


# Training


DATA = DataSpec(name="digits", validation=100, train_limit=150)
TRAIN = TrainSpec(epochs=4, batch_size=64, learning_rate=5e-3, record_every=2, gamma_initial=0.1)
NAMES = [name for name, variant in EMBEDDINGS.items() if variant.objective in METRIC_LEARNING]


def make(architecture, *, seed=0, **train):
    return variant_spec(
        architecture,
        data=DATA,
        backbone="mlp",
        backbone_width=16,
        train=dataclasses.replace(TRAIN, **train),
        seed=seed,
        variants=EMBEDDINGS,
    )


@pytest.fixture(scope="module")
def splits():
    return load_images(DATA)


def one_step(model: Any, name, images, label, gamma):
    """The main term of a batch and the whole loss, written out for one objective."""
    latent = model(images).latent
    cosine, angle = angles(latent, model.head.classifier.weight)
    own = one_hot(label, 10).bool()
    if name == "ArcFaceLPC":
        main = cross_entropy(SCALE * torch.where(own, (angle + 0.3).cos(), cosine), label)
    elif name == "CosFace":
        main = cross_entropy(SCALE * (cosine - 0.3 * own), label)
    else:
        seen = latent.detach() if name == "SupCon" else latent
        entropy = cross_entropy(model.head.classifier(seen), label)
        main = contrastive_by_a_loop(latent, label, 0.05)[0] + entropy
    penalty = gamma * latent.square().sum(dim=1).mean() if name.endswith("LPC") else 0.0
    return main, main + penalty


@pytest.mark.parametrize("name", ["SupCon", "SupConLPC", "ArcFaceLPC", "CosFace"])
def test_training_is_what_a_plain_loop_gives(splits, name):
    spec = make(name)
    training = Solo([spec], splits.train)
    orders = copy.deepcopy(training.draws[0])
    model: Any = build_classifier(spec.model, channels=1, size=8, classes=10, seed=0)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.5e-4)
    total = 0.0
    for batch in orders.epoch():
        main, loss = one_step(model, name, batch.images, batch.label, 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += main.item() * len(batch.label)
    assert training.train_epoch().cross_entropy.item() == pytest.approx(total / 150, rel=1e-4)
    ours, theirs = training.member_state(0), model.state_dict()
    for part in ("head.penultimate.weight", "head.classifier.weight"):
        assert (ours[part] - theirs[part]).norm() < 1e-3 * (theirs[part] - before[part]).norm()


@pytest.mark.parametrize("name", ["ArcFaceLPC", "SupCon"])
def test_four_epochs_are_two_and_two_to_the_bit(splits, name):
    spec = make(name, decay="cosine", decay_start=1)

    def trained(epochs):
        training = trainer([spec], splits.train)
        return training, [training.train_epoch() for _ in range(epochs)]

    (whole, losses), (half, _) = trained(4), trained(2)
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    buffer.seek(0)
    resumed = trainer([spec], splits.train)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    again = [resumed.train_epoch() for _ in range(2)]
    assert torch.equal(again[1].cross_entropy, losses[3].cross_entropy)
    expected = whole.member_state(0)
    assert all(torch.equal(expected[part], value) for part, value in resumed.member_state(0).items())


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_learns_digits_and_is_measured(tmp_path, name):
    spec, store = make(name, epochs=8, record_every=8), RunStore(tmp_path)
    execute(spec, store)
    result = store.result(spec)
    assert result["status"] == "finished" and result["missing"] == {}
    # over four seeds, and all objectives: 0.82 or more and 0.69 or more; the loss at most 0.37 of the first
    assert result["accuracy"] > 0.5 and result["validation_accuracy"] > 0.5
    if "Face" in name:
        assert result["bias_free_accuracy"] == result["accuracy"]
    history = store.history([run_key(spec)])
    first, *_, last = history["loss_cross_entropy"]
    assert last < 0.7 * first and (history["gamma"] > 0).all() == name.endswith("LPC")
    versions = store.provenance(spec)["versions"]
    assert versions["pytorch-metric-learning"]


def test_cohorts_and_graphs_refuse_metric_learning(splits):
    alike = [make("ArcFace"), make("ArcFace", seed=1)]
    with pytest.raises(ValueError, match="objective is 'arcface'; a cohort cannot"):
        Cohort(alike, splits.train)
    with pytest.raises(ValueError, match="graph cannot hold a step of the objective 'arcface'"):
        Solo(alike[:1], splits.train, graphed=True)
    assert Solo(alike[:1], splits.train).packing() == {"compiled": False, "graphed": False}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["SupConLPC", "ArcFaceLPC"])
def test_on_a_gpu_nothing_is_graphed_and_the_losses_are_the_cpus(splits, name):
    on_gpu = load_images(DATA, device=torch.device("cuda"))
    spec = make(name)
    training, expected = Solo([spec], on_gpu.train), Solo([spec], splits.train)
    assert not training.packing()["graphed"]
    latent = expected.outputs(splits.train).latent[0].detach()
    label, weight = splits.train.label, expected.model.state_dict()["head.classifier.weight"]
    there = latent.cuda(), label.cuda()
    ours = supervised_contrastive(*there, temperature=0.05).cpu()
    torch.testing.assert_close(
        ours, supervised_contrastive(latent, label, temperature=0.05), rtol=1e-4, atol=0
    )
    ours = arcface(*there, weight.cuda(), margin=0.3, scale=SCALE).cpu()
    torch.testing.assert_close(
        ours, arcface(latent, label, weight, margin=0.3, scale=SCALE), rtol=1e-4, atol=0
    )
    assert all(bool(torch.isfinite(training.train_epoch().cross_entropy).all()) for _ in range(2))


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize("loss", [arcface, cosface])
def test_margin_losses_take_integers_of_any_width_and_name_what_they_do_not_take(loss):
    generator = torch.Generator().manual_seed(0)
    latent, weight = torch.randn(12, 5, generator=generator), torch.randn(3, 5, generator=generator)
    label = torch.arange(12) % 3
    rule = {"margin": 0.3, "scale": 8.0}
    expected = loss(latent, label, weight, **rule)
    for kind in (torch.int32, torch.uint8, torch.int16):
        torch.testing.assert_close(loss(latent, label.to(kind), weight, **rule), expected, rtol=0, atol=0)
    wrong = {
        "label is 3 at index 2; expected 0 to 2": (latent, label + 1, weight),
        "label is -1 at index 0": (latent, label - 1, weight),
        "label has dtype torch.float32": (latent, label.float(), weight),
        "label is a ndarray": (latent, label.numpy(), weight),
        "latent has width 4 and weight has width 5": (latent[:, :4], label, weight),
        "weight has shape": (latent, label, weight[0]),
        "latent has shape": (latent[:, :, None, None], label, weight),
    }
    for message, given in wrong.items():
        with pytest.raises(ValueError, match=message):
            loss(*given, **rule)


@pytest.mark.usefixtures("unhooked")
def test_the_contrastive_loss_takes_any_integers_as_classes():
    latent = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    label = torch.arange(12) % 3
    expected = supervised_contrastive(latent, label, temperature=0.1)
    for other in (label.int(), label.to(torch.uint8), label - 1, label * 10**10):
        torch.testing.assert_close(supervised_contrastive(latent, other, temperature=0.1), expected)
    with pytest.raises(ValueError, match="label has shape"):
        supervised_contrastive(latent, torch.nn.functional.one_hot(label), temperature=0.1)
