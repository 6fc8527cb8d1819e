"""Schedules of a spec over epochs: the learning rate and the penalty's weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lpc.schedules.gammas import geometric_gamma, two_regime_gamma
from lpc.specs import ON_LATENT, TrainSpec


def learning_rate(epoch: int, train: TrainSpec) -> float:
    r"""Return the learning rate of all but the last classifier in an epoch (counted from 0).

    Parameters
    ----------
    epoch
        Epoch, counted from 0.
    train
        Schedule with the first rate and its decay.

    Notes
    -----
    Where ``decay`` is ``cosine``, :math:`\tfrac\eta2\left(1 + \cos\pi\tfrac{e - s}{E - s}\right)` from epoch
    s of E: the whole rate in epoch s, and 0 after the last.

    References
    ----------
    LPC 2024, Appendix C: halved every 50 epochs from epoch 250. Loshchilov and Hutter 2017 (SGDR), Eq. 5; the
    2025 release: from epoch 200 of 1000.
    """
    if train.decay_start is None or epoch < train.decay_start:
        return train.learning_rate
    if train.decay == "cosine":
        share = (epoch - train.decay_start) / (train.epochs - train.decay_start)
        return train.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    return train.learning_rate * 0.5 ** (1 + (epoch - train.decay_start) // train.decay_every)


def plateau_share(losses: Sequence[float], train: TrainSpec) -> float:
    """Return the share of the learning rate that plateaus leave: ``plateau_factor`` to their number.

    A plateau is more than ``plateau_patience`` epochs in a row whose loss is not below the best so far; the
    next one is counted from there. The share is 1 if the spec has no such factor.

    Parameters
    ----------
    losses
        Mean loss of each epoch so far, penalties included.
    train
        Schedule with ``plateau_factor`` and ``plateau_patience``.

    References
    ----------
    Kirsch et al. 2020, Section 7.
    """
    share, best, waited = 1.0, float("inf"), 0
    if train.plateau_factor is None:
        return share
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited > train.plateau_patience:
            share, waited = share * train.plateau_factor, 0
    return share


def latent_sd(epoch: int, train: TrainSpec) -> float:
    """Return the sd to which every node of the latent is brought after an epoch (counted from 0).

    Parameters
    ----------
    epoch
        Epoch, counted from 0.
    train
        Schedule with the first sd and its factor per epoch.

    Raises
    ------
    ValueError
        If the spec does not rescale its latents.
    """
    if train.latent_sd is None:
        raise ValueError("TrainSpec.latent_sd is None: the latents are not rescaled")
    return train.latent_sd * train.latent_sd_factor**epoch


def gamma(epoch: int, train: TrainSpec) -> float:
    """Return gamma, the weight of the latent's penalty, in an epoch, by the spec's schedule; 0: no penalty.

    Parameters
    ----------
    epoch
        Epoch, counted from 0.
    train
        Schedule with the penalty and the growth of its weight.
    """
    if train.penalty not in ON_LATENT:
        return 0.0
    changes = epoch // train.gamma_every
    early = {"initial": train.gamma_initial, "factor": train.gamma_factor}
    limits = {"maximum": train.gamma_maximum, "overshoot": train.gamma_overshoot}
    if train.gamma_late_factor is None or train.gamma_late_from is None:
        return geometric_gamma(changes, **early, **limits)
    late = {"late_factor": train.gamma_late_factor, "late_from": train.gamma_late_from}
    return two_regime_gamma(changes, **early, **late, **limits)
