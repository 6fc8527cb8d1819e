"""The probe ``transfer``: few images of classes that a network was not trained on."""

import json
from typing import Any

import pytest
import torch

from experiments.probes import transfer
from experiments.studies import ablation
from experiments.studies.probing import PROBES, applicable
from lpc.data import load_images
from lpc.latents import Latents


def test_accuracy_of_few_points_is_as_counted_by_hand():
    """One class lies half at 0 and half at 10, the other at 4: the count is the same whichever is drawn."""
    half = 5
    latent = torch.tensor([0.0] * half + [10.0] * half + [4.0] * 2 * half)[:, None]
    label = torch.arange(4 * half) // (2 * half)
    found = transfer.few_shot_accuracy(latent, label, shots=1, episodes=7)
    assert found == pytest.approx((3 * half - 2) / (4 * half - 2), rel=1e-12)
    assert transfer.few_shot_accuracy(1e-7 * latent + 1, label, shots=1, episodes=7) == pytest.approx(found)
    apart = transfer.few_shot_accuracy(label[:, None].float(), label, shots=3, episodes=2)
    assert apart == 1
    with pytest.raises(ValueError, match="shots is 10; expected at most 9: a class has 10 points"):
        transfer.few_shot_accuracy(latent, label, shots=10)


def test_labels_without_meaning_are_at_chance():
    """Negative control: three classes of the same points."""
    latent = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    found = transfer.few_shot_accuracy(latent, torch.arange(600) % 3, shots=5)
    assert found == pytest.approx(1 / 3, abs=0.02)


def test_signs_are_compared_with_those_of_class_means():
    seen = Latents(
        latent=torch.tensor([[1.0, 1.0], [1.0, -0.2], [-1.0, 1.0]]),
        logits=torch.zeros(3, 2),
        label=torch.tensor([0, 0, 1]),
    )
    latent = torch.tensor([[2.0, 3.0], [-2.0, 0.1], [2.0, -3.0], [-1.0, -1.0]])
    assert transfer.occupied(seen, latent) == 0.5


@pytest.mark.filterwarnings("error")
def test_a_network_before_training_gains_nothing_and_shuffled_labels_are_at_chance(monkeypatch):
    monkeypatch.setattr(transfer, "EPISODES", 20)
    spec = next(one for one in ablation.declared("others-new-classes") if one.architecture == "LinPen")
    splits = load_images(spec.data)
    model = transfer.untrained(spec, splits.train)
    found = transfer.probe(model, splits, spec).values
    json.dumps(found, allow_nan=False)
    assert found["missing"] == {} and found["gain"] == 0
    assert (found["images"], found["classes"]) == (533, 3)
    assert found["shuffled"] == pytest.approx(1 / 3, abs=0.03)
    for name in ("accuracy_1", "accuracy_5", "trace_ratio", "occupied"):
        assert found[name] == found[f"untrained_{name}"]
    assert 1 / 3 < found["accuracy_1"] < found["accuracy_5"] < found["pixels_accuracy_5"] < 1
    layers: Any = model.backbone.layers
    taken = layers[:2](splits.train.normalised()).detach()
    assert not model.training
    torch.testing.assert_close(
        layers[2].running_mean, taken.mean(dim=0), rtol=0, atol=0.1 * float(taken.std())
    )
    assert (layers[2].running_var / taken.var(dim=0)).log().abs().max() < 0.3


def test_the_probe_is_about_profiles_that_leave_classes_out_alone():
    for name in ("others-new-classes", "others-mnist-new-classes"):
        assert applicable(name) == ["transfer"] and PROBES["transfer"].takes_spec
    assert "transfer" not in applicable("others") and "attacks" in applicable("others")
