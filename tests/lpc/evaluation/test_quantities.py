import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import entropy, norm
from sklearn.metrics import mutual_info_score
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lpc.evaluation import quantities
from lpc.evaluation.information import decoder_uncertainty, knn_entropy
from lpc.evaluation.posterior import _at_draws, posterior_entropies
from lpc.evaluation.quantities import (
    ZERO_ENTROPY_VARIANCE,
    Quantities,
    categorical_quantities,
    discrete_quantities,
    gaussian_quantities,
)

LOG2 = math.log(2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def any_joint(rng, shape=(5, 3, 4)):
    return rng.dirichlet(np.ones(math.prod(shape))).reshape(shape)


def chain(rng, shape=(5, 3, 4)):
    x = rng.dirichlet(np.ones(shape[0]))
    y, z = (rng.dirichlet(np.ones(size), shape[0]) for size in shape[1:])
    return x[:, None, None] * y[:, :, None] * z[:, None, :]


# discrete X, Y and Z


def test_every_quantity_of_a_joint_against_scipy_and_scikit_learn(rng):
    count = rng.integers(1, 40, (5, 3, 4)) ** 2
    joint = count / count.sum()
    xy, xz, yz = joint.sum(2), joint.sum(1), joint.sum(0)
    x, y, z = joint.sum((1, 2)), joint.sum((0, 2)), joint.sum((0, 1))
    given_z = [mutual_info_score(None, None, contingency=count[:, :, k]) for k in range(len(z))]
    given_y = [mutual_info_score(None, None, contingency=count[:, k, :]) for k in range(len(y))]
    expected = Quantities(
        label_entropy=entropy(y),
        encoding_entropy=entropy(z),
        label_uncertainty=x @ entropy(xy / x[:, None], axis=1),
        encoding_uncertainty=x @ entropy(xz / x[:, None], axis=1),
        decoder_uncertainty=z @ entropy(yz / z, axis=0),
        reverse_decoder_uncertainty=y @ entropy(yz / y[:, None], axis=1),
        relevant_information=mutual_info_score(None, None, contingency=count.sum(2)),
        preserved_information=mutual_info_score(None, None, contingency=count.sum(1)),
        preserved_relevant_information=mutual_info_score(None, None, contingency=count.sum(0)),
        residual_information=z @ given_z,
        redundant_information=y @ given_y,
    )
    assert discrete_quantities(joint) == pytest.approx(expected, rel=1e-12)
    assert discrete_quantities(torch.from_numpy(joint).float()) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) == 11  # no two alike: a field that took another's formula shows


def test_what_two_fair_coins_know_of_their_difference():
    joint = np.zeros((2, 2, 2))
    for x in range(2):
        for z in range(2):
            joint[x, x ^ z, z] = 0.25
    found = discrete_quantities(joint)
    assert found.relevant_information == pytest.approx(0, abs=1e-15)
    assert found.preserved_relevant_information == pytest.approx(0, abs=1e-15)
    assert found.residual_information == pytest.approx(LOG2)
    assert found.redundant_information == pytest.approx(LOG2)


def equations(joint):
    """Return both sides of Kirsch et al.'s Appendix A.1, by equation number, but for Eq. 10."""
    q = discrete_quantities(joint)
    return {
        6: (q.relevant_information, q.residual_information + q.preserved_relevant_information),
        7: (q.preserved_information, q.redundant_information + q.preserved_relevant_information),
        8: (q.decoder_uncertainty, q.residual_information + q.label_uncertainty),
        9: (q.reverse_decoder_uncertainty, q.redundant_information + q.encoding_uncertainty),
        11: (
            q.label_entropy,
            q.label_uncertainty + q.preserved_relevant_information + q.residual_information,
        ),
        12: (
            q.encoding_entropy,
            q.encoding_uncertainty + q.preserved_relevant_information + q.redundant_information,
        ),
        13: (q.relevant_information, q.label_entropy - q.label_uncertainty),
        14: (q.preserved_information, q.encoding_entropy - q.encoding_uncertainty),
        15: (q.residual_information, q.decoder_uncertainty - q.label_uncertainty),
        16: (q.redundant_information, q.reverse_decoder_uncertainty - q.encoding_uncertainty),
        17: (q.preserved_relevant_information, q.label_entropy - q.decoder_uncertainty),
        18: (q.preserved_relevant_information, q.encoding_entropy - q.reverse_decoder_uncertainty),
    }


def fails(sides):
    return {number for number, (left, right) in sides.items() if abs(left - right) > 1e-3}


@pytest.mark.parametrize("seed", range(5))
def test_the_identities_hold_on_a_markov_chain_and_some_of_them_only_there(seed):
    rng = np.random.default_rng(seed)
    for left, right in equations(chain(rng)).values():
        assert left == pytest.approx(right, abs=1e-14)
    assert fails(equations(any_joint(rng))) == {6, 7, 8, 9, 11, 12, 15, 16}


def test_equation_10_needs_the_condition_on_the_label(rng):
    joint = chain(rng)
    q = discrete_quantities(joint)
    given_label = entropy(joint.sum(2).ravel()) - entropy(joint.sum((0, 2)))
    given_both = entropy(joint.ravel()) - entropy(joint.sum(0).ravel())
    assert given_label == pytest.approx(given_both + q.redundant_information, abs=1e-14)
    printed = given_both + q.preserved_information
    assert printed - given_label == pytest.approx(q.preserved_relevant_information, abs=1e-14)
    assert printed - given_label > 1e-2


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        (np.full((2, 2, 2), 0.2), r"joint sums to 1\.6.*; expected 1"),
        (np.full((2, 2), 0.25), r"joint has shape \(2, 2\); expected 3 dimensions"),
        (np.array([[[0.6, 0.6, -0.2]]]), r"joint is negative; the first such entry is at index \(0, 0, 2\)"),
        (np.array([[[0.5, np.nan]]]), "joint holds 1 NaN or infinite values"),
        (np.ones((1, 1, 1), dtype=int), "joint has dtype torch.int64"),
    ],
)
def test_what_is_no_joint_distribution(unchecked, joint, message):
    with pytest.raises(ValueError, match=message):
        unchecked(discrete_quantities)(joint)


# categorical Z


def test_a_categorical_latent_is_the_joint_distribution_over_its_points(rng):
    encoder, label = rng.dirichlet(np.full(6, 0.3), 40), rng.integers(0, 3, 40) * 7
    joint = encoder[:, None, :] * (label[:, None] == np.unique(label))[:, :, None] / 40
    assert categorical_quantities(encoder, label) == pytest.approx(discrete_quantities(joint), abs=1e-13)
    assert fails({**equations(joint)}) == set()


def test_decoder_uncertainty_is_the_one_of_information(rng):
    encoder, label = rng.dirichlet(np.full(5, 0.2), 300), rng.integers(0, 10, 300)
    for given in (encoder, torch.from_numpy(encoder), torch.from_numpy(encoder).float()):
        found = categorical_quantities(given, label).decoder_uncertainty
        assert found == pytest.approx(decoder_uncertainty(given, label), rel=1e-14)


def test_categories_that_are_labels_and_categories_that_are_noise():
    label = np.arange(90) % 3
    exact = categorical_quantities(np.eye(3)[label], label)
    log3 = math.log(3)
    expected = Quantities(log3, log3, 0, 0, 0, 0, log3, log3, log3, 0, 0)
    assert exact == pytest.approx(expected, abs=1e-15)
    noise = categorical_quantities(np.full((90, 4), 0.25), label)
    log4 = math.log(4)
    expected = Quantities(log3, log4, 0, log4, log3, log4, log3, 0, 0, log3, 0)
    assert noise == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("encoder", "label", "message"),
    [
        (np.array([[0.5, 0.5], [0.5, 0.6]]), [0, 1], r"1 rows of p_z_given_x do not sum .* row 1, with 1\.1"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), [0, 1], r"p_z_given_x is negative; .* index \(0, 1\)"),
        (np.full((2, 2), 0.5), [0, 1, 1], "label has 3 entries for 2 points"),
        (np.full((2, 2), 0.5), [0.0, 1.0], "label has dtype torch.float64; expected integers"),
        (np.full((2, 2), np.inf), [0, 1], "p_z_given_x holds 4 NaN or infinite"),
    ],
)  # fmt: skip
def test_what_is_no_encoder(unchecked, encoder, label, message):
    with pytest.raises(ValueError, match=message):
        unchecked(categorical_quantities)(encoder, np.array(label))


# Z with Gaussian noise


def test_noise_of_zero_entropy():
    assert norm(scale=math.sqrt(ZERO_ENTROPY_VARIANCE)).entropy() == pytest.approx(0, abs=1e-15)


def test_two_points_far_apart_are_a_bit():
    found, error = gaussian_quantities(
        np.array([[0.0, 0.0], [60.0, 0.0]]), np.array([0, 1]), generator=seeded()
    )
    expected = Quantities(LOG2, LOG2, 0, 0, 0, 0, LOG2, LOG2, LOG2, 0, 0)
    assert found == pytest.approx(expected, abs=1e-14)
    assert error == pytest.approx(Quantities(*[0.0] * 11), abs=1e-14)


def test_points_in_one_place_tell_nothing():
    label = np.arange(60) % 3
    found, error = gaussian_quantities(np.full((60, 5), 3.7), label, generator=seeded(), draws=2)
    log3 = math.log(3)
    expected = Quantities(log3, 0, 0, 0, log3, 0, log3, 0, 0, log3, 0)
    assert found == pytest.approx(expected, abs=1e-13)
    assert error == pytest.approx(Quantities(*[0.0] * 11), abs=1e-13)
    wider, _ = gaussian_quantities(np.zeros((60, 5)), label, variance=4.0, generator=seeded())
    for name in ("encoding_entropy", "encoding_uncertainty", "reverse_decoder_uncertainty"):
        assert getattr(wider, name) == pytest.approx(5 * norm(scale=2).entropy(), abs=1e-13)


def test_far_points_reach_the_ceiling():
    label = np.repeat([4, 7, 9], [2, 3, 15])
    mean = 50.0 * np.arange(20)[:, None]
    found, _ = gaussian_quantities(mean, label, generator=seeded(), draws=3)
    within = (2 * LOG2 + 3 * math.log(3) + 15 * math.log(15)) / 20
    assert found.preserved_information == pytest.approx(math.log(20), abs=1e-13)
    assert found.encoding_entropy == pytest.approx(math.log(20), abs=1e-13)
    assert found.reverse_decoder_uncertainty == pytest.approx(within, abs=1e-13)
    assert found.redundant_information == pytest.approx(within, abs=1e-13)
    assert found.preserved_relevant_information == pytest.approx(entropy([2, 3, 15]), abs=1e-13)


def mixture_entropy(centres, sd):
    def integrand(z):
        density = np.asarray(norm.pdf(z, centres, sd)).mean()
        return -density * math.log(density) if density > 0 else 0.0

    bounds = min(centres) - 12 * sd, max(centres) + 12 * sd
    return quad(integrand, *bounds, epsabs=1e-11, limit=500)[0]


@pytest.mark.parametrize("variance", [ZERO_ENTROPY_VARIANCE, 2.0])
def test_one_dimension_against_quadrature(variance):
    sd = math.sqrt(variance)
    centres, label = sd * np.array([0.0, 0.5, 2.0, 2.5, 6.0]), np.array([0, 0, 1, 0, 1])
    found, error = gaussian_quantities(
        centres[:, None], label, variance=variance, generator=seeded(), draws=3000
    )
    whole = mixture_entropy(centres, sd)
    within = sum((label == c).mean() * mixture_entropy(centres[label == c], sd) for c in (0, 1))
    noise = norm(scale=sd).entropy()
    chance = entropy([3, 2])
    expected = Quantities(
        label_entropy=chance,
        encoding_entropy=whole,
        label_uncertainty=0,
        encoding_uncertainty=noise,
        decoder_uncertainty=chance - (whole - within),
        reverse_decoder_uncertainty=within,
        relevant_information=chance,
        preserved_information=whole - noise,
        preserved_relevant_information=whole - within,
        residual_information=chance - (whole - within),
        redundant_information=within - noise,
    )
    for name, value, truth, deviation in zip(Quantities._fields, found, expected, error, strict=True):
        assert abs(value - truth) <= 4 * deviation + 1e-12, name
        assert deviation < 6e-3, name
    assert error.decoder_uncertainty > 1e-4


def test_two_classes_that_overlap_against_quadrature():
    mean, label = np.array([[-0.2], [0.2]]), np.array([0, 1])
    sd = math.sqrt(ZERO_ENTROPY_VARIANCE)

    def uncertain(z):
        near = np.asarray(norm.pdf(z, mean[:, 0], sd))
        return near.mean() * entropy(near)

    truth = quad(uncertain, -3, 3, epsabs=1e-11)[0]
    found, error = gaussian_quantities(mean, label, generator=seeded(), draws=3000)
    assert found.decoder_uncertainty == pytest.approx(truth, abs=4 * error.decoder_uncertainty)
    assert 0.2 < truth < 0.5 and error.decoder_uncertainty < 4e-3


def test_coordinates_that_are_independent_add_up():
    side, noise = np.array([0.0, 0.4, 1.0]), math.sqrt(ZERO_ENTROPY_VARIANCE)
    mean = np.stack([part.ravel() for part in np.meshgrid(side, side, side, indexing="ij")], axis=1)
    label = np.searchsorted(side, mean[:, 0])
    found, error = gaussian_quantities(mean, label, generator=seeded(), draws=1000)
    once = mixture_entropy(side, noise)
    assert found.encoding_entropy == pytest.approx(3 * once, abs=4 * error.encoding_entropy)
    given = found.reverse_decoder_uncertainty
    assert given == pytest.approx(2 * once, abs=4 * error.reverse_decoder_uncertainty)
    assert error.encoding_entropy < 5e-3


def clusters(rng, points=400, width=8, spread=0.3, classes=10):
    label = rng.integers(0, classes, points)
    centre = 0.4 * rng.standard_normal((classes, width))
    return centre[label] + spread * rng.standard_normal((points, width)), label


def test_against_the_log_density_of_other_draws_which_is_noisier(rng):
    mean, label = clusters(rng)
    sd = math.sqrt(ZERO_ENTROPY_VARIANCE)
    z = mean + sd * rng.standard_normal(mean.shape)
    exponent = -((z[:, None, :] - mean[None]) ** 2).sum(2) / (2 * sd**2)
    constant = 4 * math.log(2 * math.pi * sd**2)
    plain = constant + math.log(400) - logsumexp(exponent, axis=1)
    same = label[:, None] == label[None]
    of_class = constant + np.log(same.sum(1)) - logsumexp(np.where(same, exponent, -np.inf), axis=1)
    found, error = gaussian_quantities(mean, label, generator=seeded())
    for value, deviation, other in (
        (found.encoding_entropy, error.encoding_entropy, plain),
        (found.reverse_decoder_uncertainty, error.reverse_decoder_uncertainty, of_class),
        (found.preserved_relevant_information, error.preserved_relevant_information, plain - of_class),
    ):
        others = other.std(ddof=1) / 20
        assert value == pytest.approx(other.mean(), abs=4 * math.hypot(deviation, others))
        assert deviation < others


def test_entropy_of_the_latent_by_nearest_neighbours(rng):
    mean, label = clusters(rng, points=200, width=2)
    found, _ = gaussian_quantities(mean, label, generator=seeded(), draws=50)
    z = np.repeat(mean, 40, axis=0) + math.sqrt(ZERO_ENTROPY_VARIANCE) * rng.standard_normal((8000, 2))
    assert found.encoding_entropy == pytest.approx(knn_entropy(z, k=10), abs=0.04)


def test_what_adds_up_does_so_on_the_same_draws(rng):
    mean, label = clusters(rng)
    q, error = gaussian_quantities(mean, label, generator=seeded())
    assert q.encoding_entropy == pytest.approx(
        q.encoding_uncertainty + q.preserved_relevant_information + q.redundant_information, abs=1e-13
    )
    assert q.encoding_entropy - q.reverse_decoder_uncertainty == pytest.approx(
        q.label_entropy - q.decoder_uncertainty, abs=1e-13
    )
    assert q.label_uncertainty == 0 and q.residual_information == q.decoder_uncertainty
    exact = {"label_entropy", "label_uncertainty", "encoding_uncertainty", "relevant_information"}
    assert {name for name, value in error._asdict().items() if value == 0} == exact


def test_unit_and_origin_of_the_latents(rng):
    mean, label = clusters(rng)
    found, _ = gaussian_quantities(mean, label, generator=seeded())
    moved, _ = gaussian_quantities(
        1e-7 * mean + 1, label, variance=1e-14 * ZERO_ENTROPY_VARIANCE, generator=seeded()
    )
    entropies = {"encoding_entropy", "encoding_uncertainty", "reverse_decoder_uncertainty"}
    for name in Quantities._fields:
        shift = 8 * math.log(1e-7) if name in entropies else 0.0
        assert getattr(moved, name) == pytest.approx(getattr(found, name) + shift, abs=1e-6), name


def test_classes_far_apart_keep_what_is_within_them(rng):
    inner, label = 0.3 * rng.standard_normal((60, 3)), np.arange(60) % 2
    near, far = (inner + distance * label[:, None] for distance in (1e2, 1e8))
    expected, _ = gaussian_quantities(near, label, generator=seeded())
    found, _ = gaussian_quantities(far, label, generator=seeded())
    assert found == pytest.approx(expected, abs=1e-6)
    assert expected.redundant_information > 0.1
    # what the expanded squares would have made of it
    centres = torch.from_numpy(far - far.mean(0))
    member = torch.nn.functional.one_hot(torch.from_numpy(label), 2).double()
    draw = centres + 0.3
    products, differences = (_at_draws(draw, centres, member, expand=expand)[0] for expand in (True, False))
    assert (products - differences).abs().max() > 1e-2
    with pytest.raises(
        ValueError, match=r"latents reach .* standard deviations .* expected 4\.5e\+09 or less"
    ):
        gaussian_quantities(inner + 1e12 * label[:, None], label, generator=seeded())


def test_products_and_differences_agree(rng):
    centres = torch.from_numpy(20 * rng.standard_normal((50, 12)) + 300)
    draw = centres + torch.from_numpy(rng.standard_normal((50, 12)))
    member = torch.nn.functional.one_hot(torch.arange(50) % 4, 4).double()
    spread = centres / 20
    for given in (centres, spread):
        products, differences = (_at_draws(draw, given, member, expand=expand) for expand in (True, False))
        assert torch.allclose(products[0], differences[0], rtol=0, atol=1e-8)
        assert torch.allclose(products[1], differences[1], rtol=0, atol=1e-8)


ESTIMATED = ("encoding_entropy", "decoder_uncertainty", "reverse_decoder_uncertainty")


@pytest.mark.parametrize(("draws", "points"), [(1, 8), (4, None), (3, 50), (3, 1)])
def test_the_standard_error_is_the_spread_over_generators(rng, draws, points):
    mean, label = clusters(rng, points=100, width=4)
    mean[:50] *= 8  # half of the points are clear, half are not
    trials = [
        gaussian_quantities(mean, label, draws=draws, points=points, generator=seeded(seed))
        for seed in range(5 if points == 1 else 300)
    ]
    for name in ESTIMATED:
        spread = np.std([getattr(found, name) for found, _ in trials], ddof=1)
        if points == 1:
            assert all(math.isnan(getattr(error, name)) for _, error in trials)  # one x has no spread
            continue
        variance = np.mean([getattr(error, name) ** 2 for _, error in trials])
        assert math.sqrt(variance) == pytest.approx(spread, rel=0.15), name


def test_one_draw_at_every_point_has_less_error_than_it_says(rng):
    mean, label = clusters(rng, points=200, width=4)
    mean[:100] *= 8
    trials = [gaussian_quantities(mean, label, generator=seeded(seed)) for seed in range(100)]
    for name in ESTIMATED:
        spread = np.std([getattr(found, name) for found, _ in trials], ddof=1)
        assert spread < getattr(trials[0].standard_error, name) < 5 * spread


def test_a_part_of_the_points_estimates_the_whole(rng):
    mean, label = clusters(rng, points=300)
    whole, error = gaussian_quantities(mean, label, generator=seeded(), draws=40)
    part = [gaussian_quantities(mean, label, generator=seeded(seed), points=30) for seed in range(40)]
    for name in ESTIMATED:
        values = [getattr(found, name) for found, _ in part]
        deviation = math.hypot(np.std(values) / math.sqrt(40), getattr(error, name))
        assert np.mean(values) == pytest.approx(getattr(whole, name), abs=4 * deviation)
    with_all = gaussian_quantities(mean, label, generator=seeded(), points=300)
    assert with_all == gaussian_quantities(mean, label, generator=seeded())


def test_chunks_change_nothing(rng):
    mean, label = clusters(rng)
    whole = gaussian_quantities(mean, label, generator=seeded(), draws=2, points=130, chunk=400)
    for chunk in (1, 7, 64, None):
        parts = gaussian_quantities(mean, label, generator=seeded(), draws=2, points=130, chunk=chunk)
        assert parts.quantities == pytest.approx(whole.quantities, rel=1e-12)
        assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-10)


def test_tensors_arrays_and_float32_are_alike(rng):
    mean, label = clusters(rng)
    mean = mean.astype(np.float32)
    found = gaussian_quantities(mean, label, generator=seeded())
    assert found == gaussian_quantities(torch.from_numpy(mean), torch.from_numpy(label), generator=seeded())
    assert found == gaussian_quantities(mean.astype(np.float64), label, generator=seeded())
    assert found != gaussian_quantities(mean, label, generator=seeded(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu(rng):
    mean, label = (torch.from_numpy(part) for part in clusters(rng))
    found = gaussian_quantities(mean.cuda(), label.cuda(), generator=seeded(), points=130, draws=2)
    expected = gaussian_quantities(mean, label, generator=seeded(), points=130, draws=2)
    assert found.quantities == pytest.approx(expected.quantities, rel=1e-10)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-8)
    joint, encoder = any_joint(rng), rng.dirichlet(np.full(5, 0.2), len(label))
    on_gpu = discrete_quantities(torch.from_numpy(joint).cuda())
    assert on_gpu == pytest.approx(discrete_quantities(joint), abs=1e-13)
    on_gpu = categorical_quantities(torch.from_numpy(encoder).cuda(), label)
    assert on_gpu == pytest.approx(categorical_quantities(encoder, label), abs=1e-13)


def test_entropies_of_the_posterior_are_those_of_bayes_rule():
    mean, label = np.array([[0.0], [1.0], [3.0]]), np.array([0, 1, 1])
    found = posterior_entropies(mean, label, variance=1.0, generator=seeded(), draws=2)
    noise = torch.randn(2, 3, generator=seeded(), dtype=torch.float64).numpy()
    for row in range(2):
        for at in range(3):
            near = np.asarray(norm.pdf(mean[at, 0] + noise[row, at], mean[:, 0]))
            assert float(found.point[row, at]) == pytest.approx(entropy(near), rel=1e-12)
            by_class = entropy([near[0], near[1] + near[2]])
            assert float(found.label[row, at]) == pytest.approx(by_class, rel=1e-12)


class Work(TorchDispatchMode):
    """Counts the operations of torch, and the elements of what they return."""

    operations = elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.operations += 1
        self.elements += sum(part.numel() for part in tree_leaves(found) if isinstance(part, torch.Tensor))
        return found


def test_it_is_cheap_enough_for_every_epoch(rng, unchecked):
    # a few passes over the pairs of points, and no loop over points
    mean, label = clusters(rng, points=1437, width=16)
    with Work() as work:
        unchecked(gaussian_quantities)(mean, label, generator=seeded())
    assert 1437**2 < work.elements < 10 * 1437**2 and work.operations < 1437


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator": None}, "noise without a generator: None; expected a torch.Generator"),
        ({"generator": 0}, "noise without a generator: 0"),
        ({"variance": 0.0}, r"variance is 0\.0; expected a positive number"),
        ({"variance": -1.0}, "variance is -1.0"),
        ({"variance": math.inf}, "variance is inf"),
        ({"variance": math.nan}, "variance is nan"),
        ({"draws": 0}, "draws is 0; expected 1 or more"),
        ({"points": 0}, "points is 0; expected an integer from 1 to 6"),
        ({"points": 7}, "points is 7; expected an integer from 1 to 6"),
        ({"chunk": 0}, "chunk is 0; expected 1 or more"),
        ({"label": np.arange(5)}, "label has 5 entries for 6 points"),
        ({"label": np.arange(6) / 2}, "label has dtype torch.float64; expected integers"),
        ({"mean": np.full((6, 2), np.nan)}, "mean holds 12 NaN or infinite values"),
        ({"mean": np.zeros(6)}, r"mean has shape \(6,\); expected 2 dimensions"),
        ({"mean": np.zeros((6, 2), dtype=int)}, "mean has dtype torch.int64"),
    ],
)
def test_what_has_no_gaussian_quantities(unchecked, monkeypatch, given, message):
    monkeypatch.setattr(quantities, "posterior_entropies", unchecked(posterior_entropies))
    arguments = {"mean": np.zeros((6, 2)), "label": np.arange(6), "generator": seeded(), **given}
    with pytest.raises(ValueError, match=message):
        unchecked(gaussian_quantities)(**arguments)
