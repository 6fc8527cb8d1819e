import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lpc
from lpc.evaluation.collapse import within_between_traces
from lpc.evaluation.neural_collapse import neural_collapse


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    label = torch.arange(40) % 4
    return TensorDataset(torch.randn(4, 3, 32, 32)[label] + 0.5 * torch.randn(40, 3, 32, 32), label)


def test_every_block_is_measured_in_one_pass_as_by_hand(data):
    layers = [
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ]
    model, calls = nn.Sequential(*layers).eval(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    found = lpc.collapse_by_layer(model, DataLoader(data, 20))
    assert [one.name for one in found.layers] == ["0", "1", "2", "3", "4"] and len(calls) == 1 + 2
    with torch.no_grad():
        maps = model[0](data.tensors[0])
        expected = maps.mean(dim=(2, 3)), maps.relu().mean(dim=(2, 3))
    for one, latent in zip(found.layers, expected, strict=False):
        assert one.width == 6
        assert one.trace_ratio == pytest.approx(
            within_between_traces(latent, data.tensors[1]).ratio, rel=1e-4
        )
        assert one.nc1_per_rank == pytest.approx(
            neural_collapse(latent, data.tensors[1]).nc1_per_rank, rel=1e-3
        )
    assert found.layers[2].trace_ratio == pytest.approx(found.layers[1].trace_ratio, rel=1e-4)
    assert len(found.to_frame()) == 5 and "trace_ratio" in repr(found) and "<table" in found._repr_html_()
    assert [len(axes.lines) for axes in found.plot().axes] == [3, 1]


def test_blocks_of_timm_networks_are_found_and_others_are_said(data):
    model = timm.create_model("test_resnet", num_classes=4)
    model.spare = nn.Linear(2, 2)
    found = lpc.collapse_by_layer(model, DataLoader(data, 20))
    names = [one.name for one in found.layers]
    assert "layer1.0" in names and "fc" in names and "layer1" not in names
    assert found.left_out["spare"] == "did not run"
    chosen = lpc.collapse_by_layer(model, DataLoader(data, 20), layer=["layer2", "layer4"], limit=24)
    assert [one.name for one in chosen.layers] == ["layer2", "layer4"] and not chosen.left_out
    with pytest.raises(ValueError, match="the loader is empty"):
        lpc.collapse_by_layer(model, [])


class Output:
    """What a model of transformers returns: an object, and no tensor."""

    def __init__(self, **parts):
        vars(self).update(parts)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.Linear(3, 5)
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])

    def forward(self, pixels):
        hidden = self.embeddings(pixels)
        for layer in self.layers:
            hidden = layer(hidden)
        return Output(last_hidden_state=hidden)


class Dressed(nn.Module):
    """Parts that return objects, as those of transformers do, and loaders of dicts."""

    def __init__(self):
        super().__init__()
        self.vit, self.classifier = Encoder(), nn.Linear(5, 4)

    def forward(self, pixel_values):
        hidden = self.vit(pixel_values.mean(dim=3).transpose(1, 2)).last_hidden_state
        return Output(logits=self.classifier(hidden.mean(dim=1)), hidden_states=(hidden,), loss=None)


def test_wrappers_and_parts_that_return_objects_are_opened(data):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.extra = timm.create_model("test_resnet", num_classes=4), nn.Linear(2, 2)

        def forward(self, images):
            return self.net(images)

    found = lpc.collapse_by_layer(Wrapper(), DataLoader(data, 20))
    names = [one.name for one in found.layers]
    assert "net.layer1.0" in names and "net.fc" in names and "net" not in names
    assert found.left_out == {"extra": "did not run"}
    pixels, label = data.tensors
    loader = [{"pixel_values": pixels, "labels": label}]
    found = lpc.collapse_by_layer(
        Dressed(),
        loader,
        unpack=lambda batch: ({"pixel_values": batch["pixel_values"]}, batch["labels"]),
    )
    assert [one.name for one in found.layers] == [
        *("vit.embeddings", "vit.layers.0", "vit.layers.1", "classifier")
    ]
    assert not found.left_out


def test_a_loader_that_yields_once_loses_no_batch_and_one_name_will_do(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)).eval()
    whole = lpc.collapse_by_layer(model, DataLoader(data, 10))
    once = lpc.collapse_by_layer(model, iter(DataLoader(data, 10)))
    assert once.layers == whole.layers
    assert lpc.collapse_by_layer(model, DataLoader(data, 10), layer="1").layers == whole.layers[1:]
