import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal, kl_divergence

from experiments.chapters.objectives import equivalence
from experiments.chapters.objectives.equivalence import (
    Claim,
    entropy_distance,
    gaussian_rate,
    of_encoders,
    triangle_slack,
)


@pytest.fixture(scope="module")
def data():
    return equivalence.random_problem(points=6, classes=3, seed=0)


@pytest.fixture(scope="module")
def encoders(data):
    return of_encoders(data, equivalence.random_encoders(encoders=200, points=6, categories=4, seed=1))


def entropy(*, joint, kept):
    """Entropy of a marginal by SciPy, on numpy."""
    summed = tuple(axis for axis in range(joint.ndim) if axis not in kept)
    return float(stats.entropy(joint.sum(axis=summed).ravel()))


def test_objectives_are_what_their_authors_wrote(data):
    encoder = equivalence.random_encoders(encoders=1, points=6, categories=4, seed=3)
    joint = data.numpy()[:, :, None] * encoder[0].numpy()[:, None, :]
    h = {
        kept: entropy(joint=joint, kept=kept)
        for kept in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    }
    kept_of_x, kept_of_y = h[0,] + h[2,] - h[0, 2], h[1,] + h[2,] - h[1, 2]
    redundant = h[0, 1] + h[1, 2] - h[0, 1, 2] - h[1,]
    q = of_encoders(data, encoder)
    beta = 3.0
    written = {
        "IB": kept_of_x - beta * kept_of_y,
        "DIB": h[2,] - beta * kept_of_y,
        "VIB": kept_of_x / beta - kept_of_y,
        "CEB": redundant - kept_of_y,
        "IB, canonical": (h[1, 2] - h[2,]) + redundant / 2,
        "DIB, canonical": (h[1, 2] - h[2,]) + (h[1, 2] - h[1,]) / 2,
        "DIB, encoding entropy": (h[1, 2] - h[2,]) + h[2,] / 3,
        "DIB, entropy distance": (4 / 3) * (h[1, 2] - h[2,]) + (2 / 3) * (h[1, 2] - h[1,]),
    }
    for name, value in written.items():
        assert float(equivalence.objective(name, q, beta=beta).iloc[0]) == pytest.approx(value, abs=1e-12), (
            name
        )


@pytest.mark.parametrize("beta", [1.25, 2.0, 5.0, 20.0])
def test_claims_hold_to_rounding_and_controls_do_not(encoders, beta):
    table = equivalence.spreads(encoders, betas=[beta])[beta]
    for (_, second, control), value in table.items():
        holds = not control and (second != "CEB" or beta == 2.0)
        assert value < 1e-12 if holds else value > 1e-2, (second, value)


def test_the_constants_that_are_dropped_are_the_labels(encoders):
    label = float(encoders["label_entropy"].iloc[0])
    for first in ("IB", "DIB"):
        rest = equivalence.objective(first, encoders, beta=5.0) - 4 * equivalence.objective(
            f"{first}, canonical", encoders, beta=5.0
        )
        np.testing.assert_allclose(rest, -4 * label, atol=1e-13)
    ceb = equivalence.objective("CEB", encoders, beta=2.0) - equivalence.objective("IB", encoders, beta=2.0)
    np.testing.assert_allclose(ceb, 0.0, atol=1e-13)


def test_dib_is_ib_for_deterministic_encoders_only_and_differs_by_the_encoding_uncertainty(data, encoders):
    sizes = {"encoders": 200, "points": 6, "categories": 4, "seed": 1}
    deterministic = of_encoders(data, equivalence.random_encoders(**sizes, deterministic=True))
    assert equivalence.spread(equivalence.DETERMINISTIC, deterministic, beta=3.0) < 1e-13
    assert equivalence.spread(equivalence.DETERMINISTIC, encoders, beta=3.0) > 1.0
    difference = equivalence.objective("DIB", encoders, beta=3.0) - equivalence.objective(
        "IB", encoders, beta=3.0
    )
    np.testing.assert_allclose(difference, encoders["encoding_uncertainty"], atol=1e-13)


def test_a_control_gets_the_factor_that_suits_it_best(encoders):
    twice = Claim("IB", "VIB", None)
    assert equivalence.spread(twice, encoders, beta=7.0) < 1e-12  # found: beta, without being told


def test_beyond_one_the_weight_of_the_encoding_entropy_leaves_the_constant_encoder_best(data):
    many = of_encoders(data, equivalence.random_encoders(encoders=400, points=6, categories=4, seed=2))
    value = many["decoder_uncertainty"] + 1.0 * many["encoding_entropy"]
    assert (value >= many["label_entropy"] - 1e-12).all()
    sharp = of_encoders(
        data, equivalence.random_encoders(encoders=400, points=6, categories=4, seed=2, deterministic=True)
    )
    assert (
        sharp["decoder_uncertainty"] + 0.05 * sharp["encoding_entropy"] < sharp["label_entropy"] - 0.1
    ).any()


def test_entropy_distance_is_a_metric_up_to_relabelling():
    rng = np.random.default_rng(0)
    pair = rng.dirichlet(np.full(12, 0.3)).reshape(3, 4)
    by_hand = 2 * stats.entropy(pair.ravel()) - stats.entropy(pair.sum(1)) - stats.entropy(pair.sum(0))
    assert entropy_distance(pair) == pytest.approx(by_hand, abs=1e-13)
    assert entropy_distance(pair.T.copy()) == pytest.approx(entropy_distance(pair), abs=1e-13)
    relabelled = np.diag([0.5, 0.3, 0.2])[:, [2, 0, 1]]
    assert entropy_distance(relabelled) == pytest.approx(0.0, abs=1e-15)
    merged = np.array([[0.5, 0.0], [0.0, 0.3], [0.0, 0.2]])
    assert entropy_distance(merged) == pytest.approx(0.5 * stats.entropy([0.6, 0.4]), abs=1e-13)
    for _ in range(300):
        triple = rng.dirichlet(np.full(27, rng.choice([0.03, 0.3, 3.0]))).reshape(3, 3, 3)
        assert triangle_slack(triple) > -1e-13


def test_triangle_is_tight_where_the_middle_one_is_the_pair():
    a, b = np.array([0.3, 0.7]), np.array([0.6, 0.4])
    joint = np.zeros((2, 4, 2))  # X and Z independent, Y = (X, Z): d(X,Z) = H[X] + H[Z] = d(X,Y) + d(Y,Z)
    for i in range(2):
        for j in range(2):
            joint[i, 2 * i + j, j] = a[i] * b[j]
    assert triangle_slack(joint) == pytest.approx(0.0, abs=1e-13)
    apart = np.einsum("i,j,k->ijk", a, b, a)  # all independent: twice H[Y]
    assert triangle_slack(apart) == pytest.approx(2 * stats.entropy(b), abs=1e-13)


def test_rate_is_torchs_divergence_and_its_parts_are_its_own():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    sd = torch.rand(30, 4, generator=generator, dtype=torch.float64) + 0.1
    rate = gaussian_rate(mean, sd)
    prior = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    each = MultivariateNormal(mean, scale_tril=torch.diag_embed(sd))
    assert rate.divergence == pytest.approx(float(kl_divergence(each, prior).mean()), rel=1e-12)
    assert rate.encoding_uncertainty == pytest.approx(float(each.entropy().mean()), rel=1e-12)
    assert rate.constant == pytest.approx(2 * math.log(2 * math.pi))
    drawn = mean + sd * torch.randn(20_000, 30, 4, generator=generator, dtype=torch.float64)
    assert rate.half_squared_norm == pytest.approx(float(drawn.square().sum(2).mean() / 2), rel=5e-3)


def test_bad_input_is_named(data, encoders):
    with pytest.raises(ValueError, match="objective"):
        equivalence.objective("IBB", encoders, beta=2.0)
    with pytest.raises(ValueError, match="beta=1"):
        equivalence.objective("IB", encoders, beta=1.0)
    with pytest.raises(ValueError, match="6 points and encoders have 5"):
        of_encoders(data, equivalence.random_encoders(encoders=2, points=5, categories=3, seed=0))
    with pytest.raises(ValueError, match="sd has 0"):
        gaussian_rate(torch.zeros(2, 2).double(), torch.zeros(2, 2).double())
    with pytest.raises(ValueError, match="shape"):
        gaussian_rate(torch.zeros(2, 2).double(), torch.ones(2, 3).double())
