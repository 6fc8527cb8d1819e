"""Training on the machine's GPU, to within rounding; without one, on a pretended GPU."""

import contextlib
import dataclasses
import io
import warnings
from typing import Any

import pytest
import torch
from support.pretended_gpu import pretended_gpu

from lpc.data import load_images
from lpc.specs import VARIANTS, DataSpec, TrainSpec, variant_spec
from lpc.training import trainer
from lpc.training.solo import Solo
from lpc.training.together import SideBySide

pytestmark = pytest.mark.gpu
REAL = torch.cuda.is_available()
BACKBONE = "resnet18" if REAL else "small_cnn"  # fewer calls; test_on_a_gpu has a ResNet
NEAR: dict[str, Any] = {"rtol": 2e-3, "atol": 1e-4}
"""Losses of five epochs of a small network, whose products add in another order."""
DATA = DataSpec(name="digits", validation=100, train_limit=150, noise=0.0)
TRAIN = TrainSpec(
    epochs=5, batch_size=32, learning_rate=2.0**-8, gamma_maximum=1.0, decay_start=2, decay_every=1
)


def make(architecture="IB", *, seed=0, backbone="mlp", width=12, **train):
    model = {"backbone": backbone, "backbone_width": width}
    spec = variant_spec(
        architecture, data=DATA, train=dataclasses.replace(TRAIN, **train), seed=seed, **model
    )
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, dropout=0.0))


@pytest.fixture(autouse=True)
def device():
    with contextlib.nullcontext() if REAL else pretended_gpu():
        yield


class SameOrder:
    """Draws of the CPU on the GPU: random numbers of the two kinds of devices differ."""

    def __init__(self, own, there):
        self.own, self.there, self.generator = own, there, own.generator

    def epoch(self):
        for batch in self.own.epoch():
            yield type(batch)(*(None if part is None else part.to(self.there) for part in batch))


def train(specs, images, *, draws=None, **options):
    training = trainer(specs, images, **options)
    if draws is not None:
        training.draws = draws
    while not training.finished:
        training.train_epoch()
    return training, torch.tensor(training.losses)


def on_both(specs, **options):
    """Return the losses on the CPU, and on the GPU with the CPU's batches."""
    here, there = (load_images(DATA, device=kind).train for kind in ("cpu", "cuda"))
    _, expected = train(specs, here)
    drawn = [SameOrder(one, "cuda") for one in trainer(specs, here).draws]
    return expected, train(specs, there, draws=drawn, **options)[1]


@pytest.mark.parametrize("graphed", [False, True])
@pytest.mark.parametrize("architecture", VARIANTS if REAL else ["IB", "NonLinPenL1"])
def test_losses_are_the_cpus(architecture, graphed):
    """With the decay inside: a rate that is shared or stale moves the last losses by more than a tenth."""
    expected, found = on_both([make(architecture)], compiled=False, graphed=graphed)
    torch.testing.assert_close(found, expected, **NEAR)


@pytest.mark.parametrize("graphed", [False, True])
def test_a_cohorts_losses_are_the_cpus(graphed):
    expected, found = on_both([make("IB"), make("LinPen", seed=1)], graphed=graphed)
    torch.testing.assert_close(found, expected, **NEAR)


def test_recorded_and_resumed_steps_are_the_plain_ones():
    """Of a convolutional network: to the bit where kernels add in a fixed order, which gpu-check reports."""
    spec = make("IB", backbone=BACKBONE, width=4, epochs=3, batch_size=16)
    images = load_images(DATA, device="cuda").train
    plain, losses = train([spec], images, compiled=False, graphed=False)
    recorded, again = train([spec], images, compiled=False, graphed=True)
    torch.testing.assert_close(again, losses, **NEAR)
    half = Solo([spec], images, compiled=False, graphed=True)
    half.train_epoch()
    content = io.BytesIO()
    torch.save(half.state_dict(), content)
    content.seek(0)
    resumed = Solo([spec], images, compiled=False, graphed=True)
    resumed.load_state_dict(torch.load(content, map_location="cpu", weights_only=True))
    while not resumed.finished:
        resumed.train_epoch()
    torch.testing.assert_close(torch.tensor(resumed.losses), losses, **NEAR)
    logits = [one.outputs(images).logits for one in (plain, recorded, resumed)]
    size = float(logits[0].abs().max())
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=0, atol=0.05 * size)


def test_runs_side_by_side_are_the_runs_alone():
    specs = [make("IB"), make("NoPen", seed=1), make("LinPen", seed=2)]
    images = load_images(DATA, device="cuda").train
    members = [Solo([spec], images, compiled=False) for spec in specs]
    both = SideBySide(members)
    for _ in range(TRAIN.epochs):
        both.train_epoch()
    for member, spec in zip(members, specs, strict=True):
        torch.testing.assert_close(
            torch.tensor(member.losses), train([spec], images, compiled=False)[1], **NEAR
        )


def test_compiled_networks_learn_the_same():
    """Where this device compiles; else the library says so and trains uncompiled."""
    spec = make("IB", backbone=BACKBONE, width=4, epochs=3, batch_size=16)
    images = load_images(DATA, device="cuda").train
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        training = Solo([spec], images)
    _, plain = train([spec], images, compiled=False, graphed=False)
    while not training.finished:
        training.train_epoch()
    torch.testing.assert_close(torch.tensor(training.losses), plain, rtol=2e-2, atol=1e-3)
