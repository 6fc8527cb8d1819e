"""Tables of networks that differ in their optimizer, or in the terms of their loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lpc.extinction import extinction_gamma
from lpc.specs import VARIANTS, Optimizer, Variant

OPTIMIZERS: Mapping[str, Optimizer] = {
    "AdamW": "adamw",
    "TurnedAdamW": "adamw_turned",
    "EquivariantAdam": "adam_equivariant",
    "CoupledAdam": "adam",
    "SGD": "sgd",
    "Lion": "lion",
}
"""Optimizers by their names in tables; all but ``SGD`` and ``CoupledAdam`` have decoupled weight decay."""


class Network(NamedTuple):
    """Parts of a network's name in :data:`CUBES` and :data:`LONG_CUBES`, such as ``AdamW-8-100``.

    Attributes
    ----------
    optimizer
        Name of the optimizer, a key of :data:`OPTIMIZERS`.
    width
        Number of nodes of the penultimate layer.
    gamma
        Last value of the penalty's weight.
    """

    optimizer: str
    width: int
    gamma: float

    @property
    def name(self) -> str:
        """The name."""
        return f"{self.optimizer}-{self.width}-{self.gamma:g}"

    @classmethod
    def named(cls, name: str) -> Network:
        """Return the network with a name."""
        optimizer, width, gamma = name.split("-")
        return cls(optimizer, int(width), float(gamma))


def _ib(network: Network) -> Variant:
    """Return IB's layer with the network's number of nodes, optimizer and last gamma."""
    return Variant(
        penultimate="linear",
        width=network.width,
        penalty="squared_norm",
        gamma_maximum=network.gamma,
        optimizer=OPTIMIZERS[network.optimizer],
    )


CUBE_GAMMAS = (1.0, 100.0)
CUBES: Mapping[str, Variant] = {
    one.name: _ib(one)
    for optimizer in OPTIMIZERS
    for width in (8, 4)
    for gamma in CUBE_GAMMAS
    for one in (Network(optimizer, width, gamma),)
}
"""IB by every optimizer, with 8 and with 4 nodes, with gamma growing to 1 and to 100.

With a coupled decay of 0.5e-4, only the zero latent is left from gamma = 1,000 on (``lpc.extinction``)."""
CUBE_RATES: Mapping[str, Variant] = {name: one for name, one in CUBES.items() if one.width == 8}
"""Networks with 8 nodes: the search among their learning rates fixes the rates of all networks."""
LONG_CUBES: Mapping[str, Variant] = {
    one.name: _ib(one)
    for one in (
        Network("AdamW", 8, 25_000.0),
        Network("EquivariantAdam", 8, 25_000.0),
        Network("TurnedAdamW", 8, 25_000.0),
        Network("Lion", 8, 2_500.0),
    )
}
"""IB with five times the budget, which carries 25 times the gamma."""

EXTINCTION_DECAYS = (5e-4, 5e-3, 5e-2)
EXTINCTION_SHARES = (0.5, 2.0)


EXTINCTION: Mapping[str, Variant] = {
    f"{optimizer}-{decay:g}-{share:g}": Variant(
        penultimate="linear",
        width="intermediate",
        penalty="squared_norm",
        gamma=share * extinction_gamma(weight_decay=decay, classes=10),
        optimizer=OPTIMIZERS[optimizer],
        weight_decay=decay,
    )
    for optimizer in ("CoupledAdam", "AdamW")
    for decay in EXTINCTION_DECAYS
    for share in EXTINCTION_SHARES
}
"""IB's layer at a constant gamma on either side of extinction, for ten classes. Names give the optimizer, its
decay, and gamma as a share of the gamma of extinction."""

PENALTIES: Mapping[str, Variant] = {
    **{name: VARIANTS[name] for name in ("IB", "WideIB", "LinPen", "NoPen")},
    "LabelSmoothing": Variant(label_smoothing=0.1),
    "CentreLoss": Variant(penultimate="linear", width="intermediate", penalty="centre", gamma=0.1),
}
"""IB and its controls beside two older ways to pull a class together: label smoothing on NoPen's network, and
centre loss on the latents of IB's network."""
STRENGTHS: Mapping[str, Variant] = {
    **{f"LabelSmoothing-{share:g}": Variant(label_smoothing=share) for share in (0.05, 0.1, 0.2)},
    **{
        f"CentreLoss-{gamma:g}": Variant(
            penultimate="linear", width="intermediate", penalty="centre", gamma=gamma
        )
        for gamma in (0.01, 0.1, 1.0)
    },
}
"""Strengths of the two older ways, to be chosen on validation images."""
