import math
from dataclasses import replace
from typing import Any

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
    separation = reachable_separation(**budget, classes=10)
    assert separation == pytest.approx(math.sqrt(2 * 10 * 8 / 9) * 20)
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
        lambda: bias_sd(learning_rate=1e-3, classes=10, batch_size=128, images=0),
        lambda: reachable_separation(width=1, learning_rate=1.0, steps=1, classes=1),
    ],
)
def test_bad_values_are_errors(call):
    with pytest.raises(ValueError):
        call()


def wander_of_adamw(*, rate, classes, batch, images, permuted, epochs, replicas=200):
    """AdamW itself, on classifiers of which only the biases are left: rms at epoch ends, and over all steps.

    What all biases of a classifier have in common changes no prediction, and is taken out.
    """
    generator = np.random.default_rng(0)
    label = np.tile(np.arange(classes), images // classes + 1)[:images]
    bias = torch.zeros(replicas, classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([bias], lr=rate, weight_decay=0.5e-4)
    ends, steps, eye = [], [], np.eye(classes)
    for _ in range(epochs):
        if permuted:
            drawn = generator.permuted(np.tile(label, (replicas, 1)), axis=1)
        else:
            drawn = generator.integers(classes, size=(replicas, images))
        for first in range(0, images, batch):
            share = eye[drawn[:, first : first + batch]].mean(axis=1)
            bias.grad = bias.detach().softmax(dim=1) - torch.from_numpy(share)
            optimizer.step()
            steps.append(float(bias.detach().var(dim=1, correction=0).mean()))
        ends.append(steps[-1])
    steps = steps[len(steps) // 2 :]
    ends = ends[len(ends) // 2 :]
    return math.sqrt(np.mean(ends)), math.sqrt(np.mean(steps))


@pytest.mark.parametrize(
    ("rate", "batch", "images"),
    [(5e-3, 128, 1200), (2e-3, 50, 1000), (2e-2, 32, 320)],
    ids=["last batch of 48", "full batches", "relaxation within the epoch"],
)
def test_biases_wander_over_permuted_epochs_as_the_law_says(rate, batch, images):
    """The walk of labels drawn at random is 1.9 to 5 times too large here: the bound is 3 %."""
    ends, steps = wander_of_adamw(rate=rate, classes=10, batch=batch, images=images, permuted=True, epochs=60)
    law = {"learning_rate": rate, "classes": 10, "batch_size": batch, "images": images}
    assert ends == pytest.approx(bias_sd(**law), rel=0.03)
    assert steps == pytest.approx(bias_sd(**law, at="any step"), rel=0.03)
    assert bias_sd(**{**law, "images": None}) > 1.7 * ends


def test_biases_walk_where_labels_are_drawn_at_random():
    """The negative control: without permuted epochs the bridge is too small, the walk right."""
    ends, _ = wander_of_adamw(rate=2e-2, classes=10, batch=128, images=1200, permuted=False, epochs=60)
    assert ends == pytest.approx(bias_sd(learning_rate=2e-2, classes=10, batch_size=128), rel=0.03)
    assert ends == pytest.approx(math.sqrt(1e-2 * math.sqrt(9 / 128)), rel=0.03)
    assert ends > 1.7 * bias_sd(learning_rate=2e-2, classes=10, batch_size=128, images=1200)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 4e-3])
def test_the_wander_has_the_closed_forms_of_full_batches_without_momentum(rate):
    classes, batch, images = 10, 100, 20_000
    steps = images / batch
    relaxation = math.sqrt((classes - 1) / batch * (images - batch) / (images - 1)) / rate
    turn = steps / relaxation
    law = {"learning_rate": rate, "classes": classes, "batch_size": batch, "momentum": 0.0}
    walk = rate**2 * relaxation / 2
    bridge = walk * (1 - 2 / turn * math.tanh(turn / 2))
    assert bias_sd(**law, images=images) == pytest.approx(math.sqrt(bridge), rel=0.01 + 0.2 / relaxation)
    assert bias_sd(**law) == pytest.approx(math.sqrt(rate / 2 * math.sqrt((classes - 1) / batch)), rel=0.02)
    if turn < 0.2:
        inside = bias_sd(**law, images=images, at="any step")
        assert inside == pytest.approx(rate * math.sqrt(steps / 6), rel=0.01)


def test_a_batch_of_all_images_does_not_wander_and_too_large_a_rate_has_no_law():
    law: Any = {"classes": 10, "batch_size": 128}
    assert bias_sd(learning_rate=5e-3, images=128, **law) == 0
    assert math.isinf(bias_sd(learning_rate=50.0, images=1200, **law))


@pytest.mark.parametrize(("classes", "width"), [(2, 3), (3, 4), (7, 5), (10, 8)])
def test_the_separation_of_all_pairs_is_what_sign_matrices_reach_and_no_other_weights_pass(classes, width):
    budget = {"width": width, "learning_rate": 0.1, "steps": 30}
    column = torch.tensor([1.0, -1.0]).repeat(classes)[:classes]
    signs = 3.0 * column[:, None].repeat(1, width)
    reached = float(torch.pdist(signs).square().mean().sqrt())
    assert reached == pytest.approx(reachable_separation(**budget, classes=classes))
    generator = torch.Generator().manual_seed(0)
    weights = 3.0 * (2 * torch.rand(500, classes, width, generator=generator) - 1)
    weights = torch.cat([weights, 3.0 * weights.sign()])
    spread = torch.stack([torch.pdist(one).square().mean().sqrt() for one in weights])
    assert float(spread.max()) <= reached * (1 + 1e-6)
    pair = reachable_separation(**budget)
    assert pair == pytest.approx(2 * math.sqrt(width) * 3.0)
    if classes % 2 == 0:
        assert (pair / reached) ** 2 == pytest.approx(2 * (classes - 1) / classes)


LAPTOP = TrainSpec(
    epochs=400, learning_rate=5e-3, penalty="squared_norm", gamma_factor=1.063, gamma_maximum=1e3
)
RUN: dict[str, Any] = {"width": 8, "classes": 10, "steps": 4000}


def test_a_hopeless_gamma_is_warned_of_in_numbers():
    text = budget_warning(replace(LAPTOP, gamma_maximum=1e6), **RUN)
    assert text is not None
    assert "gamma ends at 1e+06, where 4,000 steps at learning rate 0.005 and 8 nodes" in text
    assert "a logit gap of at most 0.0018:" in text  # 10 * 7,111 / (4 * 1e6) = 0.018 = 10 g, nearly
    wander = bias_sd(learning_rate=5e-3, classes=10, batch_size=128, images=1280, at="any step")
    assert f"a step of a bias is 0.005 and the biases wander by {wander:.2g}" in text
    assert "At a gap of 2 this budget carries gamma to 5.4e+02" in text  # 10 * 7,111 / (4 * 2 * (exp(2) + 9))
    assert budget_warning(LAPTOP, **RUN) is None


def test_the_margin_is_the_gap_over_the_biases_sd_at_the_ends_of_epochs():
    gap = logit_gap(1e3, classes=10, separation=math.sqrt(160 / 9) * 5e-3 * 4000)
    law = {"learning_rate": 5e-3, "classes": 10, "batch_size": 128}
    assert readout_margin(LAPTOP, **RUN) == pytest.approx(gap / bias_sd(**law, images=1280))
    assert readout_margin(LAPTOP, **RUN, images=1197) == pytest.approx(gap / bias_sd(**law, images=1197))
    averaged = replace(LAPTOP, penalty_reduction="mean", gamma_maximum=8e3)
    assert readout_margin(averaged, **RUN) == pytest.approx(readout_margin(LAPTOP, **RUN))
    with pytest.raises(ValueError, match="penalty is 'none'; expected 'squared_norm'"):
        readout_margin(replace(LAPTOP, penalty="none"), **RUN)
    with pytest.raises(ValueError, match=r"steps is 4000; 400 epochs of 1000 images .* are 3200"):
        readout_margin(LAPTOP, **RUN, images=1000)
    assert math.isinf(readout_margin(replace(LAPTOP, batch_size=1280), **{**RUN, "steps": 400}, images=1280))


def test_the_limit_is_ten_steps_of_the_bias():
    gap = LOST_STEPS * 5e-3
    limit = carried_gamma(gap=gap, classes=10, width=8, learning_rate=5e-3, steps=4000)
    assert budget_warning(replace(LAPTOP, gamma_maximum=0.99 * limit), **RUN, certain=True) is None
    assert budget_warning(replace(LAPTOP, gamma_maximum=1.01 * limit), **RUN, certain=True) is not None
    averaged = replace(LAPTOP, penalty_reduction="mean")  # the release's gamma is divided by the width
    assert budget_warning(replace(averaged, gamma_maximum=7.9 * limit), **RUN, certain=True) is None
    assert budget_warning(replace(averaged, gamma_maximum=8.1 * limit), **RUN, certain=True) is not None


def test_a_margin_at_which_every_run_on_digits_lost_its_readout_is_warned_of_as_well():
    own = TrainSpec(epochs=30, learning_rate=2e-3, batch_size=64, penalty="squared_norm", gamma_factor=1.5)
    steps: dict[str, Any] = {"width": 8, "classes": 10, "steps": 540}  # of the page on one's own model
    text = budget_warning(replace(own, gamma_maximum=100.0), **steps)
    assert text is not None and "and the margin is 26: below 87 every run on digits lost its readout" in text
    assert budget_warning(replace(own, gamma_maximum=100.0), **steps, certain=True) is None
    assert budget_warning(replace(own, gamma_maximum=1.0), **steps) is None


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
