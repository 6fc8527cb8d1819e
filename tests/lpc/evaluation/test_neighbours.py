from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from lpc.computing.precision import precision_of
from lpc.evaluation import neighbours
from lpc.evaluation._searching import frames, neighbour_search
from lpc.evaluation._searching.clusters import clusters
from lpc.evaluation.neighbours import Norm, count_within, kth_distance, kth_distances, method_for


def collapsed(rng, width, spread, points=600, classes=10):
    centre = rng.standard_normal((classes, width))
    return centre[rng.integers(0, classes, points)] + spread * rng.standard_normal((points, width))


def scipy_distance(points, *, k, norm):
    p = 2 if norm == "l2" else np.inf
    return np.asarray(cKDTree(points).query(points, k=[k + 1], p=p)[0])[:, 0]


def agree(points, *, k, norm: Norm = "l2"):
    value = kth_distance(torch.from_numpy(points), k=k, norm=norm).numpy()
    np.testing.assert_allclose(value, scipy_distance(points, k=k, norm=norm), rtol=1e-13, atol=0)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-7, 1e-9, 1e-12])
@pytest.mark.parametrize("width", [3, 12, 64])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distances_against_scipy_also_on_a_collapsed_set(rng, width, spread, norm):
    agree(collapsed(rng, width, spread), k=5, norm=norm)


@pytest.mark.parametrize("k", [1, 99, 200, 1199])
def test_distances_for_any_k_also_beyond_a_class(rng, k):
    agree(collapsed(rng, 16, 1e-5, points=1200), k=k)


@pytest.mark.parametrize("seed", range(8))
def test_no_pair_is_counted_twice_where_rounding_decides(seed):
    # class differences of 1e-7 beside an offset: the doubtful pairs lie at the edge of float32
    agree(collapsed(np.random.default_rng(seed), 12, 1e-7, points=3000), k=100)


def heavy(rng):
    return rng.standard_normal((1500, 16)) * np.exp(6 * rng.standard_normal((1500, 1)))


def with_outlier(rng):
    points = 1e-9 * rng.standard_normal((3000, 16))
    points[1234] = 1.0
    return points


def lattice(rng):
    return rng.integers(0, 2, (1500, 14)).astype(float)


def few_large_groups(rng):
    points = collapsed(rng, 20, 1e-6, points=1500, classes=3)
    points[:20] = 7 + 1e-6 * rng.standard_normal((20, 20))  # fewer than k of a kind
    return points


def one_group_far_smaller(rng):
    # squares of 1e-22 beside 1 are below what float32 holds with all digits
    points = 1e-22 * rng.standard_normal((1200, 12))
    points[600:] += 1.0
    return points


@pytest.mark.parametrize("make", [heavy, with_outlier, lattice, few_large_groups, one_group_far_smaller])
def test_distances_of_awkward_sets(rng, make):
    agree(make(rng), k=30)


def test_points_repeated_more_than_k_times_are_at_exactly_zero(rng):
    points = np.repeat(rng.standard_normal((100, 16)), 8, axis=0)
    assert (kth_distance(torch.from_numpy(points), k=7, norm="l2") == 0).all()
    agree(points, k=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None])
def test_every_way_to_decide_is_used_and_exact(rng, monkeypatch, dtype):
    used = []
    plain = neighbour_search.Search._all

    def stubborn(search, rows, among, frame):
        used.append(frame.relative.dtype)
        return plain(search, rows, among, frame) if frame.relative.dtype == dtype else None

    monkeypatch.setattr(frames, "_ENTRIES", {"cpu": 100_000})  # several blocks
    monkeypatch.setattr(neighbour_search, "_LEAST_ROWS", 1)
    monkeypatch.setattr(neighbour_search.Search, "_all", stubborn)
    agree(rng.standard_normal((600, 20)), k=7)
    blocks = -(-600 // (100_000 // 600))
    expected = {
        torch.float32: [torch.float32] * blocks,
        torch.float64: [torch.float32] + [torch.float64] * blocks,
        None: [torch.float32, torch.float64],
    }
    assert used == expected[dtype]


def test_products_are_in_float32_whatever_the_caller_allows(rng, monkeypatch):
    used = []
    plain = neighbour_search.frame_of

    def noted(*args):
        used.append((args[-1], precision_of("mkldnn", "matmul")))
        return plain(*args)

    monkeypatch.setattr(neighbour_search, "frame_of", noted)
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    agree(rng.standard_normal((300, 20)), k=7)
    assert used == [(torch.float32, "ieee")]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_blocks_of_pairs_against_scipy(rng, monkeypatch, norm):
    monkeypatch.setattr(frames, "_ENTRIES", {"cpu": 20_000})
    points = collapsed(rng, 12, 1e-8)
    value = kth_distance(torch.from_numpy(points), k=9, norm=norm, method="pairs")
    np.testing.assert_allclose(value.numpy(), scipy_distance(points, k=9, norm=norm), rtol=1e-13)


def test_the_rule_that_chooses_the_method():
    assert [method_for(width, norm="l2") for width in (1, 8, 10, 11, 2048)] == ["tree"] * 3 + ["products"] * 2
    assert {method_for(width, norm="linf") for width in (1, 10, 11, 2048)} == {"tree"}
    assert {method_for(2, norm=norm, device="cuda") for norm in ("l2", "linf")} == {"candidates"}


def test_a_tree_is_taken_where_few_points_are_near(rng):
    def points(width, dimension, total=1200):
        frame = np.linalg.qr(rng.standard_normal((width, dimension)))[0]
        return torch.from_numpy(rng.standard_normal((total, dimension)) @ frame.T)

    def method(value):
        found = kth_distances(value, k=20, norm="l2")
        np.testing.assert_allclose(found.distance, scipy_distance(value.numpy(), k=20, norm="l2"), rtol=1e-13)
        return found.method

    assert {method(points(width, 2)) for width in (11, 30)} == {"tree"}
    assert {method(points(width, width)) for width in (11, 30)} == {"products"}
    assert method(torch.from_numpy(collapsed(rng, 20, 1e-7, points=1200))) == "tree"
    assert {method(points(31, 2)), method(points(11, 2, total=900))} == {"products"}


@pytest.mark.usefixtures("unhooked")
def test_distances_refuse_k_and_norm():
    points = torch.zeros(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="k is 4 for 4 points; expected an integer from 1 to 3"):
        kth_distance(points, k=4, norm="l2")
    with pytest.raises(ValueError, match="k is 0"):
        kth_distance(points, k=0, norm="l2")
    with pytest.raises(ValueError, match=r"k is 1\.5 for 4 points"):
        kth_distance(points, k=cast(Any, 1.5), norm="l2")
    with pytest.raises(ValueError, match="norm is 'l1'"):
        kth_distance(points, k=1, norm=cast(Any, "l1"))


@pytest.mark.parametrize("method", ["tree", "pairs"])
@pytest.mark.parametrize("width", [2, 11])
def test_counts_are_strict_and_leave_out_the_point(width, method, monkeypatch):
    monkeypatch.setattr(neighbours, "method_for", lambda *_, **__: method)
    points = torch.zeros(4, width, dtype=torch.float64)
    points[:, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert count_within(points, torch.full((4,), 1.0, dtype=torch.float64)).tolist() == [0, 0, 0, 0]
    assert count_within(points, torch.full((4,), 2.5, dtype=torch.float64)).tolist() == [2, 3, 3, 2]


def test_separate_groups_are_found_and_one_cloud_stays_whole(rng):
    label = np.arange(3000) % 10
    points = torch.from_numpy(rng.standard_normal((10, 16))[label] + 1e-3 * rng.standard_normal((3000, 16)))
    found = clusters(points, 1.0)
    assert sorted(len(set(label[own.numpy()])) for own in found.member) == [1] * 10
    assert found.size.tolist() == [300] * 10
    assert len(clusters(torch.from_numpy(rng.standard_normal((3000, 16))), 1.0).size) == 1
    assert len(clusters(torch.from_numpy(heavy(rng)), 1.0).size) == 1
    assert sorted(clusters(torch.from_numpy(with_outlier(rng)), 1.0).size.tolist()) == [1, 2999]


@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.05, 1.0])
def test_balls_hold_their_members_and_gaps_are_lower_bounds(rng, spread):
    points = torch.from_numpy(collapsed(rng, 6, spread, points=400))
    found = clusters(points, 2.0)
    assert sorted(torch.cat(found.member).tolist()) == list(range(400))
    gaps = found.gaps()
    for one, centre in enumerate(found.centre):
        away = torch.linalg.vector_norm(points[found.member[one]] / 2 - centre, dim=1)
        assert float(away.max()) <= float(found.radius[one]) * (1 + 1e-12)
        for other in range(len(found.size)):
            if one != other:
                pairs = torch.cdist(points[found.member[one]], points[found.member[other]]) / 2
                assert float(gaps[one, other]) <= float(pairs.min())
