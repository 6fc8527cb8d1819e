import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from lpc.extinction import decayed_gap, extinction_gamma


def minimum(*, gamma, decay, classes, width, start):
    """The least of Eq. 3 and the classifier's decay over free latents and weights, by L-BFGS."""
    generator = torch.Generator().manual_seed(0)
    latent, weight = (
        (start * torch.randn(classes, width, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )
    label = torch.arange(classes)
    optimizer = torch.optim.LBFGS(
        [latent, weight], max_iter=300, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = cross_entropy(latent @ weight.T, label)
        value = value + gamma * latent.square().sum(1).mean() + decay / 2 * weight.square().sum()
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(loss)
    logits = (latent @ weight.T).detach()
    gap = logits.diagonal() - (logits.sum(1) - logits.diagonal()) / (classes - 1)
    return gap, float(loss().detach())


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "decay"), [(3, 0.02), (10, 0.005)])
def test_only_the_zero_latent_is_left_from_the_threshold_on(classes, decay):
    threshold = extinction_gamma(weight_decay=decay, classes=classes)
    assert threshold == pytest.approx(1 / (2 * decay * classes))
    for factor, start in ((0.7, 1.0), (0.2, 0.3)):
        gap, value = minimum(
            gamma=factor * threshold, decay=decay, classes=classes, width=classes, start=start
        )
        expected = decayed_gap(factor * threshold, weight_decay=decay, classes=classes)
        torch.testing.assert_close(gap, torch.full_like(gap, expected), rtol=1e-3, atol=1e-4)
        assert expected > 0.1 and value < math.log(classes) - 1e-3
    gap, value = minimum(gamma=1.3 * threshold, decay=decay, classes=classes, width=classes, start=1.0)
    assert float(gap.abs().max()) < 1e-3 and value == pytest.approx(math.log(classes), abs=1e-6)
    assert decayed_gap(1.3 * threshold, weight_decay=decay, classes=classes) == 0


def test_without_decay_there_is_no_threshold():
    """The negative control: far beyond it a simplex with small latents and large weights lies below log K."""
    classes, gap, gamma = 10, 4.0, 1e3 * extinction_gamma(weight_decay=5e-3, classes=10)
    simplex = torch.eye(classes, dtype=torch.float64) - 1 / classes
    latent, weight = 1e-4 * simplex, gap / 1e-4 * simplex
    entropy = cross_entropy(latent @ weight.T, torch.arange(classes))
    value = float(entropy + gamma * latent.square().sum(1).mean())
    assert value < 0.2 * math.log(classes)
    assert value + 5e-3 / 2 * float(weight.square().sum()) > 1e3 * math.log(classes), "decay forbids it"


def test_the_gap_depends_on_the_product_alone():
    one, other = (decayed_gap(2 * f, weight_decay=1e-3 / f, classes=10) for f in (1.0, 7.0))
    assert one == pytest.approx(other) and one == pytest.approx(math.log(10 / math.sqrt(0.04) - 9))


@pytest.mark.parametrize(
    "values", [{"weight_decay": 0.0, "classes": 10}, {"weight_decay": 1e-3, "classes": 1}]
)
def test_bad_values_are_named(values):
    with pytest.raises(ValueError, match="expected a positive decay and 2 or more classes"):
        extinction_gamma(**values)
    with pytest.raises(ValueError, match="gamma is 0"):
        decayed_gap(0, weight_decay=1e-3, classes=10)
