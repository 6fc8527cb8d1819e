import inspect
import json
import math

import pytest
import torch
from torch import nn

from experiments.probes.margins import digamma_gap, directions, entropies, probe, slopes
from experiments.studies import probing
from lpc.data import ImageSet, Splits
from lpc.evaluation.class_margins import distance_margin, summary
from lpc.heads import BottleneckHead, Classifier
from lpc.latents import Latents, collect


def image_set(generator, count, classes=3):
    """Return 4 x 4 images of random grey values, brighter in the row of their class."""
    label = torch.arange(count) % classes
    pixels = torch.randint(120, (count, 1, 4, 4), generator=generator)
    pixels[torch.arange(count), 0, label] += 100
    return ImageSet(pixels.to(torch.uint8), label, classes, (0.3,), (0.25,))


@pytest.fixture
def splits():
    generator = torch.Generator().manual_seed(0)
    return Splits(*(image_set(generator, count) for count in (90, 12, 60)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier(nn.Flatten(), BottleneckHead(16, 3, latent_width=4)).eval()


def scaled(model, latent=1.0, logits=1.0):
    """Return the same network with its latents and its logits multiplied."""
    head = model.head
    with torch.no_grad():
        for part in (head.penultimate.weight, head.penultimate.bias):
            part.mul_(latent)
        head.classifier.weight.mul_(logits / latent)
        head.classifier.bias.mul_(logits)
    return model


def test_the_probe_is_registered_and_can_be_written(model, splits):
    assert inspect.unwrap(probing.PROBES["margins"].function) is probe
    found = probe(model, splits)
    json.dumps(found.values, allow_nan=False)
    assert found.values["missing"] == {}
    assert found.table is not None
    assert list(found.table.columns) == ["label", "margin", "directions_margin"]
    assert next(model.parameters()).dtype == torch.float32  # a copy went through float64


def test_margins_are_those_of_the_latents_and_of_their_directions(model, splits):
    found = probe(model, splits)
    train, test = (collect(model, images) for images in (splits.train, splits.test))
    for prefix, change in (("", lambda z: z), ("directions_", lambda z: z / z.norm(dim=1, keepdim=True))):
        means = (change(train.latent.double()), train.label)
        for part, points in (("train", train), ("test", test)):
            margin = distance_margin(*means, change(points.latent.double()), points.label)
            expected = summary(margin)
            for name in ("mean", "median", "share_below_one", "on_mean"):
                value = found.values[f"{prefix}{part}_{name}"]
                assert value == pytest.approx(getattr(expected, name), rel=1e-12), (prefix, part, name)
        assert found.table is not None
        assert found.table[f"{prefix}margin"].tolist() == pytest.approx(margin.tolist(), rel=1e-12)
    assert found.values["test_median"] != pytest.approx(found.values["directions_test_median"], rel=1e-3)


def test_slopes_of_a_linear_network_in_closed_form(model, splits):
    found = slopes(model, splits.test)
    whole = (model.head.classifier.weight @ model.head.penultimate.weight).double().detach()
    inputs = splits.test.normalised().double().flatten(1)
    logits = collect(model, splits.test).logits.double()
    top = logits.topk(2, dim=1)
    norm = (whole[top.indices[:, 0]] - whole[top.indices[:, 1]]).norm(dim=1)
    distance = (top.values[:, 0] - top.values[:, 1]) / norm / inputs.norm(dim=1)
    expected = (norm.mean(), norm.quantile(0.5), norm.max(), distance.quantile(0.5), 0.0)
    assert tuple(found) == pytest.approx([float(value) for value in expected], rel=1e-4)


def test_latents_and_logits_rescaled_move_only_what_has_their_scale(model, splits):
    before = probe(model, splits).values
    small = probe(scaled(model, latent=1e-6), splits).values
    for name, value in before.items():
        if name in ("entropy_node", "entropy_released_node", "entropy_part_node"):
            assert small[name] - value == pytest.approx(math.log(1e-6), rel=1e-4), name
        elif name != "missing":
            assert small[name] == pytest.approx(value, rel=1e-3), name
    large = probe(scaled(model, logits=10.0), splits).values
    for name in ("gradient_mean", "gradient_median", "gradient_max"):
        assert large[name] == pytest.approx(10 * small[name], rel=1e-4)
    assert large["distance_median"] == pytest.approx(small["distance_median"], rel=1e-4)


def test_entropy_per_node_of_gaussians_and_what_the_release_adds():
    points, width, sd = 4_000, 3, 0.02
    generator = torch.Generator().manual_seed(1)
    latent = sd * torch.randn(points, width, generator=generator, dtype=torch.float64)
    label = torch.arange(points) % 10
    found = entropies(Latents(latent, torch.zeros(points, 10), label), classes=10)
    exact = 0.5 * math.log(2 * math.pi * math.e * sd**2)
    assert found.node == pytest.approx(exact, abs=0.03)  # a factor of two in a distance would be 0.69
    assert found.part == pytest.approx(exact, abs=0.06)
    assert found.unit_rms == pytest.approx(exact - math.log(sd), abs=0.03)
    harmonic = sum(1 / n for n in range(800, 4_000))  # psi(4000) - psi(800)
    assert digamma_gap(4_000, 800) == pytest.approx(harmonic, rel=1e-12)
    assert found.released - found.part == pytest.approx(harmonic / width, rel=1e-9)


def test_directions_have_length_one_and_a_zero_latent_has_none():
    latent = torch.tensor([[3e-200, 4e-200], [0.0, -2.0]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.8], [0.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(directions(latent), expected, rtol=1e-15, atol=0)
    with pytest.raises(ValueError, match="latent 1 is zero"):
        directions(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_what_a_dead_network_has_not_is_missing_with_its_reason(model, splits):
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    found = probe(model, splits)
    assert found.values["test_median"] is None and found.values["entropy_node"] is None
    assert "coincide" in found.values["missing"]["test_median"]
    assert "is zero" in found.values["missing"]["directions_test_median"]
    assert "distance zero" in found.values["missing"]["entropy_node"]
    assert found.values["zero_gradients"] == 60 and found.values["distance_median"] is None
    json.dumps(found.values, allow_nan=False)
