"""Backbones and heads."""

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from lpc.backbones import build_backbone
from lpc.classifiers import bottleneck_classifier, build_classifier
from lpc.data import load_images
from lpc.heads import BottleneckHead, CategoricalHead, Classifier
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


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t"])
def test_the_width_that_a_timm_model_tells_is_that_of_its_features(name):
    timm = pytest.importorskip("timm")
    backbone = timm.create_model(name, num_classes=0).eval()
    model = bottleneck_classifier(backbone, 10, latent_width=4).eval()
    assert model(torch.zeros(2, 3, 64, 64)).logits.shape == (2, 10)


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


def test_the_networks_of_kirsch_et_al_have_their_known_sizes():
    """PyTorch's MNIST example (320 + 18,496 + 1,179,776 without its last layer) and 784-1024-1024."""
    for name, width, features, parameters in (
        ("dropout_cnn", 32, 128, 320 + 18_496 + 1_179_776),
        ("relu_mlp", 1024, 1024, 785 * 1024 + 1025 * 1024),
    ):
        backbone = build_backbone(name, channels=1, size=28, width=width)
        assert sum(p.numel() for p in backbone.parameters()) == parameters
        assert backbone.feature_width == features
        assert backbone.eval()(torch.randn(2, 1, 28, 28)).shape == (2, features)
    with pytest.raises(ValueError, match="size is 5; expected images of at least 6 x 6"):
        build_backbone("dropout_cnn", channels=1, size=5, width=2)
    assert build_backbone("dropout_cnn", channels=1, size=6, width=2)(torch.randn(2, 1, 6, 6)).shape == (2, 8)


@pytest.fixture
def dropout_cnn() -> Any:
    torch.manual_seed(0)
    return build_backbone("dropout_cnn", channels=1, size=8, width=4)


def as_pytorchs_example(backbone: Any) -> nn.Sequential:
    """The layers of PyTorch's example in their order, with the weights of ours."""
    first, _, second, *_ = backbone.convolutions
    layers = [first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()]
    return nn.Sequential(*layers, backbone.hidden[0], nn.ReLU(), nn.Dropout(0.5))


def test_the_dropout_cnn_is_pytorchs_example(dropout_cnn):
    images, example = torch.randn(6, 1, 8, 8), as_pytorchs_example(dropout_cnn)
    assert dropout_cnn.sites == ((0.25, 8 * 4), (0.5, 16))
    torch.testing.assert_close(dropout_cnn.eval()(images), example.eval()(images))
    found = []
    for network in (dropout_cnn.train(), example.train()):
        torch.manual_seed(3)
        found.append(network(images))
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0], dropout_cnn.eval()(images))


def test_masks_are_torchs_dropout_and_make_as_many_rows_as_samples(dropout_cnn):
    images = torch.randn(6, 1, 8, 8)
    masks, expected = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        expected.append(dropout_cnn.train()(images))
        torch.manual_seed(seed)
        sizes = ((0.25, 32), (0.5, 16))
        ones = [nn.functional.dropout(torch.ones(6, nodes), share) for share, nodes in sizes]
        masks.append(torch.cat(ones, dim=1))
    for network in (dropout_cnn.train(), dropout_cnn.eval()):
        torch.testing.assert_close(network(images, mask=masks[0]), expected[0])
        several = network(images, mask=torch.cat(masks))
        torch.testing.assert_close(several, torch.cat(expected))
    ones = torch.ones(6, 48)
    torch.testing.assert_close(dropout_cnn.train()(images, mask=ones), dropout_cnn.eval()(images))


@pytest.mark.parametrize("decoder", ["linear", "network", "optimal"])
def test_a_categorical_head_mixes_the_class_probabilities_of_its_categories(decoder):
    torch.manual_seed(0)
    head = CategoricalHead(6, 3, categories=5, decoder=decoder, decoder_width=7).double()
    if decoder == "optimal":
        assert torch.equal(head.table, torch.full((5, 3), 1 / 3))
        head.table.copy_(torch.rand(5, 3).softmax(dim=1))
        assert head.decoder is None
    features = 3 * torch.randn(8, 6, dtype=torch.float64)
    output = head(features)
    one = torch.ones(8, dtype=torch.float64)
    torch.testing.assert_close(output.latent.sum(dim=1), one)
    torch.testing.assert_close(output.logits.exp().sum(dim=1), one)
    torch.testing.assert_close(output.decoder.exp().sum(dim=1), one[:5])
    weight, bias = head.penultimate.weight, head.penultimate.bias
    for n in range(8):
        scores = (weight @ features[n] + bias).exp()
        torch.testing.assert_close(output.latent[n], scores / scores.sum())
        mixed = sum(output.latent[n, z] * output.decoder[z].exp() for z in range(5))
        torch.testing.assert_close(output.logits[n].exp(), mixed)
    if decoder == "linear":
        table = (head.decoder.weight.T + head.decoder.bias).log_softmax(dim=1)  # type: ignore[union-attr]
        torch.testing.assert_close(output.decoder, table)
    if decoder == "optimal":
        torch.testing.assert_close(output.decoder.exp(), head.table)
    trained = {name for name, _ in head.named_parameters()}
    assert {name.split(".")[0] for name in trained} == (
        {"penultimate"} if decoder == "optimal" else {"penultimate", "decoder"}
    )


def test_a_decoder_network_is_two_hidden_layers_from_a_categorys_indicator():
    head = CategoricalHead(6, 3, categories=5, decoder="network", decoder_width=7)
    layers: Any = head.decoder
    assert [tuple(p.shape) for p in layers.parameters()] == [(7, 5), (7,), (7, 7), (7,), (3, 7), (3,)]
    for z in range(5):
        hidden = torch.relu(layers[0].weight[:, z] + layers[0].bias)
        hidden = torch.relu(layers[2].weight @ hidden + layers[2].bias)
        expected = (layers[4].weight @ hidden + layers[4].bias).log_softmax(dim=0)
        torch.testing.assert_close(head.log_decoder()[z], expected)


def test_probabilities_below_the_smallest_float_have_finite_logits():
    """A class that no category of a point can be: not a run that has failed."""
    smallest = math.log(torch.finfo(torch.float32).tiny)
    optimal = CategoricalHead(4, 2, categories=4, decoder="optimal")
    optimal.table.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    linear = CategoricalHead(4, 2, categories=4, decoder="linear")
    with torch.no_grad():
        for head in (optimal, linear):
            head.penultimate.weight.copy_(500 * torch.eye(4))
        linear.decoder.weight.copy_(torch.tensor([[0.0] * 4, [-500.0] * 4]))  # type: ignore[union-attr]
    for head in (optimal, linear):
        logits = head(torch.eye(4)).logits[0]
        assert logits[0].item() == pytest.approx(0, abs=0.7)
        assert logits[1].item() == pytest.approx(smallest, abs=1e-2)


def test_a_categorical_head_stays_in_float32_under_autocast():
    head, features = CategoricalHead(6, 3, categories=4), torch.randn(5, 6)
    exact = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, low = head(features), head(features.bfloat16())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(output, exact, strict=True))
    assert {part.dtype for part in low} == {torch.float32}


def test_categorical_heads_that_cannot_be_are_errors(unchecked):
    with pytest.raises(ValueError, match="categories is 2; expected at least the number of classes, 3"):
        CategoricalHead(6, 3, categories=2)
    with pytest.raises(ValueError, match=r"unknown decoder 'optimum'.*optimal"):
        unchecked(CategoricalHead.__init__)(
            CategoricalHead(6, 3, categories=3), 6, 3, categories=3, decoder="optimum"
        )


def test_noise_is_in_the_latent_in_training_only():
    torch.manual_seed(0)
    head = BottleneckHead(6, 3, latent_width=50, latent_noise="zero_entropy")
    features = torch.randn(400, 6)
    exact = head.eval()(features)
    assert torch.equal(exact.latent, head(features).latent)
    output = head.train()(features)
    noise = output.latent - exact.latent
    assert noise.var().item() == pytest.approx(1 / (2 * math.pi * math.e), rel=0.03)
    torch.testing.assert_close(output.logits, head.classifier(output.latent))
    given = torch.randn(800, 50)
    for mode in (head.train(), head.eval()):
        found = mode(features, noise=given).latent
        torch.testing.assert_close(found, torch.cat([exact.latent, exact.latent]) + given)
    plain = BottleneckHead(6, 3, latent_width=50).train()
    assert torch.equal(plain(features).latent, plain.eval()(features).latent)


def test_a_rescaled_latent_is_shifted_then_scaled_then_noisy():
    torch.manual_seed(0)
    head = BottleneckHead(6, 3, latent_width=4, rescaled=True)
    features, noise = torch.randn(5, 6), torch.randn(5, 4)
    before = head(features).latent
    assert not {"shift", "scale"} & {name for name, _ in head.named_parameters()}
    shift, scale = torch.tensor([1.0, 0.0, -2.0, 3.0]), torch.tensor([2.0, 0.5, 1.0, 1e-3])
    head.load_state_dict({**head.state_dict(), "shift": shift, "scale": scale})
    torch.testing.assert_close(head(features).latent, (before - shift) * scale)
    output = head(features, noise=noise)
    torch.testing.assert_close(output.latent, (before - shift) * scale + noise)
    torch.testing.assert_close(output.logits, head.classifier(output.latent))
    assert "shift" not in BottleneckHead(6, 3, latent_width=4).state_dict()


def test_samples_of_heads_dropout_repeat_the_batch():
    head = BottleneckHead(6, 3, latent_width=4, dropout=0.5)
    features, keep = torch.randn(5, 6), 2.0 * (torch.rand(15, 4) < 0.5)
    output = head(features, keep=keep)
    latent = head.eval()(features).latent
    torch.testing.assert_close(output.latent, torch.cat([latent] * 3))
    torch.testing.assert_close(output.logits, head.classifier(torch.cat([latent] * 3) * keep))


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"latent_noise": None}, "unknown latent_noise None"),
        ({"latent_noise": "zero-entropy"}, "unknown latent_noise 'zero-entropy'. Did you mean zero_entropy"),
        ({"dropout_site": "Latent"}, "unknown dropout_site 'Latent'. Did you mean latent"),
        ({"latent_width": 0}, "latent_width is 0; expected 1 or more"),
        ({"latent_width": 2.0}, r"latent_width is 2\.0; expected 1 or more"),
        ({"dropout": 1.0}, r"dropout is 1\.0; expected 0 or more and below 1"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"rescaled": "no"}, "rescaled is 'no'; expected True or False"),
        ({"classifier": "cosine", "classifier_scale": "32"}, "scale of a cosine classifier is '32'"),
    ],
)
def test_options_of_a_head_that_are_none_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        BottleneckHead(4, 3, **option)


@pytest.mark.usefixtures("unhooked")
def test_widths_that_are_none_are_refused():
    wrong: list[tuple[Any, Any]] = [(0, 3), (4, 1), (4.0, 3), (4, True)]
    for width, classes in wrong:
        with pytest.raises(ValueError, match=r"feature_width is|classes is"):
            BottleneckHead(width, classes)
    with pytest.raises(ValueError, match="decoder_width is 0"):
        CategoricalHead(4, 2, categories=3, decoder_width=0)
    with pytest.raises(ValueError, match="width is 0"):
        build_backbone("mlp", channels=1, size=8, width=0)
