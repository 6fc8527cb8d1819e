"""Any model and any loader: latents, logits and labels from one pass, and errors that say what to do."""

from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lpc
from lpc.data import ImageSet
from lpc.heads import BottleneckHead, Classifier
from lpc.latents import collect


class Small(nn.Module):
    """A convolution, an activation in place behind it, and a linear classifier."""

    def __init__(self, *, twice=False, dressed=False):
        super().__init__()
        self.convolution, self.activation = nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True)
        self.norm, self.dropout = nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.last = nn.Linear(6, 3)
        self.twice, self.dressed = twice, dressed

    def forward(self, image):
        maps = self.activation(self.convolution(image))
        if self.twice:
            maps = self.activation(maps)
        logits = self.last(self.dropout(self.norm(maps).mean(dim=(2, 3))))
        return {"logits": logits} if self.dressed else logits


@pytest.fixture
def data():
    torch.manual_seed(0)
    return TensorDataset(torch.randn(23, 1, 5, 5), torch.arange(23) % 3)


@torch.no_grad()
def by_hand(model: Any, images: torch.Tensor) -> Any:
    maps = model.convolution(images)
    latent = model.norm(torch.relu(maps)).mean(dim=(2, 3))
    return maps, latent, model.last(latent)


@pytest.mark.parametrize("dressed", [False, True])
def test_it_is_what_the_network_computes_and_the_network_is_left_as_found(data, dressed):
    model = Small(dressed=dressed).train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = lpc.collect_latents(model, DataLoader(data, 5, shuffle=True))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()
    order = found.label.argsort(stable=True)
    _, latent, logits = by_hand(model, data.tensors[0])
    for rows, expected in ((found.latent, latent), (found.logits, logits)):
        torch.testing.assert_close(rows[order].sort(dim=0)[0], expected.sort(dim=0)[0])
    assert found.weight is not None and found.bias is not None
    torch.testing.assert_close(found.latent @ found.weight.T + found.bias, found.logits)
    assert found.layer == "input of last" and torch.equal(found.predicted, found.logits.argmax(dim=1))


def test_layers_are_taken_before_activations_in_place_in_one_pass(data):
    model, calls = Small().eval(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    options = {"layer": ["convolution", "activation"], "pool": "flatten"}
    found = lpc.collect_latents(model, DataLoader(data, 10), **options)
    maps, _, _ = by_hand(model, data.tensors[0])
    assert len(calls) == 3 and list(found) == options["layer"]
    assert float(maps.min()) < 0
    torch.testing.assert_close(found["convolution"].latent, maps.flatten(1))
    torch.testing.assert_close(found["activation"].latent, maps.relu().flatten(1))
    pooled = lpc.collect_latents(model, DataLoader(data, 10), layer="convolution", pool="mean", limit=12)
    torch.testing.assert_close(pooled.latent, maps.mean(dim=(2, 3))[:12])
    assert len(pooled.label) == len(pooled.logits) == 12 and pooled.weight is None


def test_a_file_holds_the_same_and_safetensors_reads_it(data, tmp_path):
    model, path = Small(), tmp_path / "features.safetensors"
    plain = lpc.collect_latents(model, DataLoader(data, 5))
    mapped = lpc.collect_latents(model, DataLoader(data, 5), file=path)
    read = safetensors.torch.load_file(path)
    assert set(read) == {"latent", "logits", "label", "weight", "bias"}
    for name, value in read.items():
        assert torch.equal(value, getattr(plain, name)) and torch.equal(value, getattr(mapped, name))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"expected a name that ends in \.safetensors"):
        lpc.collect_latents(model, DataLoader(data, 5), file=tmp_path / "features.npz")


def test_timm_heads_of_ours_and_image_sets_need_no_layer():
    images, label = torch.rand(8, 3, 32, 32), torch.arange(8) % 2
    model: Any = timm.create_model("test_resnet", num_classes=4)
    found = lpc.collect_latents(model, [(images, label)])
    features = model.eval().forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(found.latent, features.detach())
    ours = Classifier(nn.Flatten(), BottleneckHead(27, 2, latent_width=4))
    pixels, of = torch.randint(256, (9, 3, 3, 3), dtype=torch.uint8), torch.arange(9) % 2
    held = ImageSet(pixels, of, 2, mean=(0.4,) * 3, sd=(0.3,) * 3)
    small, expected = lpc.collect_latents(ours, held), collect(ours, held)
    assert torch.equal(small.latent, expected.latent) and torch.equal(small.label, expected.label)
    assert small.layer == "latent" and small.latent.shape == (9, 4)
    assert small.weight is not None and small.bias is not None
    torch.testing.assert_close(small.latent @ small.weight.T + small.bias, small.logits)


PAIRS = [(torch.randn(4, 1, 5, 5), torch.arange(4) % 3)]


@pytest.mark.parametrize(
    ("loader", "options", "message"),
    [
        ([], {}, "the loader is empty: it yielded no batch"),
        (
            [{"pixel_values": PAIRS[0][0], "labels": PAIRS[0][1]}],
            {},
            r"'pixel_values', 'labels'.*\(batch\['pixel_values'\], batch\['labels'\]\)",
        ),
        (
            [{"input_ids": PAIRS[0][0], "attention_mask": PAIRS[0][0], "labels": PAIRS[0][1]}],
            {},
            r"for name in \['input_ids', 'attention_mask'\]}, batch\['labels'\]\)",
        ),
        ([{"image": PAIRS[0][0], "age": PAIRS[0][1]}], {}, "with the labels second"),
        (PAIRS[0], {}, r"not in batches; pass DataLoader\(TensorDataset\(images, labels\)"),
        ([(*PAIRS[0], PAIRS[0][1])], {}, r"unpack=lambda batch: \(batch\[0\], batch\[1\]\)"),
        ([(PAIRS[0][0], nn.functional.one_hot(PAIRS[0][1]))], {}, r"one-hot.*argmax\(dim=1\)"),
        ([(PAIRS[0][0], PAIRS[0][1].float())], {}, "dtype torch.float32; expected one integer per row"),
        ([(PAIRS[0][0], "cats")], {}, "the labels of a batch are a str"),
        (PAIRS, {"layer": "convolutoin"}, "unknown layer 'convolutoin'. Did you mean convolution"),
        (PAIRS, {"layer": "activation", "pool": "mean"}, "layer 'activation' ran 2 times in a pass"),
        (PAIRS, {"layer": "convolution"}, "pass pool='mean' over positions, 'flatten'"),
        (PAIRS, {"device": "meta"}, r"the model is on cpu and device is 'meta': model.to\('meta'\)"),
        (PAIRS, {"layer": []}, "layer is empty"),
        (PAIRS, {"limit": 0}, "limit is 0"),
        ([(PAIRS[0][0], PAIRS[0][1][:3])], {}, "of shape .* for 3 labels"),
    ],
)
def test_bad_input_is_named_with_its_cure(loader, options, message):
    with pytest.raises(ValueError, match=message):
        lpc.collect_latents(Small(twice=True), loader, **options)


def test_what_is_no_network_is_refused(unchecked):
    for function in (lpc.collect_latents, lpc.collapse_by_layer):
        with pytest.raises(ValueError, match=r"the model is a function; expected a torch\.nn\.Module"):
            unchecked(function)(lambda x: x, PAIRS)


@pytest.mark.usefixtures("unhooked")
def test_what_is_no_loader_is_refused(data):
    for loader, message in (
        (data, r"the loader is a TensorDataset, not in batches; pass DataLoader\(data"),
        (5, "the loader is a int; expected batches"),
    ):
        for function in (lpc.collect_latents, lpc.collapse_by_layer):
            with pytest.raises(ValueError, match=message):
                function(Small(), loader)  # type: ignore


def test_an_unknown_pool_is_refused(unchecked):
    with pytest.raises(ValueError, match="pool is 'median'; expected 'mean', 'flatten' or 'first'"):
        unchecked(lpc.collect_latents)(Small(), PAIRS, pool="median")


def test_a_layer_that_does_not_run_and_logits_of_no_linear_layer_are_named(data):
    model = Small()
    model.spare = nn.Linear(6, 3)
    with pytest.raises(ValueError, match="layer 'spare' did not run"):
        lpc.collect_latents(model, DataLoader(data, 5), layer="spare")
    convolutional = nn.Sequential(nn.Conv2d(1, 3, 5), nn.Flatten())
    with pytest.raises(ValueError, match="name one of model"):
        lpc.collect_latents(convolutional, DataLoader(data, 5))
    assert lpc.collect_latents(convolutional, DataLoader(data, 5), layer="1").latent.shape == (23, 3)


def test_unpack_and_inputs_by_name(data):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(25, 3)

        def forward(self, pixel_values):
            return {"logits": self.classifier(pixel_values.flatten(1))}

    loader = [{"pixel_values": data.tensors[0], "labels": data.tensors[1]}]
    found = lpc.collect_latents(
        Named(),
        loader,
        unpack=lambda batch: ({"pixel_values": batch["pixel_values"]}, batch["labels"]),
        limit=7,
    )
    assert torch.equal(found.latent, data.tensors[0].flatten(1)[:7])
