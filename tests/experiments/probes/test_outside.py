"""The probe ``outside`` on a network with known confidence, whose noise has a learnt variance."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from experiments.probes import outside
from lpc.data import load_images
from lpc.datasets import load_raw
from lpc.evaluation.calibration import expected_calibration_error
from lpc.heads import BottleneckHead, Classifier
from lpc.latents import collect
from lpc.specs import DataSpec


@pytest.fixture(scope="module")
def splits():
    return load_images(DataSpec(name="digits", validation=200))


@pytest.fixture(scope="module")
def model(splits):
    """A linear network with noise of a learnt variance, trained until it is nearly right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = BottleneckHead(64, 10, latent_width=8, latent_noise="learnt")
        model = Classifier(nn.Flatten(), head)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(splits.train.normalised()).logits, splits.train.label)
            loss.backward()
            optimizer.step()
    return model.eval()


def test_its_own_images_are_at_chance_and_another_datas_are_not(model, splits, monkeypatch):
    monkeypatch.setattr(outside, "STRANGERS", ("digits", "fashion_mnist"))
    noise = load_raw("digits")._replace(test_images=load_raw("digits").test_images[:, :, ::-1].copy())
    monkeypatch.setattr(
        outside, "load_raw", lambda name: noise if name == "fashion_mnist" else load_raw(name)
    )
    found = outside.probe(model, splits).values
    json.dumps(found, allow_nan=False)
    assert found["missing"] == {}
    scores = ("softmax", "energy", "mahalanobis", "norm")
    own = {name: found[f"digits_{name}"] for name in scores}
    assert own == pytest.approx(dict.fromkeys(scores, 0.5), abs=0.01), "the control, up to rounding"
    for name in ("softmax", "energy", "mahalanobis"):
        assert 0.6 < found[f"fashion_mnist_{name}"] <= 1, "digits upside down"
    assert found["errors"] > 0.6


def test_the_temperature_is_that_of_the_logits(model, splits):
    found = outside.probe(model, splits).values
    head: Any = model.head
    head.logit_temperature = 5.0
    other = outside.probe(model, splits).values
    head.logit_temperature = 1.0
    assert other["temperature"] == pytest.approx(found["temperature"] / 5, rel=1e-4)
    assert other["ece_scaled"] == pytest.approx(found["ece_scaled"], rel=1e-3)
    assert other["ece"] > 2 * found["ece"]
    test = collect(model, splits.test)
    expected = expected_calibration_error(test.logits.double().softmax(dim=1), test.label)
    assert found["ece"] == pytest.approx(expected, rel=1e-9)


def test_what_cannot_be_had_is_missing_with_the_reason(model, splits, monkeypatch):
    def refuse(name):
        raise ImportError(f"{name} needs a package")

    monkeypatch.setattr(outside, "load_raw", refuse)
    found = outside.probe(model, splits._replace(validation=None)).values
    assert found["temperature"] is None and "no validation images" in found["missing"]["ece_scaled"]
    assert found["digits_norm"] is None and found["missing"]["digits_norm"] == "digits needs a package"
    assert found["ece"] is not None


def test_images_are_brought_to_a_size_by_means_of_areas(splits):
    larger = dataclasses.replace(splits.test, images=splits.test.images.repeat_interleave(2, 2))
    larger = dataclasses.replace(larger, images=larger.images.repeat_interleave(2, 3))
    assert outside.strange_pixels("digits", larger).shape == (360, 1, 16, 16)
    own = outside.strange_pixels("digits", splits.test)
    assert torch.equal(own, splits.test.pixels())
    smaller = dataclasses.replace(splits.test, images=splits.test.images[:, :, ::2, ::2])
    means = own.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(outside.strange_pixels("digits", smaller), means)
