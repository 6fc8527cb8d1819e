"""torch's generators are seeded temporarily and restored, on every device."""

import pytest
import torch

from lpc.classifiers import build_classifier
from lpc.computing.generators import as_they_were, seeded
from lpc.evaluation.attacks import ATTACKS, attack
from lpc.evaluation.corruptions import corrupted_accuracy
from lpc.specs import ModelSpec


def test_numbers_are_those_of_the_seed_and_the_state_comes_back():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    with seeded(7):
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(IndexError), as_they_were():
        torch.rand(3)[3]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_gpu_is_seeded(monkeypatch):
    seeds = []
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, seeds.append)
    torch.manual_seed(3)
    assert seeds == [3]  # what would be recorded
    image = torch.rand(2, 1, 8, 8)
    spec = ModelSpec(backbone="mlp", backbone_width=8)
    corrupted_accuracy(lambda x: x.flatten(1)[:, :3], image, torch.zeros(2, dtype=torch.int64), seed=5)
    build_classifier(spec, channels=1, size=8, classes=3, seed=11)
    for name in ATTACKS:
        if name not in ("hopskipjump", "boundary"):
            attack(name, lambda x: x.flatten(1)[:, :5], image, budget=3, rounds=1, seed=7)
    assert seeds == [3]


def test_weights_of_a_spec_depend_on_no_default():
    spec = ModelSpec(backbone="mlp", backbone_width=8)

    def weights():
        return build_classifier(spec, channels=1, size=8, classes=3, seed=11).state_dict()

    expected = weights()
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        found = weights()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
