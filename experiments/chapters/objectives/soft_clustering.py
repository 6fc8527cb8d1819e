"""Gaussian noise makes soft clusters: entropies of noisy embeddings, minimised over the embeddings."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float64, Integer
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from torch import Tensor

from lpc.computing.sampling import ZERO_ENTROPY_SD


def class_posterior(
    z: Float64[Tensor, "draws width"],
    mean: Float64[Tensor, "points width"],
    label: Integer[Tensor, " points"],
    *,
    sd: float,
    printed: bool = False,
) -> Float64[Tensor, "draws classes"]:
    r"""Return p(y | z) of Z = mean(X) + N(0, sd² I): a softmax over points, summed within classes.

    Parameters
    ----------
    z
        Values of Z at which the posterior is computed.
    mean, label
        Mean and label of each point, all equally probable.
    sd
        Standard deviation of the noise at each node.
    printed
        Whether to use the distance that Appendix A.8 prints, :math:`\lVert z - \mu_i\rVert / \sigma^2`,
        instead of :math:`\lVert z - \mu_i\rVert^2 / 2\sigma^2`.

    References
    ----------
    Kirsch et al. 2020, Appendix A.8.
    """
    norm = torch.cdist(z, mean, compute_mode="donot_use_mm_for_euclid_dist")
    distance = norm / sd**2 if printed else norm.square() / (2 * sd**2)
    member = torch.nn.functional.one_hot(label).to(mean)
    return (-distance).softmax(dim=1) @ member


def fixed_noise(*, draws: int, width: int, seed: int) -> Float64[Tensor, "draws width"]:
    """Return standard normal draws in opposite pairs, whitened so that mean 0 and covariance 1 are exact.

    With them, the Monte Carlo entropy of the noise alone equals its closed form.

    Parameters
    ----------
    draws
        Number of draws: an even number, at least twice the width.
    width
        Width of Z.
    seed
        Seed of the draws.
    """
    if width < 1 or draws < 2 * width or draws % 2:
        raise ValueError(
            f"draws={draws} for width {width}; expected an even number, at least twice the width"
        )
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(draws // 2, width, generator=generator, dtype=torch.float64)
    root = torch.linalg.cholesky(half.T @ half / len(half))
    white = torch.linalg.solve_triangular(root, half.T, upper=False).T
    return torch.cat([white, -white])


class Entropies(NamedTuple):
    """Entropies of a mixture of Gaussians about labelled points, in nats; tensors that carry gradients."""

    encoding_entropy: Tensor
    reverse_decoder_uncertainty: Tensor
    decoder_uncertainty: Tensor


def entropies(
    mean: Float64[Tensor, "points width"],
    label: Integer[Tensor, " points"],
    *,
    sd: Tensor | float,
    noise: Float64[Tensor, "draws width"],
) -> Entropies:
    r"""Return H[Z], H[Z | Y] and H[Y | Z] of Z = mean(X) + sd · noise, by Monte Carlo with exact densities.

    Parameters
    ----------
    mean, label
        Mean and label of each point, all equally probable.
    sd
        Standard deviation of the noise at each node.
    noise
        Standard normal draws, the same for all points. If every call uses the same draws (common random
        numbers), the result is a smooth function of mean and sd.

    Notes
    -----
    :math:`p(z|y) = \frac1{n_y}\sum_{i: y_i = y}\mathcal N(z; \mu_i, \sigma^2 I)`, the mean of
    :math:`-\ln p(z|y)` over draws, and so on. :math:`H[Y|Z] = H[Z|Y] - H[Z] + H[Y]` holds draw by draw.
    """
    points, width = mean.shape
    if noise.shape[1] != width or len(label) != points:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)}, for noise of width {noise.shape[1]} and {len(label)} labels"
        )
    z = mean + sd * noise[:, None, :]
    squared = (z[:, :, None, :] - mean).square().sum(dim=3)
    log_each = -squared / (2 * sd**2) - width * torch.log(
        torch.as_tensor(sd, dtype=mean.dtype) * math.sqrt(2 * math.pi)
    )
    own = label[:, None] == label
    log_all = log_each.logsumexp(dim=2)
    log_own = log_each.masked_fill(~own, -math.inf).logsumexp(dim=2)
    size = own.sum(dim=1).to(mean)
    encoding = math.log(points) - log_all.mean()
    reverse = (size.log() - log_own).mean()
    return Entropies(encoding, reverse, (log_all - log_own).mean())


class Descent(NamedTuple):
    """Embeddings after descent, and their history.

    Attributes
    ----------
    mean
        Final embeddings, shape (points, width).
    history
        One row per step: ``step``, ``encoding_entropy``, ``reverse_decoder_uncertainty``,
        ``decoder_uncertainty`` in nats, ``sd`` of the noise, and ``within`` and ``between``: rms distance
        of points from their class mean, and of class means from each other.
    """

    mean: Float64[Tensor, "points width"]
    history: pd.DataFrame


def descend(
    start: Float64[Tensor, "points width"],
    label: Integer[Tensor, " points"],
    *,
    sd: float = ZERO_ENTROPY_SD,
    free_noise: bool = False,
    weight: float = 1.0,
    steps: int = 120,
    learning_rate: float = 0.02,
    draws: int = 48,
    seed: int = 0,
) -> Descent:
    """Minimise H[Y | Z] + weight · H[Z | Y] over embeddings by Adam, with fixed draws of the noise.

    Parameters
    ----------
    start, label
        Initial embeddings, and the class of each.
    sd
        Standard deviation of the noise at each node.
    free_noise
        Whether to optimise the logarithm of the sd, too, as in an encoder that sets its own noise.
    weight
        Weight of H[Z | Y]: beta' = 1 / (beta - 1).
    steps, learning_rate
        Number of steps and learning rate of Adam.
    draws, seed
        Number and seed of the draws of noise.
    """
    noise = fixed_noise(draws=draws, width=start.shape[1], seed=seed)
    mean = start.clone().requires_grad_()
    log_sd = torch.tensor(math.log(sd), dtype=torch.float64, requires_grad=free_noise)
    optimizer = torch.optim.Adam([mean, log_sd] if free_noise else [mean], lr=learning_rate)
    rows = []
    for step in range(steps + 1):
        found = entropies(mean, label, sd=log_sd.exp(), noise=noise)
        values = {name: float(value.detach()) for name, value in found._asdict().items()}
        place = mean.detach()
        rows.append({"step": step, **values, "sd": float(log_sd.detach().exp()), **_spread(place, label)})
        if step == steps:
            break
        optimizer.zero_grad()
        (found.decoder_uncertainty + weight * found.reverse_decoder_uncertainty).backward()
        optimizer.step()
    return Descent(mean.detach(), pd.DataFrame(rows))


def _spread(mean: Tensor, label: Tensor) -> dict[str, float]:
    centre = torch.stack([mean[label == value].mean(dim=0) for value in label.unique()])
    _, index = label.unique(return_inverse=True)
    return {
        "within": float((mean - centre[index]).square().sum(dim=1).mean().sqrt()),
        "between": float(torch.pdist(centre).square().mean().sqrt()),
    }


def blobs(
    *, points: int = 20, classes: int = 3, radius: float = 0.8, spread: float = 0.5, seed: int = 0
) -> tuple[Float64[Tensor, "points width"], Integer[Tensor, " points"]]:
    """Return overlapping clouds of points in a plane, about centres on a circle, and their classes.

    Parameters
    ----------
    points, classes
        Number of points per class, and number of classes.
    radius, spread
        Radius of the circle, and sd of a cloud at each node.
    seed
        Seed of the clouds.
    """
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(classes).repeat_interleave(points)
    angle = 2 * math.pi * label / classes + math.pi / 2
    centre = radius * torch.stack([angle.cos(), angle.sin()], dim=1).to(torch.float64)
    return centre + spread * torch.randn(len(label), 2, generator=generator, dtype=torch.float64), label


def draw_points(
    ax: Axes, mean: Float64[Tensor, "points 2"], label: Integer[Tensor, " points"], *, sd: float
) -> Axes:
    """Draw embeddings in a plane by class, each in a disc whose radius is the noise's sd.

    Parameters
    ----------
    ax
        Axes to draw on.
    mean, label
        Embeddings and labels, of up to three classes.
    sd
        Standard deviation of the noise, in latent units.
    """
    looks = zip(label.unique().tolist(), ("#0072B2", "#D55E00", "#009E73"), "os^", strict=False)
    for value, colour, marker in looks:
        own = mean[label == value]
        ax.plot(own[:, 0], own[:, 1], marker, color=colour, markersize=4)
        for place in own.round(decimals=2).unique(dim=0).tolist():
            ax.add_patch(Circle((place[0], place[1]), sd, color=colour, alpha=0.08))
    ax.set(aspect="equal", xlabel="node 1")
    return ax
