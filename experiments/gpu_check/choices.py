"""How much each faster way to train gains on this GPU, and whether it pays off by a rule set beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from experiments.gpu_check.amounts import Amount, Rows
from experiments.gpu_check.correctness import compared
from experiments.gpu_check.speed import epoch_seconds, images_of, timed
from experiments.studies.image_shapes import random_images
from experiments.studies.profiles import profile, specs
from lpc.training import trainer
from lpc.training.choices import CHOICES, VARIABLE
from lpc.training.cohorts import shape_of
from lpc.training.solo import Solo
from lpc.training.together import SideBySide


class Rule(NamedTuple):
    """When a choice pays off: its smallest gain, and its result's largest difference from the usual one."""

    gain: float
    apart: float


RULES: Mapping[str, Rule] = {
    "half_accuracies": Rule(gain=1.5, apart=2e-3),  # share of images whose decision changes
    "cudnn_trials": Rule(
        gain=1.03, apart=1e-2
    ),  # of the weights after an epoch: other algorithms round differently
    "recorded_cohorts": Rule(gain=1.1, apart=1e-3),  # of the losses: fused AdamW rounds differently
    "side_by_side": Rule(gain=1.1, apart=0.0),  # of the weights after an epoch: the same kernels
}
assert set(RULES) == set(CHOICES)


def gains(amount: Amount, seconds: float) -> Rows:
    """Yield, per choice, the seconds without and with it, how results differ, and whether it pays off."""
    for name, measure in (
        ("half_accuracies", _half_accuracies),
        ("cudnn_trials", _cudnn_trials),
        ("recorded_cohorts", _recorded_cohorts),
        ("side_by_side", _side_by_side),
    ):
        usual, chosen, apart = measure(amount, seconds / 8)
        yield name, verdict(name, usual, chosen, apart)


def verdict(name: str, usual: float, chosen: float, apart: float) -> dict[str, Any]:
    """Return a choice's row of the table: seconds, gain, the rule, and whether the choice meets it."""
    rule, gain = RULES[name], usual / chosen
    return {
        "usual (s)": usual,
        "chosen (s)": chosen,
        "gain": gain,
        "gain asked for": rule.gain,
        "apart": apart,
        "apart at most": rule.apart,
        "worth taking": bool(gain >= rule.gain and apart <= rule.apart),
    }


@contextmanager
def _choosing(name: str) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def _half_accuracies(amount: Amount, limit: float) -> tuple[float, float, float]:
    """Measure how a run that has trained one epoch classifies a train set."""
    del limit
    spec = amount.run(amount.networks[0], precision="bfloat16")
    with _choosing("half_accuracies"):
        training = Solo([spec], images_of(spec, amount), compiled=False)
    training.train_epoch()
    images = random_images(spec.data, amount.judged, device=training.device)
    training.outputs(images)
    usual, exact = timed(lambda: training.outputs(images))
    training.glance(images)
    chosen, glanced = timed(lambda: training.glance(images))
    apart = (exact.logits.argmax(dim=-1) != glanced.logits.argmax(dim=-1)).double().mean()
    return usual, chosen, float(apart)


def _cudnn_trials(amount: Amount, limit: float) -> tuple[float, float, float]:
    """Measure epochs of recorded steps without compilation, so that all convolutions are cuDNN's."""
    spec = amount.run(amount.networks[0])
    images = images_of(spec, amount)
    spent, states = [], []
    for name in ("", "cudnn_trials"):
        with _choosing(name):
            training = Solo([spec], images, compiled=False)
        training.train_epoch()
        states.append(training.member_state(0))
        spent.append(epoch_seconds(training.train_epoch, amount, limit)[0])
    return spent[0], spent[1], compared(states[1], states[0])["difference"]


def _recorded_cohorts(amount: Amount, limit: float) -> tuple[float, float, float]:
    """Measure epochs of a cohort of the laptop's networks."""
    declared = specs(profile("laptop"))
    alike = [spec for spec in declared if shape_of(spec) == shape_of(declared[0])][: amount.cohort]
    images = random_images(alike[0].data, amount.batches * alike[0].train.batch_size, device="cuda")
    spent, losses = [], []
    for graphed in (False, True):
        training = trainer(alike, images, graphed=graphed)
        training.train_epoch()
        losses.append(torch.tensor(training.losses))
        spent.append(epoch_seconds(training.train_epoch, amount, limit)[0])
    return spent[0], spent[1], float(((losses[1] - losses[0]) / losses[0]).abs().max())


def _side_by_side(amount: Amount, limit: float) -> tuple[float, float, float]:
    """Measure epochs of two runs, one after the other and with alternating steps."""
    specs = [replace(amount.run(amount.networks[0]), seed=seed) for seed in range(2)]
    images = images_of(specs[0], amount)
    spent, states = [], []
    for together in (False, True):
        members = [Solo([spec], images, compiled=False) for spec in specs]
        groups = [members] if together else [[member] for member in members]
        turns = [SideBySide(group) for group in groups]

        def train(turns: list[SideBySide] = turns) -> None:
            for turn in turns:
                turn.train_epoch()

        train()
        states.append([member.member_state(0) for member in members])
        spent.append(epoch_seconds(train, amount, limit)[0])
    apart = [compared(chosen, usual)["difference"] for usual, chosen in zip(*states, strict=True)]
    return spent[0], spent[1], max(apart)
