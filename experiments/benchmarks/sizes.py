"""Sizes of the tasks that the chapter on cost times, and random points of these sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from experiments.studies.profiles import PROFILES
from lpc.errors import unknown_name

CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of the timed tasks: numbers of points, widths, and the time that a case may take.

    Attributes
    ----------
    repeats
        Number of pairs of calls per case.
    limit
        Seconds after which no further pair begins.
    aims
        Whether the targets apply to these sizes.
    points, width, k
        Sizes for the entropy and the mixtures; ``width`` also for Mahalanobis distances and neural collapse.
    asked
        Number of the entropy's wide Gaussian points for which a tree, which computes all distances, is
        queried; None: all of them.
    narrow_points, chebyshev_points, joint_points, collapse_points, gpu_points
        Numbers of points of the other tasks.
    widths
        Widths for the Chebyshev norm.
    sampled
        Number of the ``width`` dimensions that the loop over mixtures covers.
    train, judged
        Numbers of training points per class, and of points to measure, for the Mahalanobis distance.
    images
        Number of images for DeepFool.
    classes
        Number of classes for neural collapse.
    growth_total
        Number of points in the figure's panels that have another quantity on their axis.
    growth_points, growth_widths, growth_nodes, growth_classes
        Values along the axes of the figure.
    training_repeats, training_limit
        Like ``repeats`` and ``limit``, for whole epochs of training.
    training_images, gpu_training_images, digits
        Numbers of images in such an epoch: on the CPU, on a GPU, and for the cohort of networks on digits.
    cohort, looped
        Number of runs in that cohort, and how many of them the plain loop trains.
    training_batch
        Images per step; None: the profile's own.
    product
        Rows of the square matrices whose product is timed; None: as many as suit the device.
    """

    repeats: int
    limit: float
    aims: bool = True
    points: int = 5000
    width: int = 512
    k: int = 100
    asked: int | None = None
    narrow_points: int = 5000
    chebyshev_points: int = 1000
    joint_points: int = 1000
    collapse_points: int = 20_000
    gpu_points: int = 50_000
    widths: tuple[int, ...] = (8, 64, 512, 2048)
    sampled: int = 32
    train: int = 700
    judged: int = 2000
    images: int = 200
    classes: tuple[int, ...] = (10, 100)
    growth_total: int = 2000
    growth_points: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)
    growth_widths: tuple[int, ...] = (8, 32, 128, 512, 2048)
    growth_nodes: tuple[int, ...] = (8, 32, 128, 512)
    growth_classes: tuple[int, ...] = (10, 30, 100, 300)
    training_repeats: int = 5
    training_limit: float = 120.0
    training_images: int = 1024
    gpu_training_images: int = 25_600
    digits: int = 1197
    cohort: int = 14
    looped: int = 2
    training_batch: int | None = None
    product: int | None = None


_THOROUGH = Size(repeats=5, limit=4.0, training_repeats=5, training_limit=25.0, gpu_training_images=12_800)

SIZES: Mapping[str, Size] = {
    "smoke": Size(
        repeats=1,
        limit=1.0,
        aims=False,
        points=240,
        width=24,
        k=8,
        asked=60,
        narrow_points=300,
        chebyshev_points=120,
        joint_points=120,
        collapse_points=400,
        gpu_points=500,
        widths=(8, 64),
        sampled=2,
        train=40,
        judged=60,
        images=6,
        classes=(4, 8),
        growth_total=120,
        growth_points=(60, 120),
        growth_widths=(4, 16),
        growth_nodes=(2, 4),
        growth_classes=(4, 8),
        training_repeats=1,
        training_limit=1.0,
        training_images=24,
        gpu_training_images=24,
        digits=48,
        cohort=3,
        looped=1,
        training_batch=8,
        product=128,
    ),
    "laptop": replace(
        _THOROUGH,
        points=3000,
        k=60,
        asked=200,
        narrow_points=3000,
        chebyshev_points=400,
        joint_points=400,
        collapse_points=10_000,
        images=100,
        growth_points=(500, 1000, 2000, 4000),
        growth_total=1000,
        training_repeats=4,
        training_images=320,
    ),
    "thorough": _THOROUGH,
    "full": Size(
        repeats=9,
        limit=300.0,
        narrow_points=50_000,
        chebyshev_points=5000,
        joint_points=5000,
        sampled=512,
    ),
}


def size(profile: str) -> Size:
    """Return a profile's sizes: its own if it has any, else ``full``; an unknown profile is a ValueError."""
    if profile not in SIZES and profile not in PROFILES:
        raise unknown_name("profile", profile, dict.fromkeys([*SIZES, *PROFILES]))
    return SIZES.get(profile, SIZES["full"])


def points_of(total: int, width: int, spread: float | None = None) -> np.ndarray:
    """Return Gaussian points (points, width), or ten classes of sd ``spread`` about means of order one."""
    rng = np.random.default_rng(0)
    if spread is None:
        return rng.normal(size=(total, width))
    mean = rng.normal(size=(CLASSES, width))
    return mean[np.arange(total) % CLASSES] + spread * rng.normal(size=(total, width))


def flat_points(total: int, width: int, dimension: int) -> np.ndarray:
    """Return points (points, width), Gaussian in a random subspace of a dimension and with sd 1e-3 off it."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(width, dimension)))[0]
    return rng.normal(size=(total, dimension)) @ axes.T + 1e-3 * rng.normal(size=(total, width))


def humps_of(total: int, width: int) -> np.ndarray:
    """Return points (points, width) with two humps in every dimension, 4 to 8 sds apart."""
    rng = np.random.default_rng(0)
    second = rng.random((total, width)) < rng.uniform(0.3, 0.7, width)
    return np.where(second, rng.uniform(4, 8, width), 0.0) + rng.normal(size=(total, width))
