"""Oracles of the optimizers: turned coordinates, torch's own, timm's, and closed forms of a step."""

import copy
import dataclasses
from typing import Any, get_args

import pytest
import torch

from lpc.computing.sampling import random_turn
from lpc.data import load_images
from lpc.specs import DataSpec, Optimizer, TrainSpec, variant_spec
from lpc.training import trainer
from lpc.training.cohorts import Cohort, shape_of
from lpc.training.optimizers import latent_turn
from lpc.training.own_optimizers import DecoupledSGD, EquivariantAdam, Lion, TurnedAdamW, turned
from lpc.training.solo import Solo

DATA = DataSpec(name="digits", train_limit=96)
TRAIN = TrainSpec(epochs=3, batch_size=32, learning_rate=5e-3, gamma_maximum=1.0, weight_decay=1e-2)
OTHERS = [name for name in get_args(Optimizer) if name != "adamw"]
DECAY = 0.1


def make(optimizer: Any, *, seed=0, rate=5e-3, architecture="IB"):
    train = dataclasses.replace(TRAIN, learning_rate=rate)
    spec = variant_spec(architecture, data=DATA, backbone="mlp", backbone_width=12, train=train, seed=seed)
    return dataclasses.replace(spec, train=dataclasses.replace(spec.train, optimizer=optimizer))


@pytest.fixture(scope="module")
def images():
    return load_images(DATA).train


def gradients(steps=6, shape=(5, 3)):
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([3.0, 1.0, 0.01]).double()
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for _ in range(steps)]


def walked(make_optimizer, given, *, start=1.0, decay=DECAY):
    value = torch.nn.Parameter(torch.full_like(given[0], start))
    optimizer = make_optimizer([value], lr=0.02, weight_decay=decay)
    for gradient in given:
        value.grad = gradient.clone()
        optimizer.step()
    return value.detach()


def test_lions_first_two_steps_in_closed_form():
    """The second step's sign is that of 0.9 * (0.01 g1) + 0.1 g2, which differs from that of either alone."""
    first = torch.tensor([1.0, -1.0, 1.0, 0.0])
    second = torch.tensor([-0.08, 0.08, -0.1, 1.0])
    value = torch.nn.Parameter(torch.ones(4))
    optimizer = Lion([value], lr=0.1, weight_decay=0.5)
    value.grad = first
    optimizer.step()
    assert value.tolist() == pytest.approx([0.85, 1.05, 0.85, 0.95])
    value.grad = second
    optimizer.step()
    signs = [1, -1, -1, 1]  # 0.009 - 0.008, 0.009 - 0.01
    assert value.tolist() == pytest.approx(
        [0.95 * one - 0.1 * sign for one, sign in zip([0.85, 1.05, 0.85, 0.95], signs, strict=True)]
    )


def test_lion_is_timms():
    timm = pytest.importorskip("timm.optim")
    torch.testing.assert_close(walked(Lion, gradients()), walked(timm.Lion, gradients()))


def test_decoupled_sgd_is_torchs_without_decay_and_shrinks_with_it():
    def ours(params, **given):
        return DecoupledSGD(params, momentum=0.7, **given)

    def torchs(params, **given):
        return torch.optim.SGD(params, momentum=0.7, **given)

    assert torch.allclose(
        walked(ours, gradients(), decay=0.0), walked(torchs, gradients(), decay=0.0), atol=1e-12
    )
    still = [torch.zeros(2, dtype=torch.float64)] * 4
    assert walked(ours, still).tolist() == pytest.approx([(1 - 0.02 * DECAY) ** 4] * 2)
    assert not torch.allclose(walked(ours, gradients()), walked(torchs, gradients()), atol=1e-4), "coupled"


def equivariant(params, **given):
    return EquivariantAdam(params, stacked=False, **given)


def test_equivariant_adam_is_adamw_where_all_entries_are_alike_or_there_is_one():
    alike = [torch.full((4, 3), value, dtype=torch.float64) for value in (0.3, -2.0, 0.5)]
    assert torch.allclose(walked(equivariant, alike), walked(torch.optim.AdamW, alike), atol=1e-12)
    unlike = [gradient.flatten()[:2] for gradient in gradients()]
    assert not torch.allclose(walked(equivariant, unlike), walked(torch.optim.AdamW, unlike), atol=1e-3)
    first = gradients(1)[0]  # whose step is the gradient over its own rms
    step = (1.0 - walked(equivariant, [first], decay=0.0)) / 0.02
    torch.testing.assert_close(step, first / first.square().mean().sqrt(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "kept"), [("equivariant", True), ("sgd", True), ("adamw", False), ("lion", False)]
)
def test_which_optimizers_turn_with_their_coordinates(name, kept, seed):
    """Turned gradients give the turned steps, but with AdamW and Lion, the controls."""
    makers = {
        "equivariant": equivariant,
        "sgd": lambda params, **given: torch.optim.SGD(params, momentum=0.9, **given),
        "adamw": torch.optim.AdamW,
        "lion": Lion,
    }
    turn = random_turn(5, torch.Generator().manual_seed(seed))
    plain = walked(makers[name], gradients(), start=0.0)
    there = walked(makers[name], [turn @ gradient for gradient in gradients()], start=0.0)
    error = float((there - turn @ plain).norm() / plain.norm())
    assert error < 1e-9 if kept else error > 0.05


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), -2), ((3, 5), -1), ((5,), -1)])
def test_adamw_in_turned_coordinates_is_turn_step_turn_back(shape, axis):
    turn = random_turn(5, torch.Generator().manual_seed(1))
    given = [gradient.flatten()[: torch.Size(shape).numel()].reshape(shape) for gradient in gradients()]
    value = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
    optimizer = TurnedAdamW([value], lr=0.02, weight_decay=DECAY, axes={value: axis}, turn=turn)
    there = torch.nn.Parameter(turned(value.detach(), turn, axis=axis))
    adamw = torch.optim.AdamW([there], lr=0.02, weight_decay=DECAY)
    for gradient in given:
        value.grad, there.grad = gradient, turned(gradient, turn, axis=axis)
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(value.detach(), turned(there.detach(), turn.mT, axis=axis))
    index = {-2: "qp,p...->q...", -1: "...p,qp->...q"}[axis]
    start = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(
        turned(start, turn, axis=axis), torch.einsum(index, *((turn, start) if axis == -2 else (start, turn)))
    )


def test_a_turn_is_orthogonal_its_seeds_and_the_runs_own():
    turn = latent_turn(3, 8)
    torch.testing.assert_close(turn @ turn.T, torch.eye(8), atol=1e-6, rtol=0)
    assert torch.equal(turn, latent_turn(3, 8)) and not torch.allclose(turn, latent_turn(4, 8), atol=0.1)
    drawn = torch.stack([random_turn(3, torch.Generator().manual_seed(s)) for s in range(2000)])
    assert float(drawn.mean(dim=0).abs().max()) < 4 / (3 * 2000) ** 0.5, "no direction is preferred"
    assert abs(float(torch.linalg.det(drawn).mean())) < 0.1, "reflections are as likely"


def latent_turned(state, turn):
    """The same network with its latent turned."""
    state = {name: value.clone() for name, value in state.items()}
    for name, axis in {"penultimate.weight": -2, "penultimate.bias": -1, "classifier.weight": -1}.items():
        state[f"head.{name}"] = turned(state[f"head.{name}"], turn, axis=axis)
    return state


@pytest.mark.parametrize(("optimizer", "kept"), [("adam_equivariant", True), ("sgd", True), ("adamw", False)])
def test_a_network_whose_latent_is_turned_trains_to_the_turned_network(images, optimizer, kept):
    """To rounding, which two epochs of a small network leave small; AdamW is the control."""
    turn = random_turn(8, torch.Generator().manual_seed(0))
    ends = []
    for turning in (False, True):
        run = Solo([make(optimizer)], images)
        if turning:
            run.model.load_state_dict(latent_turned(run.model.state_dict(), turn.float()))
        for _ in range(2):
            run.train_epoch()
        ends.append(run.outputs(images))
    error = float(
        (ends[1].latent[0].double() - ends[0].latent[0].double() @ turn.mT).norm() / ends[0].latent.norm()
    )
    assert error < 1e-4 if kept else error > 0.02  # over three seeds: at most 3e-7, and at least 0.043


def test_turned_adamw_is_adamw_from_the_turned_network(images):
    """The classifier's weights after 3 steps, over the way they came; plain AdamW is the control."""
    turn, name = latent_turn(0, 8), "head.classifier.weight"
    run, there, plain = (Solo([make(one)], images) for one in ("adamw_turned", "adamw", "adamw"))
    there.model.load_state_dict(latent_turned(there.model.state_dict(), turn))
    start = run.member_state(0)[name]
    for one in (run, there, plain):
        one.train_epoch()
    expected = there.member_state(0)[name] @ turn
    way = (expected - start).norm()
    # over four seeds: at most 2.5e-4, and at least 0.56
    assert (run.member_state(0)[name] - expected).norm() < 0.01 * way
    assert (plain.member_state(0)[name] - expected).norm() > 0.3 * way


@pytest.mark.parametrize("optimizer", OTHERS)
def test_a_run_alone_and_in_a_cohort_agree_and_go_on_to_the_same_bits(images, optimizer):
    rates = (5e-3, 1e-3) if optimizer != "lion" else (5e-4, 1e-4)
    alike = [make(optimizer, seed=seed, rate=rate) for seed, rate in enumerate(rates)]
    assert len({shape_of(spec) for spec in alike}) == 1
    assert shape_of(alike[0]) != shape_of(make("adamw"))

    def after(epochs, run):
        for _ in range(epochs):
            run.train_epoch()
        return run

    together = after(2, Cohort(alike, images))
    for member, spec in enumerate(alike):
        alone = after(2, Solo([spec], images))
        found, expected = together.member_state(member), alone.member_state(0)
        name = "head.classifier.weight"
        start = trainer([spec], images).member_state(0)[name]
        assert (found[name] - expected[name]).norm() < 0.02 * (expected[name] - start).norm()
    for kind, specs in ((Solo, alike[:1]), (Cohort, alike)):
        whole, begun, resumed = (
            after(2, kind(specs, images)),
            after(1, kind(specs, images)),
            kind(specs, images),
        )
        resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
        after(1, resumed)
        ours, theirs = resumed.member_state(0), whole.member_state(0)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_latent_that_cannot_be_turned_is_refused():
    with pytest.raises(ValueError, match=r"ModelSpec\.penultimate is 'none'; expected 'linear'"):
        make("adamw_turned", architecture="NoPen")
