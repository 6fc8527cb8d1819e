"""The usual alternatives to the library: plain use of SciPy, scikit-learn, NumPy, foolbox and torch."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import mahalanobis
from scipy.special import digamma, gammaln
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

Norm = Literal["l2", "linf"]

_P = {"l2": 2.0, "linf": math.inf}
_BLOCK_ENTRIES = 1 << 24  # entries in a block of distances: 128 MiB of float64


def entropy_of(distance: np.ndarray, *, k: int, width: int, norm: Norm) -> float:
    """Return Kozachenko and Leonenko's estimate, in nats, from the distances to the k-th neighbour.

    Parameters
    ----------
    distance
        Distance of each point to its k-th neighbour, shape (points,); none may be zero.
    k
        Rank of the neighbour.
    width
        Number of dimensions.
    norm
        Norm of the distances, ``"l2"`` or ``"linf"``.
    """
    ball = (
        width * math.log(2)
        if norm == "linf"
        else 0.5 * width * math.log(math.pi) - float(gammaln(width / 2 + 1))
    )
    return float(digamma(len(distance)) - digamma(k) + ball + width * np.log(distance).mean())


def tree_distance(latent: np.ndarray, *, k: int, norm: Norm, workers: int) -> np.ndarray:
    """Return distances to the k-th other point by SciPy's k-d tree, (points,); workers -1: all cores."""
    found, _ = cKDTree(latent).query(latent, k=[k + 1], p=_P[norm], workers=workers)
    return np.asarray(found)[:, 0]


def brute_distance(latent: np.ndarray, *, k: int) -> np.ndarray:
    """Return distances to the k-th other point by scikit-learn, which expands squares, (points,)."""
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(latent)
    return search.kneighbors(latent)[0][:, k]


def direct_distance(some: Tensor, latent: Tensor, *, k: int, norm: Norm) -> Tensor:
    """Return some points' distances to the k-th other point by torch, from differences, (some,)."""
    rows = max(1, _BLOCK_ENTRIES // len(latent))
    parts = [
        torch.cdist(block, latent, p=_P[norm], compute_mode="donot_use_mm_for_euclid_dist")
        .topk(k + 1, dim=1, largest=False)
        .values[:, k]
        for block in some.split(rows)
    ]
    return torch.cat(parts)


def tree_mutual_information(x: np.ndarray, y: np.ndarray, *, k: int, workers: int) -> float:
    """Return Kraskov's estimate (1), in nats, by three trees; x and y are first scaled to unit rms."""
    spaces = []
    for value in (x, y):
        centred = value - value.mean(axis=0)
        spaces.append(centred / np.sqrt(np.square(centred).mean()))
    radius = tree_distance(np.concatenate(spaces, axis=1), k=k, norm="linf", workers=workers)
    below = np.nextafter(radius, 0)  # strictly nearer
    psi = 0.0
    for value in spaces:
        inside = cKDTree(value).query_ball_point(
            value, below, p=math.inf, return_length=True, workers=workers
        )
        psi += float(digamma(np.asarray(inside)).mean())  # the + 1 is the point itself
    return float(digamma(k) + digamma(len(x))) - psi


def looped_mixtures(latent: np.ndarray, *, tolerance: float) -> np.ndarray:
    """Return the mean log-likelihood, in nats, of scikit-learn's two-component mixture for each dimension.

    Parameters
    ----------
    latent
        Latents, shape (points, width).
    tolerance
        Value of scikit-learn's ``tol``: a fit ends when a step gains less.
    """
    scores = []
    for column in latent.T[:, :, None]:
        mixture = GaussianMixture(2, reg_covar=0, tol=tolerance, max_iter=10_000, random_state=0)
        scores.append(mixture.fit(column).score(column))
    return np.array(scores)


def class_gaussians(latent: np.ndarray, label: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return the mean and the maximum-likelihood covariance of every class."""
    parts = {value: latent[label == value] for value in np.unique(label).tolist()}
    return {value: (part.mean(axis=0), np.cov(part.T, bias=True)) for value, part in parts.items()}


def looped_mahalanobis(
    gaussian: Mapping[int, tuple[np.ndarray, np.ndarray]],
    points: np.ndarray,
    decision: np.ndarray,
    *,
    inverse: Mapping[int, np.ndarray] | None,
) -> np.ndarray:
    """Return each point's Mahalanobis distance to its class, one ``scipy.spatial.distance`` call per point.

    Parameters
    ----------
    gaussian
        Mean and covariance of each class.
    points, decision
        Points, shape (points, width), and the class of each.
    inverse
        Inverse of each class's covariance; None: invert it for every point.
    """
    result = []
    for point, value in zip(points, decision.tolist(), strict=True):
        mean, sigma = gaussian[value]
        result.append(mahalanobis(point, mean, np.linalg.inv(sigma) if inverse is None else inverse[value]))
    return np.array(result)


def inverses(gaussian: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> dict[int, np.ndarray]:
    """Return the inverse of each class's covariance."""
    return {value: np.linalg.inv(sigma) for value, (_, sigma) in gaussian.items()}


def mahalanobis_by_products(
    gaussian: Mapping[int, tuple[np.ndarray, np.ndarray]],
    points: np.ndarray,
    decision: np.ndarray,
    inverse: Mapping[int, np.ndarray],
) -> np.ndarray:
    """Return each point's Mahalanobis distance to its class, with one NumPy product per class."""
    result = np.empty(len(points))
    for value, (mean, _) in gaussian.items():
        away = points[decision == value] - mean
        result[decision == value] = np.sqrt(((away @ inverse[value]) * away).sum(axis=1))
    return result


def plain_neural_collapse(latent: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return NC1, equinorm, equiangularity and max_angle by their formulas, from both covariances, (4,)."""
    classes = np.unique(label)
    mean = np.stack([latent[label == value].mean(axis=0) for value in classes])
    deviation = latent - mean[np.searchsorted(classes, label)]
    centred = mean - latent.mean(axis=0)
    within, between = deviation.T @ deviation / len(latent), centred.T @ centred / len(classes)
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-12, hermitian=True)) / len(classes)
    norm = np.linalg.norm(centred, axis=1)
    cosine = (centred @ centred.T / np.outer(norm, norm))[np.triu_indices(len(classes), k=1)]
    return np.array(
        [nc1, norm.std() / norm.mean(), cosine.std(), np.abs(cosine + 1 / (len(classes) - 1)).mean()]
    )


def foolbox_deepfool(model: torch.nn.Module, image: Tensor) -> Callable[[], Tensor] | None:
    """Return a function that computes foolbox's DeepFool perturbations; None if foolbox is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of its dependencies
        try:
            attacks = importlib.import_module("foolbox.attacks.deepfool")
            models = importlib.import_module("foolbox.models.pytorch")
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "foolbox":
                raise
            return None
    wrapped = models.PyTorchModel(model, bounds=(-100, 100), device=image.device)
    attack = attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02, loss="logits")
    decision = model(image).argmax(dim=1)
    return lambda: attack(wrapped, image, decision, epsilons=None)[0] - image
