"""Backbones, heads and the images they are given."""

import pytest
import torch
from torch import nn

from lpc.backbones import build_backbone
from lpc.classifiers import build_classifier
from lpc.data import Augment, batches, load_images
from lpc.heads import BottleneckHead, Classifier
from lpc.latents import collect
from lpc.specs import DataSpec, ModelSpec


@pytest.mark.parametrize(
    ("name", "width", "features", "parameters"),
    [
        # conv1 and the stages of the usual CIFAR ResNets, without their classifier
        ("resnet18", 64, 512, 11_173_962 - 5_130),
        ("resnet50", 64, 2048, 23_520_842 - 20_490),
        ("mlp", 16, 16, 3 * 32 * 32 * 16 + 16 * 16 + 4 * 16),
        ("small_cnn", 4, 16, 9 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16)),
    ],
)
def test_backbones_have_their_known_size_and_width(name, width, features, parameters):
    backbone = build_backbone(name, channels=3, size=32, width=width)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert backbone.feature_width == features
    assert backbone.eval()(torch.randn(2, 3, 32, 32)).shape == (2, features)
    assert not any(isinstance(module, nn.ReLU) for module in backbone.modules())


def test_unknown_backbones_and_widths_are_named():
    with pytest.raises(ValueError, match=r"'resnet19'.*resnet18"):
        build_backbone("resnet19", channels=3, size=32, width=64)
    with pytest.raises(ValueError, match="width is 32; only 64"):
        build_backbone("resnet18", channels=3, size=32, width=32)


def test_heads_are_the_formulas_of_section_2():
    features = torch.randn(5, 7)
    linear = BottleneckHead(7, 3, penultimate="linear", latent_width=4)
    latent = features @ linear.penultimate.weight.T + linear.penultimate.bias  # type: ignore[union-attr]
    output = linear(features)
    torch.testing.assert_close(output.latent, latent)
    torch.testing.assert_close(output.logits, latent @ linear.classifier.weight.T + linear.classifier.bias)
    nonlinear = BottleneckHead(7, 3, penultimate="nonlinear", latent_width=4)
    nonlinear.load_state_dict(linear.state_dict())
    torch.testing.assert_close(nonlinear(features).latent, nn.functional.silu(latent))
    none = BottleneckHead(7, 3, penultimate="none")
    assert torch.equal(none(features).latent, features)
    assert BottleneckHead(7, 3).latent_width == 7


def test_dropout_is_before_the_classifier_or_after_it_and_never_in_the_latent():
    features, keep = torch.ones(4, 6), torch.tensor([2.0, 0, 2, 0, 2, 0]).expand(4, 6)
    head = BottleneckHead(6, 3, penultimate="none", dropout=0.5).eval()
    output = head(features, keep=keep)
    assert torch.equal(output.latent, features)
    torch.testing.assert_close(output.logits, head.classifier(keep))
    after = BottleneckHead(6, 3, penultimate="none", dropout=0.5, dropout_site="logits").train()
    torch.manual_seed(0)
    dropped = torch.cat([after(features).logits for _ in range(50)])
    whole = after.eval()(features).logits[0]
    zero = dropped == 0
    assert 0.4 < zero.float().mean() < 0.6
    torch.testing.assert_close(dropped[~zero], (2 * whole).expand_as(dropped)[~zero])


def test_the_head_stays_in_float32_under_autocast():
    head = BottleneckHead(6, 3, latent_width=2)
    features = torch.randn(4, 6)
    exact = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(features)
        low = head(features.bfloat16())
    assert torch.equal(output.latent, exact.latent) and torch.equal(output.logits, exact.logits)
    assert low.latent.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"penultimate": "none", "latent_width": 3}, "latent_width is 3"),
        ({"classes": 1}, "classes is 1"),
    ],
)
def test_heads_that_cannot_be_are_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        BottleneckHead(**{"feature_width": 6, "classes": 3, **arguments})


def test_weights_come_from_the_seed_and_torchs_own_state_is_left_alone():
    spec = ModelSpec(backbone="mlp", backbone_width=8, penultimate="linear", latent_width=4)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (
        build_classifier(spec, channels=1, size=8, classes=10, seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.classifier.weight"], other["head.classifier.weight"])


def test_digits_split_is_fixed_stratified_and_disjoint():
    spec = DataSpec(name="digits", validation=240)
    splits = load_images(spec)
    assert splits.validation is not None
    assert [len(part) for part in splits] == [1197, 240, 360]  # type: ignore[arg-type]
    again = load_images(spec)
    assert [part.checksum() for part in splits] == [part.checksum() for part in again]  # type: ignore[union-attr]
    for part in (splits.train, splits.validation, splits.test):
        counts = part.label.bincount()
        assert counts.max() - counts.min() <= 0.15 * counts.max()
    rows = [{tuple(row) for row in part.images.flatten(1).tolist()} for part in splits]  # type: ignore[union-attr]
    assert len(rows[0] | rows[1] | rows[2]) == 1797 == sum(len(part) for part in rows)
    full = load_images(DataSpec(name="digits"))
    assert full.validation is None and len(full.train) == 1437
    assert torch.equal(full.test.images, splits.test.images)


def test_training_images_are_normalised_by_their_own_mean_and_sd():
    splits = load_images(DataSpec(name="digits", validation=100, train_limit=200))
    assert len(splits.train) == 200
    images = splits.train.normalised()
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert splits.test.mean == splits.train.mean
    assert splits.train.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DataSpec(name="digit"), "unknown data set 'digit'. Did you mean digits"),
        (DataSpec(name="digits", validation=1437), "validation asks for 1437 of 1437"),
        (DataSpec(name="digits", validation=5), "validation asks for 5 of 1437"),
    ],
)
def test_data_that_cannot_be_are_errors(spec, words):
    with pytest.raises(ValueError, match=words):
        load_images(spec)


def test_batches_visit_every_point_once():
    generator = torch.Generator().manual_seed(0)
    parts = list(batches(10, 4, generator))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.cat(parts).sort().values.tolist() == list(range(10))


def test_augmentation_is_seeded_and_each_part_does_what_it_says():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    assert Augment().moved(images, generator) is images
    flips = torch.cat([Augment(flip=True).moved(images, generator) for _ in range(50)])
    mirrored = [torch.equal(image, images[i % 2].flip(-1)) for i, image in enumerate(flips)]
    same = [torch.equal(image, images[i % 2]) for i, image in enumerate(flips)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True)) and 30 < sum(mirrored) < 70
    ones = torch.ones(200, 1, 8, 8, dtype=torch.uint8)
    crops = Augment(crop_padding=4).moved(ones, generator)
    covered = crops.sum(dim=(1, 2, 3))
    assert crops.shape == ones.shape
    assert covered.min() >= 16 and covered.max() == 64 and len(covered.unique()) > 8
    noisy = Augment(noise=0.01).noisy(torch.zeros(4, 1, 50, 50), torch.Generator().manual_seed(1))
    assert noisy.std().item() == pytest.approx(0.01, rel=0.05)
    again = Augment(noise=0.01).noisy(torch.zeros(4, 1, 50, 50), torch.Generator().manual_seed(1))
    assert torch.equal(noisy, again)


def test_an_own_backbone_becomes_a_classifier_in_one_call():
    splits = load_images(DataSpec(name="digits", validation=100, train_limit=50))
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 20)), BottleneckHead(20, 10, latent_width=3))
    model.train()
    latents = collect(model, splits.train, batch_size=16)
    assert model.training
    assert latents.latent.shape == (50, 3) and latents.predicted.shape == (50,)
    model.eval()
    torch.testing.assert_close(latents.logits, model(splits.train.normalised()).logits)
