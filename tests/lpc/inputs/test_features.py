"""A head follows its backbone, and a backbone's output is checked when first seen."""

import copy
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lpc.classifiers import bottleneck_classifier
from lpc.heads import BottleneckHead, CategoricalHead, Classifier
from lpc.inputs.features import own_classifier
from lpc.latents import collect

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def backbone() -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.SiLU())


@pytest.mark.parametrize("give_images", [True, False])
def test_a_head_is_where_its_backbone_is_and_in_its_dtype(give_images):
    for convert, dtype in (
        (lambda part: part.double(), torch.float64),
        (lambda part: part.float(), torch.float32),
        (lambda part: part.bfloat16(), torch.float32),
        (lambda part: part.half(), torch.float32),
        (lambda part: part.to("meta"), torch.float32),
    ):
        body: Any = convert(backbone())
        images = IMAGES.to(body[1].weight)
        options: dict[str, Any] = {"images": images} if give_images else {"feature_width": 16}
        model = bottleneck_classifier(body, 4, latent_width=3, **options)
        head: Any = model.head
        weight = head.classifier.weight
        assert weight.device == body[1].weight.device and weight.dtype == dtype
        output = model(images)
        assert output.logits.dtype == output.latent.dtype == dtype


def test_a_default_dtype_or_device_is_not_the_heads():
    try:
        torch.set_default_dtype(torch.float64)
        assert (
            bottleneck_classifier(backbone().float(), 4, images=IMAGES)(IMAGES).logits.dtype == torch.float32
        )
        assert (
            bottleneck_classifier(backbone(), 4, images=IMAGES.double())(IMAGES.double()).logits.dtype
            == torch.float64
        )
    finally:
        torch.set_default_dtype(torch.float32)
    body = backbone()
    try:
        torch.set_default_device("meta")
        assert bottleneck_classifier(body, 4, images=IMAGES)(IMAGES).logits.device.type == "cpu"
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "options", [{}, {"rescaled": True}, {"classifier": "cosine"}, {"penultimate": "none"}]
)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(half, options):
    torch.manual_seed(0)
    head = BottleneckHead(16, 4, **options)
    rounded = copy.deepcopy(head).to(half)
    exact = copy.deepcopy(rounded).float()  # the same weights, in float32
    features = torch.randn(5, 16).to(half)
    found, expected = rounded(features), exact(features.float())
    assert rounded.classifier.weight.dtype == half
    assert found.logits.dtype == found.latent.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found.logits.sum().backward()
    assert rounded.classifier.weight.grad is not None
    torch.testing.assert_close(rounded(features.double()).logits, exact.double()(features.double()).logits)


@pytest.mark.parametrize("decoder", ["linear", "network", "optimal"])
def test_a_categorical_head_in_half_precision_computes_in_float32(decoder):
    head = CategoricalHead(16, 4, categories=6, decoder=decoder, decoder_width=8).bfloat16()
    features = torch.randn(5, 16).bfloat16()
    expected = copy.deepcopy(head).float()(features.float())
    torch.testing.assert_close(head(features), expected, rtol=0, atol=0)


def test_bf16_true_as_lightning_does_it():
    model = bottleneck_classifier(backbone(), 4, latent_width=3, images=IMAGES).to(torch.bfloat16)
    try:
        torch.set_default_dtype(torch.bfloat16)
        output = model(IMAGES.bfloat16())
        nn.functional.cross_entropy(output.logits, torch.arange(4)).backward()
        made = bottleneck_classifier(backbone(), 4, images=IMAGES.bfloat16())(IMAGES.bfloat16())
    finally:
        torch.set_default_dtype(torch.float32)
    assert output.logits.dtype == made.logits.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in model.parameters())


class Returns(nn.Module):
    """A backbone that claims 8 features, and returns something made of them."""

    num_features = 8

    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(64, 8), make

    def forward(self, images):
        return self.make(self.layer(images.flatten(1)))


def object_with(**parts):
    return SimpleNamespace(**parts)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda x: x[..., None, None].expand(-1, -1, 2, 2),
            r"shape \(4, 8, 2, 2\).*pool the feature maps.*AdaptiveAvgPool2d",
        ),
        (lambda x: x[:, None, None, :].expand(-1, 3, 3, -1), r"shape \(4, 3, 3, 8\).*pool the feature maps"),
        (lambda x: x[:, None].expand(-1, 5, -1), r"shape \(4, 5, 8\).*take one token, or their mean"),
        (lambda x: (x, None), r"returned a tuple of \(a tensor of shape \(4, 8\)"),
        (lambda x: {"features": x}, "returned a dict with 'features'"),
        (
            lambda x: object_with(last_hidden_state=x, pooler_output=x),
            "a SimpleNamespace.*take its pooler_output",
        ),
        (lambda x: None, "returned None"),
        (lambda x: x[:, 0], r"shape \(4,\)"),
        (lambda x: x[:2], r"shape \(2, 8\) for images of shape \(4, 1, 8, 8\)"),
    ],
)
def test_what_a_backbone_returns_is_checked_when_it_is_first_seen(make, words):
    with pytest.raises(ValueError, match=words):
        bottleneck_classifier(Returns(make), 5, images=IMAGES)
    model = bottleneck_classifier(Returns(make), 5)
    with pytest.raises(ValueError, match=words):
        model(IMAGES)
    bottleneck_classifier(Returns(lambda x: x), 5)(IMAGES)


def test_features_of_another_width_or_device_are_named():
    with pytest.raises(ValueError, match="features of width 8, and the head was made for 16"):
        bottleneck_classifier(Returns(lambda x: x), 5, feature_width=16)(IMAGES)
    model = bottleneck_classifier(Returns(lambda x: x), 5)
    model.head.to("meta")
    with pytest.raises(ValueError, match="the features are on cpu and the head is on meta"):
        model(IMAGES)


def test_googlenet_in_training_returns_a_tuple():
    torchvision = pytest.importorskip("torchvision")
    google = torchvision.models.GoogLeNet(num_classes=10, aux_logits=True, init_weights=False)
    with pytest.warns(UserWarning, match="GoogLeNet still has its own classifier, 'fc'"):
        model = bottleneck_classifier(google, 5, feature_width=10)
    with pytest.raises(ValueError, match=r"GoogLeNetOutputs.*aux_logits=False"):
        model.train()(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("vit_b_32", "heads.head"),
    ],
)
def test_a_model_of_torchvision_with_its_own_classifier_is_a_warning(name, layer):
    models = pytest.importorskip("torchvision.models")
    network = models.get_model(name, weights=None)
    images = torch.rand(2, 3, 224 if name.startswith("vit") else 64, 224 if name.startswith("vit") else 64)
    with pytest.warns(UserWarning, match=rf"'{layer}'.*on its 1000 logits. Take it off: backbone\.{layer} ="):
        bottleneck_classifier(network, 5, latent_width=4, images=images)
    parent, _, last = layer.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bottleneck_classifier(network, 5, latent_width=4, images=images)


def test_a_model_of_timm_with_its_own_classifier_is_a_warning():
    timm = pytest.importorskip("timm")
    images = torch.rand(2, 3, 64, 64)
    ways: list[tuple[int, dict[str, Any]]] = [(10, {"images": images}), (1000, {"images": images}), (10, {})]
    for classes, options in ways:
        network = timm.create_model("resnet10t", num_classes=classes)
        with pytest.warns(UserWarning, match=r"'fc': .* logits.*num_classes=0"):
            bottleneck_classifier(network, 10, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("resnet10t", "mobilenetv3_small_050", "convnext_atto"):
            network = timm.create_model(name, num_classes=0)
            assert own_classifier(network) is None, name
            bottleneck_classifier(network, 10, images=images)


def test_a_network_whose_features_come_from_a_layer_called_fc_is_none_of_that():
    class Own(nn.Module):
        feature_width = 16

        def __init__(self, width):
            super().__init__()
            self.fc = nn.Linear(64, width)

        def forward(self, images):
            return self.fc(images.flatten(1))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bottleneck_classifier(Own(16), 4, images=IMAGES)
        bottleneck_classifier(Own(16), 4)
    with pytest.warns(UserWarning, match="'fc'"):
        bottleneck_classifier(Own(4), 4, images=IMAGES)


class Interrupts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
        self.after = None

    def forward(self, images):
        if self.after is not None:
            self.after -= 1
            if self.after < 0:
                raise KeyError("interrupted")
        return self.layers(images.sub_(0.5))


class Shown:
    """Stands for an image set."""

    label = torch.arange(4)

    def __len__(self):
        return 4

    def normalised(self, some):
        return IMAGES[some].clone()


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_layers_stay_frozen_and_modes_come_back(fails, unchecked):
    def interrupted(call) -> Any:
        if not fails:
            return call()
        with pytest.raises(KeyError):
            call()
        return None

    body: Any = Interrupts().train()
    body.layers[2].eval().requires_grad_(False)
    modes = [module.training for module in body.modules()]
    statistics = body.layers[2].running_mean.clone()
    images = IMAGES.clone()
    body.after = 0 if fails else None
    interrupted(lambda: bottleneck_classifier(body, 4, images=images))
    assert [module.training for module in body.modules()] == modes
    assert torch.equal(images, IMAGES)  # the backbone works in place
    model = Classifier(body, BottleneckHead(8, 4, dropout=0.5)).train()
    body.layers[2].eval()
    modes = [module.training for module in model.modules()]
    body.after = 1 if fails else None
    found = interrupted(lambda: unchecked(collect)(model, Shown(), shown=images, batch_size=2))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(images, IMAGES) and torch.equal(body.layers[2].running_mean, statistics)
    assert not any(parameter.requires_grad for parameter in body.layers[2].parameters())
    if not fails:
        body.eval()
        torch.testing.assert_close(found.logits, model.eval()(IMAGES.clone()).logits)


def test_images_may_be_an_array():
    model = bottleneck_classifier(backbone(), 4, images=IMAGES.numpy())
    assert model.head.feature_width == 16
    assert (
        bottleneck_classifier(backbone().double(), 4, images=IMAGES.numpy())(IMAGES.double()).logits.dtype
        == torch.float64
    )


def test_a_model_without_latents_is_named(unchecked):
    with pytest.raises(ValueError, match=r"returned a tensor of shape .*expected latent and logits"):
        unchecked(collect)(backbone(), Shown())
