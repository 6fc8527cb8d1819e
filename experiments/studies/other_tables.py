"""Tables of networks that pull classes together in other ways than by IB's penalty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from lpc.specs import Optimizer, Penalty, Variant

_LAYER = Variant(penultimate="linear", width="intermediate")


class Way(NamedTuple):
    """A way to pull classes together, with strengths to choose from on validation images.

    Attributes
    ----------
    made
        Function from a strength to a network.
    strengths
        Strengths, the weakest first.
    """

    made: Callable[[float], Variant]
    strengths: tuple[float, ...]


def _growing(penalty: Penalty, *, power: float = 1.0) -> Callable[[float], Variant]:
    """Return a function that makes a network from the last value of a gamma that grows as IB's does."""
    return lambda gamma: replace(_LAYER, penalty=penalty, norm_power=power, gamma_maximum=gamma)


def _constant(penalty: Penalty) -> Callable[[float], Variant]:
    """Return a function that makes a network from a constant gamma."""
    return lambda gamma: replace(_LAYER, penalty=penalty, gamma=gamma)


def _decayed(optimizer: Optimizer) -> Callable[[float], Variant]:
    """Return a function that makes a network from an optimizer's weight decay."""
    return lambda decay: replace(_LAYER, optimizer=optimizer, weight_decay=decay)


WAYS: Mapping[str, Way] = {
    "IB": Way(_growing("squared_norm"), (10.0, 100.0, 1000.0)),
    "Norm": Way(_growing("norm_power"), (1.0, 10.0, 100.0)),
    "CubedNorm": Way(_growing("norm_power", power=3.0), (10.0, 100.0, 1000.0)),
    "CentreLoss": Way(_constant("centre"), (0.01, 0.1, 1.0)),
    "LogitSqueezing": Way(_constant("logit_norm"), (1e-3, 1e-2, 1e-1)),
    "VIB": Way(
        lambda beta: replace(_LAYER, penalty="divergence", latent_noise="learnt", gamma=beta),
        (1e-3, 1e-2, 1e-1),
    ),
    "LabelSmoothing": Way(lambda share: replace(_LAYER, label_smoothing=share), (0.05, 0.1, 0.2)),
    "Temperature": Way(lambda divisor: replace(_LAYER, logit_temperature=divisor), (2.0, 8.0, 32.0)),
    "DecayAdamW": Way(_decayed("adamw"), (5e-3, 5e-2, 5e-1)),
    "DecayAdam": Way(_decayed("adam"), (5e-4, 5e-3, 5e-2)),
    "DecaySGD": Way(_decayed("sgd"), (5e-4, 5e-3, 5e-2)),
}
"""Ways by name, all on a linear layer of IB's width, so that networks differ only in the added term. The
gamma of the norm, its square and its cube grows as the paper's does; all other strengths are constant."""

WITHOUT_STRENGTH: Mapping[str, Variant] = {
    "LinPen": _LAYER,
    "NoPen": Variant(),
    "Cosine": replace(_LAYER, classifier="cosine"),
    "SpectralNorm": replace(_LAYER, spectral_norm=True),
}
"""Controls, and ways without a strength to choose: the cosine classifier has its usual scale of 32."""

OTHER_STRENGTHS: Mapping[str, Variant] = {
    f"{name}-{strength:g}": way.made(strength) for name, way in WAYS.items() for strength in way.strengths
}
"""Every way at each of its strengths."""


def others(strengths: Mapping[str, float]) -> dict[str, Variant]:
    """Return the table of all ways at chosen strengths; controls and ways without a strength come first.

    Parameters
    ----------
    strengths
        Strength of each of the :data:`WAYS`, by name.
    """
    return {**WITHOUT_STRENGTH, **{name: way.made(strengths[name]) for name, way in WAYS.items()}}


def carried(table: Mapping[str, Variant], maximum: float) -> dict[str, Variant]:
    """Return a table in which no growing gamma ends above what a budget carries.

    Parameters
    ----------
    table
        Table from :func:`others`.
    maximum
        Largest last gamma.
    """
    return {
        name: one
        if one.gamma_maximum is None
        else replace(one, gamma_maximum=min(one.gamma_maximum, maximum))
        for name, one in table.items()
    }
