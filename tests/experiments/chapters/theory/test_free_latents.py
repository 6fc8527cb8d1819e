import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from experiments.chapters.theory.free_latents import (
    binned,
    compensating_radius,
    equilibrium,
    simplex,
    train_classifier,
)
from experiments.chapters.theory.readout import readout
from lpc.equilibrium import radius


@pytest.fixture(autouse=True)
def _one_thread():
    """Many small matrices: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def started(points, width, seed=0):
    return torch.randn(points, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("gamma", [1e-8, 1e-3, 1.0, 1e4, 1e8])
def test_points_of_a_class_meet_at_the_formulas_radius_wherever_they_start(gamma):
    label = torch.arange(10).repeat(3)
    latent = equilibrium(simplex(10, 3.0), gamma=gamma, label=label, start=started(30, 10))
    expected = radius(gamma, classes=10, separation=3.0)
    torch.testing.assert_close(
        latent.norm(dim=1), torch.full((30,), expected, dtype=torch.float64), rtol=1e-8, atol=0
    )
    torch.testing.assert_close(latent[:10], latent[20:], rtol=1e-6, atol=1e-9 * expected)


def test_equilibrium_has_no_gradient_for_a_classifier_without_symmetry():
    weight, label = 4 * started(7, 3, seed=1), torch.arange(7)
    latent = equilibrium(weight, gamma=0.3, label=label, start=started(7, 3)).requires_grad_()
    loss = cross_entropy(latent @ weight.T, label, reduction="sum") + 0.3 * latent.square().sum()
    loss.backward()
    assert latent.grad is not None and latent.grad.abs().max() < 1e-10
    assert latent.norm(dim=1).std() > 0.01 * latent.norm(dim=1).mean()


def test_readout_gives_the_formulas_gap_for_a_simplex_and_loses_it_to_a_bias():
    weight, label = simplex(10, 5.0), torch.arange(10)
    latent = equilibrium(weight, gamma=2.0, label=label, start=started(10, 10))
    found = readout(latent, label, weight=weight, bias=torch.zeros(10, dtype=torch.float64), gamma=2.0)
    assert found.gap == pytest.approx(found.law, rel=1e-9)
    assert found.separation == pytest.approx(5.0) and found.farthest == pytest.approx(5.0)
    assert found.accuracy == found.bias_free_accuracy == 1.0
    bias = torch.zeros(10, dtype=torch.float64)
    bias[3] = 1.01 * found.gap
    lost = readout(latent, label, weight=weight, bias=bias, gamma=2.0)
    assert lost.accuracy == pytest.approx(0.1) and lost.bias_free_accuracy == 1.0
    bias[3] = 0.99 * found.gap
    assert readout(latent, label, weight=weight, bias=bias, gamma=2.0).accuracy == 1.0


def test_trained_classifier_follows_the_law_and_adamw_alone_makes_a_cube():
    arguments = {"gammas": [1e2], "learning_rates": [5e-3, 2e-2], "record": (50, 300)}
    adamw = train_classifier(**arguments)
    assert adamw["step"].tolist() == [50, 50, 300, 300]
    np.testing.assert_allclose(adamw["gap"], adamw["law"], rtol=0.1)
    assert (adamw["separation"] < 3**0.5 * adamw["reach"]).all()
    assert (adamw["separation"] > 0.3 * adamw["reach"]).all()
    plain = train_classifier(**arguments, adaptive=False)
    assert (plain["cube_spread"] > 3 * adamw["cube_spread"]).all()
    assert (plain["weight_spread"] > 10 * adamw["weight_spread"]).all()


def test_training_takes_adamws_steps():
    rows = train_classifier(gammas=[1.0], learning_rates=[1e-2], record=(3,), initial=0.5)
    generator = torch.Generator().manual_seed(0)
    weight = (0.5 * torch.randn(10, 8, generator=generator, dtype=torch.float64)).requires_grad_()
    bias = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=1e-2, weight_decay=0.5e-4)
    for _ in range(3):
        drawn = torch.randint(10, (128,), generator=generator)
        latent = torch.zeros(10, 8, dtype=torch.float64, requires_grad=True)
        for _ in range(300):  # gradient descent on the latents, to their own minimum
            own = cross_entropy(latent @ weight.detach().T + bias.detach(), torch.arange(10), reduction="sum")
            (gradient,) = torch.autograd.grad(own + latent.square().sum(), latent)
            latent = (latent - 0.2 * gradient).detach().requires_grad_()
        optimizer.zero_grad()
        cross_entropy(latent.detach()[drawn] @ weight.T + bias, drawn).backward()
        optimizer.step()
    separation = torch.pdist(weight.detach()).square().mean().sqrt()
    assert rows["separation"].item() == pytest.approx(float(separation), rel=1e-9)
    assert rows["bias_range"].item() == pytest.approx(float((bias.max() - bias.min()).detach()), rel=1e-7)


def test_compensating_radius_in_its_limits():
    assert compensating_radius(0.0, gap=1.0) == pytest.approx(1.0)
    # Near zero gap the cross-entropy is linear in the true (centred) logit: 1 / cos.
    assert compensating_radius(0.5, gap=1e-6) == pytest.approx(1 / math.cos(0.5), rel=1e-4)
    # At a large gap only the nearest rival counts: its logit difference lies acos sqrt(K / (2 (K - 1))) away.
    lean = math.acos(math.sqrt(10 / 18))
    assert compensating_radius(0.5, gap=2e2) == pytest.approx(math.cos(lean) / math.cos(lean + 0.5), rel=2e-2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: compensating_radius(0.1, gap=0.0),
        lambda: compensating_radius(1.0, gap=1.0),
        lambda: compensating_radius(0.1, gap=1.0, classes=2),
    ],
)
def test_bad_values_are_errors(call):
    with pytest.raises(ValueError):
        call()


def test_bins_from_one_for_all_points_to_one_a_point():
    centres, label = torch.eye(4, dtype=torch.float64).repeat_interleave(5, dim=0), torch.arange(4).repeat(5)
    label = label.sort().values
    spread = centres + 1e-4 * started(20, 4)
    zero, four, twenty = (
        pytest.approx(0.0, abs=1e-12),
        pytest.approx(math.log(4)),
        pytest.approx(math.log(20)),
    )
    assert binned(spread, label, 1e9) == (zero, zero, four)
    assert binned(spread, label, 1e-9) == (twenty, pytest.approx(math.log(5)), zero)
    assert binned(centres, label, 1e-9) == (four, zero, zero)
    assert binned(centres, label // 2, 1e-9) == (four, pytest.approx(math.log(2)), zero)
    assert binned(spread, label, 0.1).entropy == pytest.approx(math.log(4), abs=0.1)
