"""Backbones and heads."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from lpc.backbones import build_backbone
from lpc.classifiers import bottleneck_classifier, build_classifier
from lpc.data import load_images
from lpc.heads import BottleneckHead, Classifier
from lpc.latents import collect
from lpc.losses import squared_norm
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


def test_unknown_backbones_are_named():
    with pytest.raises(ValueError, match=r"'resnet19'.*resnet18"):
        build_backbone("resnet19", channels=3, size=32, width=64)


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (1, 32), (3, 28), (3, 32)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_take_both_kinds_of_image_and_any_width(name, channels, size):
    backbone: Any = build_backbone(name, channels=channels, size=size, width=4)
    images = torch.randn(2, channels, size, size)
    assert backbone.feature_width == {"resnet18": 32, "resnet50": 128}[name]
    assert backbone(images).shape == (2, backbone.feature_width)
    seen = []
    backbone.stages.register_forward_hook(lambda _, __, out: seen.append(out.shape[-2:]))
    backbone(images)
    assert seen == [(4, 4)]  # a stem of stride 1, then three halvings


def test_resnet18_computes_what_torchvisions_does():
    """The same weights in torchvision's own ResNet-18, its stem and activations replaced."""
    ours: Any = build_backbone("resnet18", channels=3, size=32, width=64).eval()
    theirs: Any = torchvision.models.resnet18()
    theirs.conv1, theirs.maxpool, theirs.fc = ours.stem[0], nn.Identity(), nn.Identity()
    for module in theirs.modules():
        if hasattr(module, "relu"):
            module.relu = nn.SiLU()
    blocks = [block for n in range(1, 5) for block in getattr(theirs, f"layer{n}")]
    for block, own in zip(blocks, ours.stages, strict=True):
        block.load_state_dict(own.state_dict())
    theirs.bn1.load_state_dict(ours.stem[1].state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)


def test_convolutions_begin_as_he_et_al_say():
    backbone: Any = build_backbone("resnet18", channels=3, size=32, width=64)
    weight = backbone.stages[-1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


class Pooled(nn.Module):
    def forward(self, images):
        return images.mean(dim=(-2, -1))


def test_any_network_becomes_a_classifier_in_one_call():
    images = torch.randn(5, 7, 6, 6)
    model = bottleneck_classifier(Pooled().train(), 3, latent_width=2, images=images)
    output = model(images)
    assert output.latent.shape == (5, 2) and output.logits.shape == (5, 3)
    assert model.backbone.training
    assert model.head.penultimate is not None and model.head.penultimate.in_features == 7
    assert bottleneck_classifier(Pooled(), 3, feature_width=7)(images).latent.shape == (5, 7)
    ours = build_backbone("small_cnn", channels=7, size=6, width=2)
    assert bottleneck_classifier(ours, 3, penultimate="none")(images).latent.shape == (5, 8)


def test_a_timm_model_becomes_a_classifier_and_trains():
    timm = pytest.importorskip("timm")
    model = bottleneck_classifier(
        timm.create_model("resnet10t", num_classes=0, in_chans=1), 10, latent_width=4
    )
    images, label = torch.randn(4, 1, 32, 32), torch.arange(4)
    assert model.head.penultimate is not None and model.head.penultimate.in_features == 512
    output = model(images)
    (
        nn.functional.cross_entropy(output.logits, label) + squared_norm(output.latent, reduction="sum")
    ).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("backbone", "options", "words"),
    [
        (nn.Identity(), {}, "Identity does not tell the width"),
        (nn.Identity(), {"images": torch.zeros(2, 3, 4, 4)}, r"\(2, 3, 4, 4\).*expected .*\(2, width\)"),
        (Pooled(), {"images": torch.zeros(2, 3, 4, 4), "feature_width": 4}, "is 4, but the features have 3"),
    ],
)
def test_networks_that_do_not_fit_are_refused(backbone, options, words):
    with pytest.raises(ValueError, match=words):
        bottleneck_classifier(backbone, 10, **options)


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


def test_an_own_backbone_becomes_a_classifier_in_one_call():
    splits = load_images(DataSpec(name="digits", validation=100, train_limit=50))
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 20)), BottleneckHead(20, 10, latent_width=3))
    model.train()
    latents = collect(model, splits.train, batch_size=16)
    assert model.training
    assert latents.latent.shape == (50, 3) and latents.predicted.shape == (50,)
    model.eval()
    torch.testing.assert_close(latents.logits, model(splits.train.normalised()).logits)
