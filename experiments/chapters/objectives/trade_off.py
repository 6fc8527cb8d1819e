"""The information bottleneck, solved on small discrete problems: soft clusters and the best hard ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from torch import Tensor

from experiments.chapters.objectives.equivalence import objective, of_encoders
from lpc.arrays import Array, as_float64

MOST_POINTS = 10
"""Largest number of points to partition: ten have 115,975 partitions, eleven 678,570."""


def line_problem(
    *, points: int = 8, classes: int = 3, width: float = 0.35
) -> Float64[Tensor, "points classes"]:
    r"""Return p(x, y) of points on a line between classes that blur into each other.

    Notes
    -----
    x is uniform over equally spaced positions t from 0 to 1, class centres c are equally spaced, too, and
    :math:`p(y|x) \propto e^{-(t_x - c_y)^2 / 2w^2}`.

    Parameters
    ----------
    points, classes
        Numbers of values of x and y.
    width
        Width w of the blur: 0 gives every point the class of the nearest centre, so that H[Y | X] = 0.
    """
    if points < 2 or classes < 2 or width < 0:
        raise ValueError(f"points={points}, classes={classes}, width={width}; expected 2, 2, 0 or more")
    place = torch.linspace(0, 1, points, dtype=torch.float64)
    centre = torch.linspace(0, 1, classes, dtype=torch.float64)
    squared = (place[:, None] - centre).square()
    if width == 0:
        given = torch.nn.functional.one_hot(squared.argmin(dim=1), classes).to(torch.float64)
    else:
        given = (-squared / (2 * width**2)).softmax(dim=1)
    return given / points


def _divergence(given: Tensor, own: Tensor, decoder: Tensor) -> Tensor:
    """Return D(p(y|x) || p(y|z)), points x categories; it is infinite if z excludes a class that x allows.

    ``own`` is the negative entropy of each p(y|x).
    """
    return own[:, None] - torch.special.xlogy(given[:, None, :], decoder[None]).sum(dim=2)


def solve(
    p_xy: Float[Array, "points classes"],
    *,
    beta: float,
    start: Float[Array, "points categories"],
    iterations: int = 20_000,
    tolerance: float = 1e-12,
) -> Float64[Tensor, "points categories"]:
    r"""Return the encoder to which the self-consistent equations of the information bottleneck lead.

    Parameters
    ----------
    p_xy
        Joint distribution, in which every x has a probability above 0.
    beta
        Weight of I[Y; Z] against I[X; Z].
    start
        Initial p(z | x).
    iterations, tolerance
        Largest number of iterations, all of which are needed near a beta at which clusters split; and the
        change of probabilities below which the iteration ends.

    Notes
    -----
    :math:`p(z|x) \propto p(z)\, e^{-\beta D_{KL}(p(y|x) \Vert p(y|z))}`, with p(z) and p(y|z) of the
    previous encoder. No iteration raises :math:`I[X;Z] - \beta I[Y;Z]`; the result can be a local minimum.

    References
    ----------
    Tishby, Pereira and Bialek 2000, the information bottleneck method.
    """
    data, encoder = as_float64(p_xy, name="p_xy", dims=2), as_float64(start, name="start", dims=2)
    if data.shape[0] != encoder.shape[0]:
        raise ValueError(f"p_xy has {data.shape[0]} points and start has {encoder.shape[0]}")
    if not beta > 0:
        raise ValueError(f"beta is {beta}; expected a positive number")
    of_point = data.sum(dim=1)
    if not bool((of_point > 0).all()):
        raise ValueError(f"p_xy gives point {int((of_point <= 0).nonzero()[0])} no probability")
    given = data / of_point[:, None]
    own = torch.special.xlogy(given, given).sum(dim=1)
    for _ in range(iterations):
        marginal = of_point @ encoder
        kept = marginal > 0  # a category without points stays empty
        encoder, marginal = encoder[:, kept], marginal[kept]
        decoder = (data.T @ encoder / marginal).T
        updated = (marginal.log() - beta * _divergence(given, own, decoder)).softmax(dim=1)
        moved = float((updated - encoder).abs().max())
        encoder = updated
        if moved <= tolerance:
            break
    return encoder


def soft_clusters(
    p_xy: Float[Array, "points classes"], betas: Sequence[float]
) -> dict[float, Float64[Tensor, "points categories"]]:
    """Return the bottleneck's encoder at every beta, from the largest down.

    The first start gives nearly every point its own category; each solution is the start for the next beta.
    Categories that come to have the same p(y | z) stay separate (:func:`merged` joins them), which affects
    only H[Z], H[Z | X] and H[Z | Y].

    Parameters
    ----------
    p_xy
        Joint distribution p(x, y).
    betas
        Values of beta in any order.
    """
    points = as_float64(p_xy, name="p_xy", dims=2).shape[0]
    encoder = 0.99 * torch.eye(points, dtype=torch.float64) + 0.01 / points
    found: dict[float, Tensor] = {}
    for beta in sorted(betas, reverse=True):
        found[beta] = encoder = solve(p_xy, beta=beta, start=encoder)
    return {beta: found[beta] for beta in betas}


def of_solutions(
    p_xy: Float[Array, "points classes"], encoders: Mapping[float, Float[Array, "points categories"]]
) -> pd.DataFrame:
    """Return the quantities of the encoder at each beta, in nats, with a column ``beta``."""
    rows = [of_encoders(p_xy, one[None]) for one in encoders.values()]
    return pd.concat(rows, ignore_index=True).assign(beta=list(encoders))


def merged(
    p_xy: Float[Array, "points classes"],
    encoder: Float[Array, "points categories"],
    *,
    tolerance: float = 1e-4,
) -> Float64[Tensor, "points clusters"]:
    """Return the encoder with all categories of equal p(y | z) joined, in the order of the points.

    Parameters
    ----------
    p_xy, encoder
        Joint distribution, and p(z | x).
    tolerance
        Largest difference between two p(y | z) that count as equal.
    """
    data, given = as_float64(p_xy, name="p_xy", dims=2), as_float64(encoder, name="encoder", dims=2)
    joint = given.T @ data
    place = torch.arange(len(data), dtype=torch.float64)
    order = (given.T @ place / given.sum(dim=0)).argsort()
    clusters: list[Tensor] = []
    decoders: list[Tensor] = []
    for z in order:
        decoder = joint[z] / joint[z].sum()
        same = [i for i, other in enumerate(decoders) if float((decoder - other).abs().max()) <= tolerance]
        if same:
            clusters[same[0]] = clusters[same[0]] + given[:, z]
        else:
            clusters.append(given[:, z])
            decoders.append(decoder)
    return torch.stack(clusters, dim=1)


def partitions(points: int) -> list[tuple[int, ...]]:
    """Return every partition of the points once, as the points' clusters, numbered as they appear.

    Parameters
    ----------
    points
        Number of points, from 1 to :data:`MOST_POINTS`.
    """
    if not 1 <= points <= MOST_POINTS:
        raise ValueError(f"partitions of {points} points; expected 1 to {MOST_POINTS}")
    grown: list[tuple[int, ...]] = [(0,)]
    for _ in range(points - 1):
        grown = [(*one, cluster) for one in grown for cluster in range(max(one) + 2)]
    return grown


def hard_clusters(p_xy: Float[Array, "points classes"]) -> pd.DataFrame:
    """Return the quantities of every deterministic encoder in nats; the index is its partition.

    Encoders that differ only in the names of the clusters count once.
    """
    points = as_float64(p_xy, name="p_xy", dims=2).shape[0]
    every = partitions(points)
    encoders = torch.nn.functional.one_hot(torch.tensor(every), points).to(torch.float64)
    table = of_encoders(p_xy, encoders)
    table.index = pd.Index([" ".join(map(str, one)) for one in every], name="partition")
    return table


def assignment(partition: str) -> Float64[Tensor, "points clusters"]:
    """Return the encoder of a partition in the notation of :func:`hard_clusters`."""
    cluster = torch.tensor([int(part) for part in partition.split()])
    return torch.nn.functional.one_hot(cluster).to(torch.float64)


def best_hard_clusters(clusters: pd.DataFrame, betas: Sequence[float]) -> pd.DataFrame:
    """Return the rows of :func:`hard_clusters` that minimise H[Z] - beta I[Y; Z], one row per beta.

    Notes
    -----
    H[Z] is concave and I[Y; Z] convex in p(z | x), so DIB's objective is concave and has its minimum at a
    corner of the set of encoders: the best deterministic encoder is the best of all.
    """
    chosen = [objective("DIB", clusters, beta=beta).idxmin() for beta in betas]
    return clusters.loc[chosen].reset_index().assign(beta=list(betas))


def draw_plane(ax: Axes, clouds: Mapping[str, pd.DataFrame]) -> Axes:
    """Draw encoders as dots: residual against preserved information, in nats.

    Parameters
    ----------
    ax
        Axes to draw on.
    clouds
        One or two tables of quantities, by name in the legend, with one row per encoder.
    """
    for (name, table), colour in zip(clouds.items(), ("#E69F00", "#999999"), strict=False):
        ax.plot(
            table["preserved_information"],
            table["residual_information"],
            ".",
            markersize=2,
            color=colour,
            label=name,
            rasterized=True,
        )
    ax.set(xlabel="preserved information I[X;Z] (nats)", ylabel="residual information I[X;Y|Z] (nats)")
    ax.grid(alpha=0.3)
    return ax
