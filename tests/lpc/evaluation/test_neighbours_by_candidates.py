"""Candidates by float32 or faiss: the exact distances, on the CPU and on a pretended GPU."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.pretended_gpu import pretended_gpu

from lpc.errors import MissingExtra
from lpc.evaluation._searching import faiss_search, frames, neighbour_search
from lpc.evaluation.information import conditional_knn_entropy, knn_entropy
from lpc.evaluation.mutual_information import discrete_mutual_information, mutual_information
from lpc.evaluation.neighbours import Norm, kth_distance, kth_distances, method_for

faiss = pytest.importorskip("faiss", reason="comes with the extra 'faiss'")
BY = ("candidates", "faiss")


def collapsed(rng, width, spread, points=600, classes=6):
    centre = rng.standard_normal((classes, width))
    return torch.from_numpy(
        centre[rng.integers(0, classes, points)] + spread * rng.standard_normal((points, width))
    )


def exact(points, *, k, norm):
    return kth_distance(points, k=k, norm=norm, method="products" if norm == "l2" else "pairs")


@pytest.mark.parametrize("method", BY)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distances_are_the_exact_ones_to_the_bit_at_every_spread(rng, method, norm):
    for spread, k in itertools.product((1.0, 1e-3, 1e-6, 1e-9), (5, 100)):
        points = collapsed(rng, 24, spread, points=300)
        found = kth_distances(points, k=k, norm=norm, method=method)
        assert found.method == method
        assert found.in_doubt == 0 or (
            k == 100 and spread < 1e-5
        )  # farther than its group: rounding beside 1
        assert torch.equal(found.distance, exact(points, k=k, norm=norm)), (spread, k)


def test_raw_float32_is_wrong_where_points_have_collapsed(rng):
    """The control: what the same search finds without a centre for each group and without refinement."""
    points = collapsed(rng, 24, 1e-5, points=1200)
    single = points.float().numpy()
    squares = faiss.knn(single, single, 41)[0][:, 40]
    expanded = np.sort(((single**2).sum(1)[:, None] + (single**2).sum(1) - 2 * single @ single.T), axis=1)
    truth = exact(points, k=40, norm="l2").numpy()
    assert np.abs(np.sqrt(squares) / truth - 1).max() > 1e-4
    assert expanded.min() < 0 and np.abs(np.sqrt(np.abs(expanded[:, 40])) / truth - 1).max() > 0.1


def lattice(rng):
    return rng.integers(0, 2, (900, 9)).astype(float)


def with_outlier(rng):
    points = 1e-9 * rng.standard_normal((900, 9))
    points[123] = 1.0
    return points


def few_of_a_kind(rng):
    points = collapsed(rng, 9, 1e-6, points=900, classes=3).numpy().copy()
    points[:20] = 7 + 1e-6 * rng.standard_normal((20, 9))
    return points


def small_beside_large(rng):
    points = 1e-22 * rng.standard_normal((900, 9))
    points[600:] += 1.0
    return points


@pytest.mark.parametrize("method", BY)
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("make", [lattice, with_outlier, few_of_a_kind, small_beside_large])
def test_rows_that_candidates_do_not_decide_are_searched_exactly(rng, method, norm, make):
    points = torch.from_numpy(make(rng))
    found = kth_distances(points, k=30, norm=norm, method=method)
    assert torch.equal(found.distance, exact(points, k=30, norm=norm))
    assert found.in_doubt > 0 or make is few_of_a_kind


@pytest.mark.parametrize(("method", "near"), [("candidates", 1e-4), ("faiss", 1e-7)])
def test_without_its_bound_the_search_is_wrong(rng, monkeypatch, method, near):
    """The control: which of three near points is the nearer, float32 cannot tell."""
    centre = np.repeat(rng.standard_normal((300, 12)), 3, axis=0)
    points = torch.from_numpy(centre + near * rng.standard_normal((900, 12)))
    expected = exact(points, k=1, norm="l2")
    assert torch.equal(kth_distance(points, k=1, norm="l2", method=method), expected)
    monkeypatch.setattr(frames.Frame, "margin", lambda self, own, norm: own.new_zeros(len(own), 1))
    monkeypatch.setattr(frames.Frame, "compared", lambda self, distance, norm: distance.new_tensor(torch.nan))
    found = kth_distance(points, k=1, norm="l2", method=method)
    assert (found != expected).double().mean() > 0.05


def test_a_search_that_rounds_more_than_float32_is_found_out(rng, monkeypatch):
    """As faiss would under NVIDIA_TF32_OVERRIDE: its candidates are believed for no row."""
    points = collapsed(rng, 12, 1.0, points=500, classes=1)
    plain = neighbour_search.by_topk

    def rounded(norm):
        def nearest(own, frame, count):
            value, column = plain(norm)(own.bfloat16().float(), frame, count)
            return value, column

        return nearest

    monkeypatch.setattr("lpc.evaluation.neighbours.by_topk", rounded)
    found = kth_distances(points, k=30, norm="l2", method="candidates")
    assert found.in_doubt == 500
    assert torch.equal(found.distance, exact(points, k=30, norm="l2"))


def measured(points, label, method):
    return [
        knn_entropy(points, k=20, method=method),
        knn_entropy(points, k=20, norm="linf", method=method),
        conditional_knn_entropy(points, label, k=5, method=method),
        mutual_information(points[:, :2], points[:, 2:], k=5, method=method),
        discrete_mutual_information(points, label, k=5, method=method),
    ]


@pytest.mark.parametrize("method", BY)
def test_entropies_and_information_are_the_same(rng, method):
    points, label = collapsed(rng, 5, 1e-6), torch.from_numpy(np.arange(600) % 4)
    assert measured(points, label, method) == pytest.approx(measured(points, label, None), rel=1e-13)


class CardsFaiss(SimpleNamespace):
    """faiss as it is on a GPU: it takes tensors of the GPU, and no more than 2,048 neighbours."""

    METRIC_L2, METRIC_Linf = faiss.METRIC_L2, faiss.METRIC_Linf
    StandardGpuResources = object
    __version__ = "1.15.1"

    def knn_gpu(self, resources, own, among, count, *, metric, device):
        assert own.is_cuda and among.is_cuda and own.dtype == among.dtype == torch.float32
        assert own.is_contiguous() and among.is_contiguous() and count <= 2048 and device == 0
        value, column = faiss.knn(own.cpu().numpy(), among.cpu().numpy(), count, metric=metric)
        return torch.from_numpy(value).cuda(), torch.from_numpy(column).cuda()


@pytest.fixture
def card(monkeypatch):
    """A pretended GPU with faiss-gpu."""
    monkeypatch.setitem(sys.modules, "faiss", CardsFaiss())
    monkeypatch.setitem(sys.modules, "faiss.contrib.torch_utils", SimpleNamespace())
    monkeypatch.setattr(faiss_search, "_installed", lambda: ["faiss-gpu"])
    with pretended_gpu() as gpu:
        yield gpu


@pytest.mark.parametrize("method", BY)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_gpu_they_are_those_of_the_cpu_and_nothing_is_rounded(rng, card, monkeypatch, method, norm):
    points = collapsed(rng, 12, 1e-5)
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    found = kth_distances(points.cuda(), k=30, norm=norm, method=method)
    assert found.distance.is_cuda and found.in_doubt == 0 and not card.rounded
    assert torch.equal(found.distance.cpu(), exact(points, k=30, norm=norm))


def test_the_rule_that_takes_faiss(card, monkeypatch):
    def chosen(width=64, norm: Norm = "l2", device="cuda", points=50_000, k=100):
        return method_for(width, norm=norm, device=device, points=points, k=k)

    assert chosen() == chosen(width=1024, points=20_000, k=2015) == "faiss"
    assert (
        chosen(width=1025) == chosen(points=19_999) == chosen(k=2016) == chosen(norm="linf") == "candidates"
    )
    assert chosen(device="cpu") == "products"
    monkeypatch.setattr(faiss_search, "_installed", list)
    assert chosen() == "candidates"


def test_more_neighbours_than_a_card_takes_are_found_by_torch_which_is_said(card, monkeypatch):
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 3)))
    monkeypatch.setattr(faiss_search, "MOST_K", 19)
    with pytest.warns(UserWarning, match=r"2048 neighbours at most on a GPU, and k = 20"):
        found = kth_distances(points.cuda(), k=20, norm="l2", method="faiss")
    assert found.method == "candidates"
    assert torch.equal(found.distance.cpu(), exact(points, k=20, norm="l2"))


def test_where_faiss_is_missing_double_or_of_the_cpu_the_message_names_the_extra(rng, monkeypatch):
    points = collapsed(rng, 3, 1.0, points=50)
    with (
        pretended_gpu(),
        pytest.raises(MissingExtra, match=r"on cuda:0 needs faiss-gpu.*uninstall faiss-cpu"),
    ):
        kth_distance(points.cuda(), k=3, norm="l2", method="faiss")
    monkeypatch.setattr(faiss_search, "_installed", lambda: ["faiss-cpu", "faiss-gpu"])
    with pytest.raises(MissingExtra, match=r"faiss-cpu and faiss-gpu are both installed.*uninstall both"):
        kth_distance(points, k=3, norm="l2", method="faiss")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"'\.\[gpu\]'.*faiss-cpu and faiss-gpu exclude each other"):
        knn_entropy(points, k=3, method="faiss")


def test_a_method_that_does_not_fit_is_refused(rng):
    points = collapsed(rng, 3, 1.0, points=50)
    with pytest.raises(ValueError, match=r"method is 'products', which is for norm 'l2'; norm is 'linf'"):
        kth_distance(points, k=3, norm="linf", method="products")
    with pretended_gpu(), pytest.raises(ValueError, match="method is 'tree', which is for points on the CPU"):
        kth_distance(points.cuda(), k=3, norm="l2", method="tree")
