"""Schedules over epochs: the learning rate, and gamma, the weight of the penalty.

``gamma`` and ``learning_rate`` read a spec; ``geometric_gamma`` and ``two_regime_gamma`` are the formulas.
"""

from typing import TYPE_CHECKING

from lpc._front.faces import face

if TYPE_CHECKING:
    from lpc.schedules.by_spec import gamma as gamma
    from lpc.schedules.by_spec import latent_sd as latent_sd
    from lpc.schedules.by_spec import learning_rate as learning_rate
    from lpc.schedules.by_spec import plateau_share as plateau_share
    from lpc.schedules.gammas import geometric_gamma as geometric_gamma
    from lpc.schedules.gammas import two_regime_gamma as two_regime_gamma
else:
    __getattr__, __dir__ = face(__name__)
