"""What changes from epoch to epoch: the learning rate and the penalty's weight."""

from __future__ import annotations

from lpc.losses import geometric_gamma
from lpc.specs import TrainSpec


def learning_rate(epoch: int, train: TrainSpec) -> float:
    """Return the rate of everything but the last classifier in an epoch (counted from 0).

    References
    ----------
    LPC 2024, Appendix C: halved every 50 epochs from epoch 250.
    """
    if train.decay_start is None or epoch < train.decay_start:
        return train.learning_rate
    return train.learning_rate * 0.5 ** (1 + (epoch - train.decay_start) // train.decay_every)


def gamma(epoch: int, train: TrainSpec) -> float:
    """Return the weight of the squared norm in an epoch (counted from 0); 0 where it is not the penalty."""
    if train.penalty != "squared_norm":
        return 0.0
    return geometric_gamma(
        epoch,
        initial=train.gamma_initial,
        factor=train.gamma_factor,
        maximum=train.gamma_maximum,
        overshoot=train.gamma_overshoot,
    )
