from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from experiments.chapters.embedding import attacks
from lpc.data import ImageSet


def test_medians_of_a_linear_network_in_pixels(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, 196, (31, 1, 4, 4), generator=generator).to(torch.uint8)
    images = ImageSet(pixels, torch.zeros(31, dtype=torch.int64), 2, (0.4,), (0.25,))
    weight = torch.randn(2, 16, generator=generator)

    def network(normalised):
        return SimpleNamespace(logits=normalised.flatten(1) @ weight.T)

    study = SimpleNamespace(
        images=SimpleNamespace(test=images),
        selected=pd.DataFrame({"architecture": ["Lin64"], "seed": [3]}),
        among=lambda names: [name for name in names if name == "Lin64"],
        spec=lambda name, seed: (name, seed),
        store=None,
    )
    monkeypatch.setattr(attacks, "load_model", lambda spec, store, images: network)
    found = attacks.medians(study, ["ArcFace", "Lin64"]).iloc[0]  # pyright: ignore[reportArgumentType]
    change = (weight[0] - weight[1]).double() / 0.25  # of the margin, a unit of pixels
    margin = (pixels.flatten(1).double() / 255 - 0.4) @ change
    exact = float((margin.abs() / change.norm()).quantile(0.5))
    assert (found["architecture"], found["seed"], found["unfooled"]) == ("Lin64", 3, 0)
    assert found["deepfool"] == pytest.approx(exact, rel=0.03)  # its overshoot is 0.02
    assert found["superdeepfool"] == pytest.approx(exact, rel=0.03)
    assert exact * (1 - 1e-6) <= found["smallest"] <= min(found["deepfool"], found["superdeepfool"])
