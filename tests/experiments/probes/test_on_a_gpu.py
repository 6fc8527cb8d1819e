"""Probes and measurements of runs on a pretended GPU: they give the CPU's values, without rounding."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.pretended_gpu import pretended_gpu

from experiments.probes import attacks, factor, perturbations, transfer
from experiments.studies.probing import PROBES, ProbeKind
from lpc.data import Splits, load_images
from lpc.evaluation.robustness import deepfool
from lpc.heads import readout_weight
from lpc.latents import collect
from lpc.runs import measurements
from lpc.specs import DataSpec, TrainSpec, variant_spec
from lpc.training import load_member, trainer

DATA = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
TRAIN = TrainSpec(epochs=4, batch_size=32, learning_rate=5e-3, gamma_maximum=1.0)
IMAGES = 3


@pytest.fixture(scope="module")
def trained():
    """Return a run and its weights."""
    spec = variant_spec("IB", data=DATA, backbone="mlp", backbone_width=12, train=TRAIN, seed=0)
    training = trainer([spec], load_images(DATA).train)
    while not training.finished:
        training.train_epoch()
    return spec, training.member_state(0)


def network(trained, device) -> tuple[Any, Splits]:
    spec, state = trained
    splits = load_images(spec.data, device=device)
    test = dataclasses.replace(
        splits.test, images=splits.test.images[:IMAGES], label=splits.test.label[:IMAGES]
    )
    return load_member(spec, splits.train, state), splits._replace(test=test)


def of_the_train_set(model: Any, splits: Splits) -> dict[str, Any]:
    head = model.head.classifier
    return measurements.latent_metrics(
        collect(model, splits.train),
        weight=readout_weight(head.weight.detach(), "linear"),
        bias=head.bias.detach(),
        classes=10,
        mixtures=True,
    ).as_dict()


def by(kind: ProbeKind) -> Callable[[Any, Splits], dict[str, Any]]:
    return lambda model, splits: kind.function(model, splits).values


ATTACKING = ("attacks", "attack_checks", "attack_steps")
MEASURED = {name: by(kind) for name, kind in PROBES.items() if not kind.takes_spec}
MEASURED["factor"] = lambda model, splits: factor.summary(
    factor.measured(model, splits.test, count=2, names=("superdeepfool",))  # which ends once it fools
)
MEASURED["of the train set"] = of_the_train_set
MEASURED["of the test set"] = lambda model, splits: measurements.table2_metrics(model, splits).as_dict()


@pytest.fixture
def hasty(monkeypatch):
    """Give attacks a hundredth of their budget, because the pretended device counts every step."""

    def lessened(setting: attacks.Setting) -> attacks.Setting:
        budgets = {}
        for name, (budget, _) in setting.attacks.items():
            budget = attacks.ATTACKS[name].budget if budget is None else budget
            budgets[name] = (min(-(-budget // 100), 20), 1)
        return setting._replace(attacks=budgets, images=2)

    monkeypatch.setattr(attacks, "_lessened", lessened)


def at_leisure(name: str) -> Any:
    """Return a parameter for nightly tests: probes of thousands of small steps, each of which is counted."""
    return pytest.param(name, marks=pytest.mark.nightly) if name in ATTACKING else name


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", [at_leisure(name) for name in MEASURED])
def test_what_is_measured_on_a_gpu_is_what_is_measured_on_the_cpu(trained, name):
    expected = MEASURED[name](*network(trained, "cpu"))
    with pretended_gpu() as gpu:
        found = MEASURED[name](*network(trained, "cuda"))
    assert gpu.launches and not gpu.rounded
    assert_same(found, expected)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, float) and math.isfinite(value):
            assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-12), key
        else:
            assert found[key] == value or value != value, key


def test_classes_that_were_left_out_are_measured_on_the_device_of_the_network(monkeypatch):
    few = functools.partial(transfer.few_shot_accuracy, episodes=2)
    monkeypatch.setattr(transfer, "few_shot_accuracy", few)
    data = dataclasses.replace(DATA, first_classes=7)
    spec = variant_spec("IB", data=data, backbone="mlp", backbone_width=12, train=TRAIN, seed=0)
    weights = trainer([spec], load_images(data).train).member_state(0)

    def measured(device: str) -> dict[str, Any]:
        return transfer.probe(*network((spec, weights), device), spec).values

    expected = measured("cpu")
    with pretended_gpu() as gpu:
        found = measured("cuda")
    assert gpu.launches and not gpu.rounded
    assert_same(found, expected)


def test_the_shortest_ways_are_looked_for_on_the_device_of_the_images(trained):
    def shortest(device):
        model, splits = network(trained, device)
        model = model.double()
        image = splits.test.normalised(slice(None)).double()
        logits = perturbations.through(model)
        found = perturbations.Attacked(logits, image, deepfool(logits, image).perturbation)
        return perturbations.shortest(found, [found.perturbation, torch.ones_like(image)])

    expected = shortest("cpu")
    with pretended_gpu():
        found = shortest("cuda")
        assert found.is_cuda
    assert torch.allclose(found, expected, rtol=1e-9)


def test_a_network_in_pixels_is_not_waited_for_at_every_call():
    with pretended_gpu() as gpu:
        images = load_images(DATA, device="cuda").test
        pixels = images.pixels(slice(0, IMAGES))
        images.normalise(pixels)
        gpu.waits.clear()
        for _ in range(5):
            images.in_pixels(images.normalise(pixels))
        assert not gpu.waits


def test_no_measurement_of_a_network_with_convolutions_rounds_to_tf32():
    spec = variant_spec("IB", data=DATA, backbone="small_cnn", backbone_width=2, train=TRAIN, seed=0)
    with pretended_gpu() as gpu:
        weights = trainer([spec], load_images(DATA, device="cuda").train, compiled=False).member_state(0)
        model, splits = network((spec, weights), "cuda")
        for name in ("of the train set", "of the test set", "corruptions", "margins"):
            gpu.launches.clear()
            MEASURED[name](model, splits)
            assert any(what == "convolution" for what, _ in gpu.launches), name
            assert not gpu.rounded, name
        model.float()(splits.test.normalised())
        assert gpu.rounded  # the control: a network that is called outside
