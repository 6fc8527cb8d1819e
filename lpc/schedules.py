"""What changes from epoch to epoch: the learning rate and the penalty's weight."""

from __future__ import annotations

from collections.abc import Sequence

from lpc.losses import geometric_gamma
from lpc.specs import ON_LATENT, TrainSpec


def learning_rate(epoch: int, train: TrainSpec) -> float:
    """Return the rate of everything but the last classifier in an epoch (counted from 0).

    References
    ----------
    LPC 2024, Appendix C: halved every 50 epochs from epoch 250.
    """
    if train.decay_start is None or epoch < train.decay_start:
        return train.learning_rate
    return train.learning_rate * 0.5 ** (1 + (epoch - train.decay_start) // train.decay_every)


def plateau_share(losses: Sequence[float], train: TrainSpec) -> float:
    """Return what plateaus leave of the learning rate: ``plateau_factor`` to their number.

    A plateau is more than ``plateau_patience`` epochs in a row whose loss is not below the best so far; the
    next one is counted from there. 1 where the spec has no such factor.

    Parameters
    ----------
    losses
        Of the epochs so far, penalties included.
    train
        The schedule.

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
    """Return the sd that every node of the latent is brought to after an epoch (counted from 0).

    Raises
    ------
    ValueError
        A spec whose latents are not rescaled.
    """
    if train.latent_sd is None:
        raise ValueError("TrainSpec.latent_sd is None: the latents are not rescaled")
    return train.latent_sd * train.latent_sd_factor**epoch


def gamma(epoch: int, train: TrainSpec) -> float:
    """Return the weight of the latent's penalty in an epoch (counted from 0); 0 where there is none."""
    if train.penalty not in ON_LATENT:
        return 0.0
    return geometric_gamma(
        epoch,
        initial=train.gamma_initial,
        factor=train.gamma_factor,
        maximum=train.gamma_maximum,
        overshoot=train.gamma_overshoot,
    )
