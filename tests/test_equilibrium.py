import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from lpc.equilibrium import carried_gamma, logit_gap, radius, reachable_separation
from lpc.losses import squared_norm


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
    ],
)
def test_bad_values_are_errors(call):
    with pytest.raises(ValueError):
        call()
