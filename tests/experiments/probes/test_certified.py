"""The probes of certified radii and of corruptions, on small networks."""

import pandas as pd
import pytest
import torch
from torch import nn

from experiments.probes import certified, corruptions
from lpc.classifiers import build_classifier
from lpc.data import ImageSet, Splits
from lpc.evaluation.affine_layers import affine_layers
from lpc.evaluation.corruptions import STRENGTHS
from lpc.specs import ModelSpec

pytest.importorskip("bound_propagation")


def splits(count=12, size=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    part = ImageSet(images, torch.arange(count) % 3, 3, (0.4,), (0.25,))
    return Splits(part, part, part)


def classifier(backbone="mlp"):
    spec = ModelSpec(backbone=backbone, backbone_width=8)
    return build_classifier(spec, channels=1, size=8, classes=3, seed=0).eval()


def test_probe_of_radii():
    data, model = splits(), classifier()
    values, table = certified.probe(model, data)
    assert table is not None and len(table) == 12 and values["missing"] == {}
    assert sorted(table["image"]) == list(range(12))
    pixels = data.test.images.double() / 255
    logits = model.double()((pixels - 0.4) / 0.25).logits.detach()
    top = logits.topk(2, dim=1).values
    margin = (top[:, 0] - top[:, 1])[list(table["image"])]
    torch.testing.assert_close(
        torch.tensor(list(table["margin"]), dtype=torch.float64), margin, rtol=1e-5, atol=1e-9
    )
    assert (table["crown"] <= table["shortened"]).all() and (table["shortened"] <= table["deepfool"]).all()
    assert (table["spectral"] <= table["crown"]).all() and (table["spectral"] > 0).all()
    for name in ("spectral", "interval", "crown"):
        assert values[f"{name}_exceeds"] == 0
        assert values[f"{name}_median"] == pytest.approx(table[name].median())
    assert values["gradient_exceeds"] == (table["gradient"] > table["shortened"]).mean()
    assert values["lipschitz_per_margin"] == pytest.approx(values["lipschitz"] / table["margin"].median())
    assert values["rescaled_change"] < 1e-9
    assert next(model.parameters()).dtype == torch.float64  # made so above: the probe works on a copy


def test_a_network_without_bounds_says_why():
    values, table = certified.probe(classifier("small_cnn"), splits())
    assert table is None and values["crown_median"] is None
    assert set(values) - {"missing"} == set(values["missing"])
    assert "backbone.layers.0 is Conv2d" in values["missing"]["crown_median"]
    whole, _ = certified.probe(classifier(), splits())
    assert set(values) | {"images"} == set(whole)


def test_shortened_finds_the_first_change():
    bump = nn.Sequential(nn.Linear(1, 2), nn.SiLU(), nn.Linear(2, 2)).double().eval()
    bump[0].weight.data, bump[0].bias.data = torch.tensor([[1.0], [0.0]]).double(), torch.zeros(2).double()
    bump[2].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    bump[2].bias.data = torch.tensor([0.0, 1.0]).double()
    network = affine_layers(bump)  # the decision changes where SiLU(x) = 1
    image = torch.zeros(2, 1).double()
    step = torch.tensor([[4.0], [1.0]]).double()
    share = certified.shortened(network, image, step)
    changed = 1.2784645427610738  # no: SiLU(1.278...) = 1, by SiLU(x) - SiLU(-x) = x
    assert float(nn.functional.silu(torch.tensor(changed))) == pytest.approx(1, abs=1e-6)
    assert float(share[0]) == pytest.approx(changed / 4, abs=1e-4) and float(share[0]) >= changed / 4
    assert float(share[1]) == 1  # never changes


def test_probe_of_corruptions_and_its_curves():
    data, model = splits(30), classifier()
    values, table = corruptions.probe(model, data)
    assert table is not None and len(table) == 20
    for kind in STRENGTHS:
        assert values[kind] == pytest.approx(table.loc[table["kind"] == kind, "accuracy"].mean())
    assert values["mean"] == pytest.approx(sum(values[kind] for kind in STRENGTHS) / 4)
    with torch.no_grad():
        right = model(data.test.normalised()).logits.argmax(dim=1) == data.test.label
    assert values["clean"] == pytest.approx(float(right.double().mean()))
    runs = [{"key": str(seed), "architecture": "IB", "seed": seed} for seed in range(2)]
    selected = pd.DataFrame([{**run, "corruptions_clean": 0.9 + run["seed"] / 10} for run in runs])
    both = pd.concat([table.assign(**run, accuracy=0.5 + run["seed"] / 10) for run in runs])
    lines = corruptions.curves(both, selected).set_index(["architecture", "kind", "level"])
    assert len(lines) == 4 * 6
    assert lines.loc[("IB", "blur", 0), "mean"] == pytest.approx(0.95)
    assert lines.loc[("IB", "blur", 3), "mean"] == pytest.approx(0.55)
    assert lines.loc[("IB", "blur", 3), ["min", "max"]].tolist() == pytest.approx([0.5, 0.6])
