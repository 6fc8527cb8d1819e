import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.chapters.objectives import equivalence, trade_off
from experiments.chapters.objectives.trade_off import line_problem, solve


def channel(noise):
    """p(x, y) of a fair bit and its copy, flipped with probability ``noise``."""
    return torch.tensor([[1 - noise, noise], [noise, 1 - noise]], dtype=torch.float64) / 2


@pytest.fixture(scope="module")
def blurred():
    data = line_problem(width=0.25)
    betas = [float(beta) for beta in np.geomspace(1.05, 100, 25)]
    encoders = trade_off.soft_clusters(data, betas)
    return data, betas, encoders, trade_off.of_solutions(data, encoders)


@pytest.mark.parametrize("beta", [1.4, 3.0, 6.0, 30.0])
def test_binary_symmetric_channel_has_mrs_gerbers_curve(beta):
    # the best Z is X flipped with probability q: I[X;Z] = ln 2 - h(q), I[Y;Z] = ln 2 - h(q + p - 2 q p)
    noise = 0.1
    data = channel(noise)
    flips = np.append(np.geomspace(1e-30, 0.5, 200_000), 0.5)
    through = flips + noise - 2 * flips * noise
    kept = np.log(2) + flips * np.log(flips) + (1 - flips) * np.log1p(-flips)
    relevant = np.log(2) + through * np.log(through) + (1 - through) * np.log1p(-through)
    best = np.min(kept - beta * relevant)
    found = trade_off.of_solutions(data, trade_off.soft_clusters(data, [beta])).iloc[0]
    value = found["preserved_information"] - beta * found["preserved_relevant_information"]
    assert value == pytest.approx(best, abs=1e-8)
    critical = 1 / (1 - 2 * noise) ** 2
    assert (found["preserved_information"] > 1e-3) == (beta > critical)


def test_a_fixed_point_with_a_known_flip():
    noise, flip = 0.1, 0.2  # beta from the slope of the curve at this flip
    through = flip + noise - 2 * flip * noise
    beta = math.log((1 - flip) / flip) / ((1 - 2 * noise) * math.log((1 - through) / through))
    given = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    encoder = solve(channel(noise), beta=beta, start=given)
    np.testing.assert_allclose(encoder.numpy(), [[0.8, 0.2], [0.2, 0.8]], atol=1e-6)


def test_the_curves_ends_and_its_shape(blurred):
    data, betas, _, table = blurred
    kept, lost = table["preserved_information"].to_numpy(), table["residual_information"].to_numpy()
    total = float(table["relevant_information"].iloc[0])
    joint = data.numpy()
    assert total == pytest.approx(math.log(8) + stats.entropy(joint.sum(0)) - stats.entropy(joint.ravel()))
    assert kept[0] == pytest.approx(0, abs=1e-9) and lost[0] == pytest.approx(total, abs=1e-9)
    assert lost[-1] < 1e-4 * total and kept[-1] == pytest.approx(math.log(8), rel=1e-3)
    assert (np.diff(kept) > -1e-9).all() and (np.diff(lost) < 1e-9).all()
    moved = np.diff(kept) > 1e-6
    chord = np.diff(lost)[moved] / np.diff(kept)[moved]
    assert (np.diff(chord) > 0).all()  # convex
    lower, upper = np.asarray(betas[:-1])[moved], np.asarray(betas[1:])[moved]
    assert (-1 / lower <= chord + 1e-6).all() and (chord <= -1 / upper + 1e-6).all()  # slope -1 / beta


def test_no_encoder_is_below_the_curve(blurred):
    data, betas, _, table = blurred
    others = trade_off.of_solutions(
        data, dict(enumerate(equivalence.random_encoders(encoders=400, points=8, categories=8, seed=0)))
    )
    hard = trade_off.hard_clusters(data)
    for beta, (_, row) in zip(betas, table.iterrows(), strict=True):
        own = row["preserved_information"] + beta * row["residual_information"]
        for cloud in (others, hard):
            assert (cloud["preserved_information"] + beta * cloud["residual_information"]).min() >= own - 1e-8


def test_random_starts_find_nothing_better(blurred):
    data, betas, _, table = blurred
    starts = equivalence.random_encoders(encoders=3, points=8, categories=8, seed=5)
    for place in (4, 9, 14):
        beta, row = betas[place], table.iloc[place]
        own = row["preserved_information"] + beta * row["residual_information"]
        for start in starts:
            other = equivalence.of_encoders(
                data, solve(data, beta=beta, start=start, iterations=2000)[None]
            ).iloc[0]
            assert other["preserved_information"] + beta * other["residual_information"] >= own - 1e-7


def test_certain_labels_have_one_optimum_for_every_beta():
    data = line_problem(points=6, width=0.0)
    betas = [1.2, 3.0, 40.0]
    entropy = stats.entropy(data.sum(dim=0).numpy())
    for table in (
        trade_off.of_solutions(data, trade_off.soft_clusters(data, betas)),
        trade_off.best_hard_clusters(trade_off.hard_clusters(data), betas),
    ):
        np.testing.assert_allclose(table["preserved_information"], entropy, atol=1e-9)
        np.testing.assert_allclose(table["residual_information"], 0.0, atol=1e-9)


@pytest.mark.parametrize(("points", "bell"), [(1, 1), (4, 15), (5, 52), (8, 4140)])
def test_partitions_are_all_and_once(points, bell):
    every = trade_off.partitions(points)
    assert len(every) == bell == len({frozenset(map(frozenset, _blocks(one))) for one in every})


def _blocks(partition):
    return [[i for i, own in enumerate(partition) if own == cluster] for cluster in set(partition)]


def test_no_encoder_beats_the_best_hard_clusters_at_dib():
    data = line_problem(points=5, width=0.3)
    clusters = trade_off.hard_clusters(data)
    others = equivalence.of_encoders(
        data, equivalence.random_encoders(encoders=500, points=5, categories=5, seed=0)
    )
    for beta in (1.5, 4.0, 20.0):
        row = trade_off.best_hard_clusters(clusters, [beta]).iloc[0]
        own = row["encoding_entropy"] - beta * row["preserved_relevant_information"]
        assert (equivalence.objective("DIB", others, beta=beta) >= own - 1e-12).all()
        assert (equivalence.objective("DIB", clusters, beta=beta) >= own).all()
        label = trade_off.assignment(row["partition"])
        again = equivalence.of_encoders(data, label[None]).iloc[0]
        assert again["encoding_entropy"] == pytest.approx(row["encoding_entropy"])


def test_dib_is_concave_between_encoders_and_ib_is_not():
    data = line_problem(points=5, width=0.3)
    first, second = (equivalence.random_encoders(encoders=60, points=5, categories=4, seed=s) for s in (0, 1))
    ends = [equivalence.of_encoders(data, one) for one in (first, second)]
    middle = equivalence.of_encoders(data, (first + second) / 2)
    for name, concave in (("DIB", True), ("IB", False)):
        mean = sum(equivalence.objective(name, one, beta=3.0) for one in ends) / 2
        bent = equivalence.objective(name, middle, beta=3.0) - mean
        assert bool((bent >= -1e-12).all()) == concave


def test_merging_keeps_information_and_drops_noise(blurred):
    data, betas, encoders, table = blurred
    place = 10
    small = trade_off.merged(data, encoders[betas[place]])
    assert small.shape[1] < 8
    found = equivalence.of_encoders(data, small[None]).iloc[0]
    for name in ("preserved_information", "residual_information"):
        assert found[name] == pytest.approx(table.iloc[place][name], abs=1e-9)
    assert found["encoding_entropy"] < table.iloc[place]["encoding_entropy"] - 0.1


def test_line_problem_is_a_blurred_line():
    data = line_problem(points=8, classes=3, width=0.25)
    assert float(data.sum()) == pytest.approx(1) and torch.allclose(
        data.sum(dim=1), torch.full((8,), 1 / 8).double()
    )
    odds = math.exp((0.5**2) / (2 * 0.25**2))  # of the nearest class over the next, at a class's centre
    assert float(data[0, 0] / data[0, 1]) == pytest.approx(odds)
    torch.testing.assert_close(data, data.flip(0, 1))
    assert set(itertools.chain(*line_problem(width=0.0).tolist())) == {0.0, 1 / 8}


def test_bad_input_is_named():
    data = line_problem(points=3)
    start = torch.eye(3).double()
    with pytest.raises(ValueError, match="beta is 0"):
        solve(data, beta=0.0, start=start)
    with pytest.raises(ValueError, match="3 points and start has 2"):
        solve(data, beta=2.0, start=start[:2])
    with pytest.raises(ValueError, match="point 1"):
        solve(data * torch.tensor([[1.0], [0.0], [1.0]]).double(), beta=2.0, start=start)
    with pytest.raises(ValueError, match="expected 1 to 10"):
        trade_off.partitions(11)
    with pytest.raises(ValueError, match="width=-1"):
        line_problem(width=-1.0)
