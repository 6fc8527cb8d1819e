"""Motion of a parameter that only the counts of labels in permuted batches drive."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Wander(NamedTuple):
    """Stationary standard deviations of a bias.

    Attributes
    ----------
    epoch_end
        Standard deviation after whole epochs.
    any_step
        Root mean square over the steps of an epoch.
    """

    epoch_end: float
    any_step: float


def wander(
    *, learning_rate: float, share: float, batch_size: int, images: int | None, momentum: float
) -> Wander:
    r"""Return the standard deviation of one class's bias under AdamW, by the linearised law.

    Notes
    -----
    Step t of an epoch has the gradient :math:`g_t = p\,b_t + x_t`, with :math:`p` the class's share and
    :math:`x_t` the share of the class in the batch less :math:`p`. AdamW sets
    :math:`m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t` and :math:`b_t = b_{t-1} - \eta\, m_t / s` with
    :math:`s^2` the mean of :math:`x_t^2`. An epoch is a permutation of N labels cut into batches of
    :math:`B_t`, so that counts are hypergeometric: :math:`\mathrm{Cov}(x_t, x_u) =
    \frac{p(1-p)}{N-1}\bigl(\tfrac{N}{B_t}\delta_{tu} - 1\bigr)`. The state (b, m) is a linear recursion whose
    noise is known epoch by epoch; its stationary covariance solves a Lyapunov equation of size two.

    Parameters
    ----------
    learning_rate
        Learning rate of the bias.
    share
        Share p of the class among the labels.
    batch_size
        Number of labels per batch; the last batch of an epoch has the rest.
    images
        Number N of labels in an epoch; None: labels are drawn at random, with replacement.
    momentum
        First beta of AdamW.

    Returns
    -------
    Wander
        Standard deviations: zero if a batch holds all images, infinite if the recursion is unstable.
    """
    count = 1 if images is None else math.ceil(images / batch_size)
    size = np.full(count, float(batch_size))
    single, shared = share * (1 - share) / size, 0.0
    if images is not None:
        size[-1] = images - batch_size * (count - 1)
        shared = share * (1 - share) / max(1, images - 1)
        single = shared * images / size
    scale = math.sqrt(max(0.0, float(np.mean(single)) - shared))
    if scale == 0:
        return Wander(0.0, 0.0)
    pull = learning_rate / scale
    step = np.array(
        [[1 - pull * (1 - momentum) * share, -pull * momentum], [(1 - momentum) * share, momentum]]
    )
    kick = np.array([-pull * (1 - momentum), 1 - momentum])
    if max(abs(np.linalg.eigvals(step))) >= 1:
        return Wander(math.inf, math.inf)
    powers = [np.eye(2)]
    for _ in range(count):
        powers.append(step @ powers[-1])
    late = np.stack([power @ kick for power in powers[:-1]])  # a kick after 0, 1, ... steps

    def fresh(steps: int) -> np.ndarray:
        """The covariance that the first steps of an epoch add."""
        seen = late[steps - 1 :: -1] if steps else late[:0]
        total = seen.sum(axis=0)
        return seen.T @ (single[:steps, None] * seen) - shared * np.outer(total, total)

    epoch = powers[-1]
    flat = np.linalg.solve(np.eye(4) - np.kron(epoch, epoch), fresh(count).ravel())
    start = flat.reshape(2, 2)
    within = [(powers[k] @ start @ powers[k].T + fresh(k))[0, 0] for k in range(1, count + 1)]
    return Wander(math.sqrt(within[-1]), math.sqrt(float(np.mean(within))))
