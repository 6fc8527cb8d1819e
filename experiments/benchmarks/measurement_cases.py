"""The cases of the chapter on cost: every evaluation beside the usual alternative."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree
from sklearn.datasets import load_digits
from torch import Tensor

from experiments.benchmarks import baselines
from experiments.benchmarks.peer_cases import peers
from experiments.benchmarks.sizes import CLASSES, Size, flat_points, humps_of, points_of
from experiments.benchmarks.timing import NOT_SLOWER, Case, table
from experiments.reporting.tables import number
from lpc.computing.generators import seeded
from lpc.evaluation.information import knn_entropy, mutual_information
from lpc.evaluation.mixture import fit_bimodal
from lpc.evaluation.neighbours import kth_distance
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.evaluation.reliability import ClassGaussians, mahalanobis_confidence
from lpc.evaluation.robustness import deepfool

_SPREADS = {"Gaussian": None, "10 classes of sd 1e-3": 1e-3, "10 classes of sd 1e-7": 1e-7}
_WORKERS = {"scipy tree, 1 worker": 1, "scipy tree, all cores": -1}


def _shape(total: int, width: int) -> str:
    return f"{total:,} x {width:,}"


def _on(value: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(value).to(device)


def entropy_case(
    value: np.ndarray,
    *,
    k: int,
    norm: baselines.Norm = "l2",
    device: str = "cpu",
    kind: str = "Gaussian",
    against: str = "scipy tree, all cores",
    target: float | None = None,
) -> Case:
    """Return the k-NN entropy of some points, against SciPy's tree."""
    points = _on(value, device)
    search = {"k": k, "norm": norm}
    return Case(
        what=f"{kind}, {_shape(*value.shape)}",
        against=against,
        ours=lambda: knn_entropy(points, **search),
        theirs=lambda: baselines.entropy_of(
            baselines.tree_distance(value, **search, workers=_WORKERS[against]),
            width=value.shape[1],
            **search,
        ),
        tolerance=1e-9,
        target=target,
    )


def asked_case(
    value: np.ndarray, *, k: int, asked: int, device: str, kind: str, against: str, target: float
) -> Case:
    """Return k-th distances of points, against SciPy's tree, built before and asked for a few of them."""
    points, tree = _on(value, device), cKDTree(value)
    return Case(
        what=f"{kind}, {_shape(*value.shape)}",
        against=f"{against}, built before, {asked:,} of {len(value):,} points",
        ours=lambda: kth_distance(points, k=k, norm="l2")[:asked],
        theirs=lambda: np.asarray(tree.query(value[:asked], k=[k + 1], workers=_WORKERS[against])[0])[:, 0],
        tolerance=1e-9,
        share=asked / len(value),
        target=target,
    )


def entropy(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield k-NN entropy by the Euclidean norm: wide and narrow, Gaussian and collapsed."""
    for kind, spread in _SPREADS.items():
        value = points_of(size.points, size.width, spread)
        options = {"k": size.k, "device": device, "kind": kind, "target": 8.0}
        for against in _WORKERS:
            if spread is None and size.asked is not None:
                yield asked_case(value, asked=size.asked, against=against, **options)
            else:
                case = entropy_case(value, against=against, **options)
                yield replace(case, patience=5.0) if spread is None else case
        if spread is None or spread > 1e-4:  # below this, expanded squares keep too few digits to compare
            points = _on(value, device)
            yield Case(
                what=f"{kind}, {_shape(*value.shape)}",
                against="scikit-learn brute",
                ours=lambda points=points: knn_entropy(points, k=size.k),
                theirs=lambda value=value: baselines.entropy_of(
                    baselines.brute_distance(value, k=size.k), k=size.k, width=size.width, norm="l2"
                ),
                tolerance=1e-6,
            )
    for kind in list(_SPREADS)[:2]:
        value = points_of(size.narrow_points, 8, _SPREADS[kind])
        for against in _WORKERS:
            yield entropy_case(value, k=size.k, device=device, kind=kind, against=against, target=NOT_SLOWER)
    value = flat_points(size.narrow_points, 20, 3)
    for against in _WORKERS:
        kind = "Gaussian, 3 of 20 dimensions"
        yield entropy_case(value, k=size.k, device=device, kind=kind, against=against, target=NOT_SLOWER)


def chebyshev(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield k-NN entropy by the Chebyshev norm at several widths."""
    for width in size.widths:
        for kind in list(_SPREADS)[:2]:
            value = points_of(size.chebyshev_points, width, _SPREADS[kind])
            options = {"norm": "linf", "device": device, "kind": kind, "target": NOT_SLOWER}
            for against in _WORKERS:
                yield entropy_case(value, k=size.k, against=against, **options)


def information(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield mutual information between latents of some width and 8 numbers that depend on them."""
    for width in (8, size.width):
        x = points_of(size.joint_points, width)
        y = x[:, :8] + np.random.default_rng(1).normal(size=(len(x), 8))
        first, second = _on(x, device), _on(y, device)
        for against, workers in _WORKERS.items():
            yield Case(
                what=f"{_shape(*x.shape)} and 8",
                against=against.replace("tree", "trees"),
                ours=lambda first=first, second=second: mutual_information(first, second, k=size.k),
                theirs=lambda x=x, y=y, workers=workers: baselines.tree_mutual_information(
                    x, y, k=size.k, workers=workers
                ),
                tolerance=1e-9,
            )


def mixture_case(
    total: int,
    width: int,
    *,
    sampled: int,
    device: str = "cpu",
    stop: float = 1e-8,
    target: float | None = None,
) -> Case:
    """Return two-component mixtures of all dimensions, against scikit-learn's of the first ``sampled``."""
    value = humps_of(total, width)
    points, sample = _on(value, device), value[:, :sampled]
    return Case(
        what=_shape(total, width),
        against=f"scikit-learn, tol {number(stop, 1)}, {sampled} of {width} nodes",
        ours=lambda: fit_bimodal(points).log_likelihood[:sampled],
        theirs=lambda: baselines.looped_mixtures(sample, tolerance=stop),
        tolerance=10 * max(stop, 1e-7),  # a fit that stops at a small step misses several such steps
        share=sampled / width,
        target=target,
    )


def mixtures(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield two-component mixtures, fitted to the likelihood's maximum and with scikit-learn's tolerance."""
    options = {"sampled": size.sampled, "device": device}
    yield mixture_case(size.points, size.width, **options, target=8.0)
    yield mixture_case(size.points, size.width, **options, stop=1e-3)


def mahalanobis(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield Mahalanobis distances of points to their classes, without and with the time of the fits."""
    value = points_of(CLASSES * size.train + size.judged, size.width, 0.3)
    label = np.arange(len(value)) % CLASSES
    (train, points), (known, decision) = (np.split(part, [CLASSES * size.train]) for part in (value, label))
    fit = [_on(part, device) for part in (train, known, known)]
    given = [_on(part, device) for part in (points, decision)]
    gaussians = ClassGaussians(*fit).fit(range(CLASSES))
    fitted = baselines.class_gaussians(train, known)
    inverse = baselines.inverses(fitted)
    few = CLASSES

    def judged(count: int = size.judged) -> Tensor:
        return -gaussians.confidence(*given)[:count]

    def looped_with_fits() -> np.ndarray:
        own = baselines.class_gaussians(train, known)
        return baselines.looped_mahalanobis(own, points, decision, inverse=baselines.inverses(own))

    what = f"{_shape(*points.shape)}"
    options = {"tolerance": 1e-9}
    yield Case(
        what=f"{what}, fitted before",
        against="scipy, inverses given",
        ours=judged,
        theirs=lambda: baselines.looped_mahalanobis(fitted, points, decision, inverse=inverse),
        target=15.0,
        **options,
    )
    yield Case(
        what=f"{what}, fitted before",
        against=f"scipy, inverting for {few} points",
        ours=lambda: judged(few),
        theirs=lambda: baselines.looped_mahalanobis(fitted, points[:few], decision[:few], inverse=None),
        share=few / size.judged,
        target=15.0,
        **options,
    )
    yield Case(
        what=f"{what}, fitted before",
        against="numpy, one product per class",
        ours=judged,
        theirs=lambda: baselines.mahalanobis_by_products(fitted, points, decision, inverse),
        **options,
    )
    yield Case(
        what=f"{what}, with the fit",
        against="scipy, inverse once per class",
        ours=lambda: -mahalanobis_confidence(*fit, *given),
        theirs=looped_with_fits,
        **options,
    )


def digits_network(device: str = "cpu") -> tuple[torch.nn.Module, Tensor]:
    """Return an MLP trained on scikit-learn's digits for 60 steps, from one seed, and the digits, float64."""
    pixels, digit = load_digits(return_X_y=True)
    image, label = _on(np.asarray(pixels) / 16, device), _on(np.asarray(digit), device)
    with seeded(0):
        layers = [torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU()]
        network = torch.nn.Sequential(*layers, torch.nn.Linear(128, 10)).double().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    return network.eval().requires_grad_(False), image


def robustness(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield DeepFool on digits, against itself one image at a time and against foolbox."""
    network, image = digits_network(device)
    image = image[: size.images]
    what = f"{len(image)} digits, an MLP"
    yield Case(
        what=what,
        against="lpc, one image at a time",
        ours=lambda: deepfool(network, image).perturbation,
        theirs=lambda: torch.cat([deepfool(network, one[None]).perturbation for one in image]),
        tolerance=1e-9,
        target=8.0,
    )
    yield Case(
        what=what,
        against="foolbox, the whole batch",
        ours=lambda: deepfool(network, image, step_floor=1e-4).perturbation,  # as foolbox's steps
        theirs=baselines.foolbox_deepfool(network, image),
        tolerance=1e-6,
        target=NOT_SLOWER,
    )


def collapse_case(
    total: int, width: int, classes: int, device: str = "cpu", target: float | None = None
) -> Case:
    """Return the case of neural collapse's measures, on classes of sd 0.3 about means of order one."""
    rng = np.random.default_rng(0)
    label = np.arange(total) % classes
    value = rng.normal(size=(classes, width))[label] + 0.3 * rng.normal(size=(total, width))
    points, known = _on(value, device), _on(label, device)

    def ours() -> list[float]:
        found = neural_collapse(points, known)
        return [found.nc1, found.equinorm, found.equiangularity, found.max_angle]

    return Case(
        what=f"{_shape(total, width)}, {classes} classes",
        against="numpy, pinv",
        ours=ours,
        theirs=lambda: baselines.plain_neural_collapse(value, label),
        tolerance=1e-9,
        target=target,
    )


def collapse(size: Size, device: str = "cpu") -> Iterator[Case]:
    """Yield the measures of neural collapse, against the formulas with both covariances formed."""
    large, small = size.collapse_points, 10 * max(size.classes)
    for total, width in ((large, size.width), (large, 64), (small, 8)):
        for classes in size.classes:
            yield collapse_case(total, width, classes, device, target=NOT_SLOWER)


def on_gpu(size: Size, device: str = "cuda") -> Iterator[Case]:
    """Yield k-th distances of a large set, against direct differences on the same GPU for a tenth of it."""
    points = _on(points_of(size.gpu_points, size.width), device)
    tenth = points[: max(1, len(points) // 10)]
    for norm in ("l2", "linf"):
        yield Case(
            what=f"k-th distances, {norm}, {_shape(*points.shape)}",
            against="torch.cdist, all pairs, same device",
            ours=lambda norm=norm: kth_distance(points, k=size.k, norm=norm)[: len(tenth)],
            theirs=lambda norm=norm: baselines.direct_distance(tenth, points, k=size.k, norm=norm),
            tolerance=1e-9,
            share=len(tenth) / len(points),
        )


FAMILIES: Mapping[str, Callable[[Size, str], Iterator[Case]]] = {
    "entropy": entropy,
    "chebyshev": chebyshev,
    "information": information,
    "mixtures": mixtures,
    "mahalanobis": mahalanobis,
    "robustness": robustness,
    "collapse": collapse,
    "peers": peers,
    "gpu": on_gpu,
}
"""For each family of cases, the function that yields them at a size, ours on a device; ``gpu`` needs one."""


def times(family: str, size: Size, device: str = "cpu") -> pd.DataFrame:
    """Return a family's table (:func:`experiments.benchmarks.timing.table`), with targets if they apply."""
    cases = (case if size.aims else replace(case, target=None) for case in FAMILIES[family](size, device))
    return table(cases, repeats=size.repeats, limit=size.limit, device=device)
