import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lpc.equilibrium import (
    LOST_STEPS,
    bias_sd,
    budget_warning,
    carried_gamma,
    logit_gap,
    radius,
    reachable_separation,
    readout_margin,
)
from lpc.losses import squared_norm
from lpc.specs import TrainSpec


def simplex(classes, separation):
    vertices = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return vertices * separation / math.sqrt(2)


@pytest.mark.parametrize(
    ("gamma", "classes", "separation"), [(0.01, 3, 2.0), (5.0, 10, 3.0), (1e4, 10, 40.0)]
)
def test_formula_is_the_minimum_that_gradient_descent_finds(gamma, classes, separation):
    weight = simplex(classes, separation)
    assert torch.pdist(weight).std() < 1e-12 and torch.pdist(weight)[0].item() == pytest.approx(separation)
    scale = separation / (2 * gamma)  # an upper bound of the radius, by Eq. 16
    unit = torch.zeros(classes, classes, dtype=torch.float64, requires_grad=True)
    label = torch.arange(classes)
    optimizer = torch.optim.LBFGS(
        [unit], max_iter=500, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        latent = scale * unit
        value = cross_entropy(latent @ weight.T, label) + gamma * squared_norm(latent, reduction="sum")
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(loss)
    latent = scale * unit.detach()
    logits = latent @ weight.T
    gap = logits.diagonal() - (logits.sum(1) - logits.diagonal()) / (classes - 1)
    exact = logit_gap(gamma, classes=classes, separation=separation)
    torch.testing.assert_close(gap, torch.full((classes,), exact, dtype=torch.float64), rtol=1e-5, atol=0)
    norm = latent.norm(dim=1)
    expected = radius(gamma, classes=classes, separation=separation)
    torch.testing.assert_close(norm, torch.full((classes,), expected, dtype=torch.float64), rtol=1e-5, atol=0)


def test_gap_solves_its_equation_over_many_orders_of_magnitude():
    for exponent in range(-9, 10):
        gap = logit_gap(10.0**exponent, classes=10, separation=1.0)
        assert gap * (math.exp(gap) + 9) == pytest.approx(10 / (4 * 10.0**exponent), rel=1e-9)


def test_carried_gamma_is_the_gammas_whose_gap_is_the_one_asked_for():
    budget = {"width": 8, "learning_rate": 5e-3, "steps": 4000}
    gamma = carried_gamma(gap=2.0, classes=10, **budget)
    separation = reachable_separation(**budget)
    assert separation == pytest.approx(2 * math.sqrt(8) * 20)
    assert logit_gap(gamma, classes=10, separation=separation) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: logit_gap(0.0, classes=10, separation=1.0),
        lambda: logit_gap(1.0, classes=1, separation=1.0),
        lambda: reachable_separation(width=0, learning_rate=1.0, steps=1),
        lambda: carried_gamma(gap=0.0, classes=2, width=1, learning_rate=1.0, steps=1),
        lambda: bias_sd(learning_rate=0.0, classes=10, batch_size=128),
        lambda: bias_sd(learning_rate=1e-3, classes=1, batch_size=128),
    ],
)
def test_bad_values_are_errors(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize(("rate", "classes", "batch"), [(2e-2, 10, 128), (5e-3, 4, 32)])
def test_biases_that_have_nothing_to_learn_wander_as_the_closed_form_says(rate, classes, batch):
    """AdamW itself, on 300 classifiers of which only the biases are left, and classes drawn at random."""
    replicas, steps = 300, 800
    share = (
        np.random.default_rng(0).multinomial(batch, [1 / classes] * classes, size=(steps, replicas)) / batch
    )
    bias = torch.zeros(replicas, classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([bias], lr=rate, weight_decay=0.5e-4)
    seen = []
    for step in range(steps):
        bias.grad = bias.detach().softmax(dim=1) - torch.from_numpy(share[step])
        optimizer.step()
        if step > steps / 2 and step % 40 == 0:
            seen.append(bias.detach().square().mean().item())
    expected = bias_sd(learning_rate=rate, classes=classes, batch_size=batch)
    assert math.sqrt(np.mean(seen)) == pytest.approx(expected, rel=0.1)


LAPTOP = TrainSpec(
    epochs=400, learning_rate=5e-3, penalty="squared_norm", gamma_factor=1.063, gamma_maximum=1e3
)
RUN = {"width": 8, "classes": 10, "steps": 4000}


def test_a_hopeless_gamma_is_warned_of_in_numbers():
    text = budget_warning(replace(LAPTOP, gamma_maximum=1e6), **RUN)
    assert text is not None
    assert "gamma ends at 1e+06, where 4,000 steps at learning rate 0.005 and 8 nodes" in text
    assert "a logit gap of at most 0.0032:" in text  # 10 * 12,800 / (4 * 1e6) = 0.032 = 10 g, nearly
    assert "biases wander by 0.026" in text  # sqrt(0.0025 * sqrt(9 / 128))
    assert (
        "At a gap of 2 this budget carries gamma to 9.8e+02" in text
    )  # 10 * 12,800 / (4 * 2 * (exp(2) + 9)) = 976
    assert budget_warning(LAPTOP, **RUN) is None


def test_the_margin_is_the_gap_over_the_biases_sd():
    gap = logit_gap(1e3, classes=10, separation=2 * math.sqrt(8) * 5e-3 * 4000)
    assert readout_margin(LAPTOP, **RUN) == pytest.approx(gap / math.sqrt(0.0025 * math.sqrt(9 / 128)))
    averaged = replace(LAPTOP, penalty_reduction="mean", gamma_maximum=8e3)
    assert readout_margin(averaged, **RUN) == pytest.approx(readout_margin(LAPTOP, **RUN))
    with pytest.raises(ValueError, match="penalty is 'none'; expected 'squared_norm'"):
        readout_margin(replace(LAPTOP, penalty="none"), **RUN)


def test_the_limit_is_ten_steps_of_the_bias():
    gap = LOST_STEPS * 5e-3
    limit = carried_gamma(gap=gap, classes=10, width=8, learning_rate=5e-3, steps=4000)
    assert budget_warning(replace(LAPTOP, gamma_maximum=0.99 * limit), **RUN) is None
    assert budget_warning(replace(LAPTOP, gamma_maximum=1.01 * limit), **RUN) is not None
    averaged = replace(LAPTOP, penalty_reduction="mean")  # the release's gamma is divided by the width
    assert budget_warning(replace(averaged, gamma_maximum=7.9 * limit), **RUN) is None
    assert budget_warning(replace(averaged, gamma_maximum=8.1 * limit), **RUN) is not None


def test_a_gamma_that_is_never_reached_and_other_penalties_are_not_warned_of():
    assert budget_warning(replace(LAPTOP, gamma_maximum=1e12, gamma_factor=1.0), **RUN) is None
    assert budget_warning(replace(LAPTOP, gamma_maximum=1e12), **RUN) is not None
    assert budget_warning(replace(LAPTOP, gamma_maximum=1e12, gamma_factor=1e3), **RUN) is not None
    for penalty in ("none", "weight_l1"):
        assert budget_warning(replace(LAPTOP, gamma_maximum=1e12, penalty=penalty), **RUN) is None


def test_the_last_gamma_is_that_of_both_regimes():
    """Growth by a tenth every 100 epochs never gets there; from 1 on a factor of 1e3 does."""
    slow = replace(LAPTOP, gamma_maximum=1e12, gamma_factor=1.1, gamma_every=100)
    assert budget_warning(slow, **RUN) is None
    late = replace(slow, gamma_late_factor=1e3, gamma_late_from=LAPTOP.gamma_initial, gamma_every=1)
    assert "gamma ends at 1e+12" in str(budget_warning(late, **RUN))


def test_logits_that_do_not_shrink_with_the_latents_are_not_warned_of():
    for objective in ("arcface", "cosface"):
        train = replace(LAPTOP, gamma_maximum=1e12, objective=objective)
        assert budget_warning(train, **RUN) is None
        with pytest.raises(ValueError, match=f"objective is '{objective}', whose logits do not shrink"):
            readout_margin(train, **RUN)
    contrastive = replace(LAPTOP, gamma_maximum=1e12, objective="contrastive_cross_entropy")
    assert budget_warning(contrastive, **RUN) is not None
