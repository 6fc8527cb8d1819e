"""Information quantities as sets of atoms: names, symbols and identities, on joint distributions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

VARIABLES = "XYZ"
ATOMS: tuple[str, ...] = ("X", "Y", "Z", "XY", "XZ", "YZ", "XYZ")
"""The seven regions into which three sets cut a plane, each named by the sets that contain it."""
EMPTY = "YZ"
"""The atom I[Y; Z | X], which is zero, and left out, if Y - X - Z is a Markov chain."""


class Named(NamedTuple):
    """A quantity of Kirsch et al.'s Section 3.2: its name there, its symbol, and its meaning."""

    name: str
    symbol: str
    words: str

    @property
    def field(self) -> str:
        """Its name in :class:`lpc.evaluation.quantities.Quantities` (Nuisance has none)."""
        return self.name.lower().replace(" ", "_")


NAMED = (
    Named("Label Entropy", "H[Y]", "uncertainty of the label before anything is known"),
    Named("Encoding Entropy", "H[Z]", "uncertainty of the latent before anything is known"),
    Named("Label Uncertainty", "H[Y|X]", "uncertainty of the label, given the input: noise in the labels"),
    Named(
        "Encoding Uncertainty", "H[Z|X]", "uncertainty of the latent, given the input: noise in the encoder"
    ),
    Named(
        "Decoder Uncertainty",
        "H[Y|Z]",
        "uncertainty of the label, given the latent: loss of the best decoder",
    ),
    Named("Reverse Decoder Uncertainty", "H[Z|Y]", "uncertainty of the latent, given the label"),
    Named(
        "Relevant Information", "I[X;Y]", "information of the input about the label: all that can be learnt"
    ),
    Named("Preserved Information", "I[X;Z]", "information of the latent about the input, useful or not"),
    Named("Preserved Relevant Information", "I[Y;Z]", "information of the latent about the label"),
    Named(
        "Residual Information",
        "I[X;Y|Z]",
        "information about the label that the input has and the latent lacks",
    ),
    Named("Redundant Information", "I[X;Z|Y]", "information of the latent about the input beyond the label"),
    Named("Nuisance", "H[X|Y]", "information of the input that the label lacks"),
)
"""The quantities in the order of the library's fields; Nuisance, which needs H[X], comes last."""

IDENTITIES: Mapping[int, str] = {
    6: "I[X;Y] = I[X;Y|Z] + I[Y;Z]",
    7: "I[X;Z] = I[X;Z|Y] + I[Y;Z]",
    8: "H[Y|Z] = I[X;Y|Z] + H[Y|X]",
    9: "H[Z|Y] = I[X;Z|Y] + H[Z|X]",
    10: "H[X|Y] = H[X|Y,Z] + I[X;Z]",
    11: "H[Y] = H[Y|X] + I[Y;Z] + I[X;Y|Z]",
    12: "H[Z] = H[Z|X] + I[Y;Z] + I[X;Z|Y]",
    13: "I[X;Y] = H[Y] - H[Y|X]",
    14: "I[X;Z] = H[Z] - H[Z|X]",
    15: "I[X;Y|Z] = H[Y|Z] - H[Y|X]",
    16: "I[X;Z|Y] = H[Z|Y] - H[Z|X]",
    17: "I[Y;Z] = H[Y] - H[Y|Z]",
    18: "I[Y;Z] = H[Z] - H[Z|Y]",
}
"""Kirsch et al.'s Appendix A.1, by equation number, as printed."""
CORRECTED = "H[X|Y] = H[X|Y,Z] + I[X;Z|Y]"
"""Eq. 10 with the missing condition on Y."""


class Parts(NamedTuple):
    """Parts of a symbol: the groups of variables left of the bar, and all variables right of it."""

    targets: tuple[frozenset[str], ...]
    given: frozenset[str]


def parts(symbol: str) -> Parts:
    """Return the parts of a symbol such as ``H[Y|X]``, ``H[X|Y,Z]`` or ``I[X;Z|Y]``.

    Raises
    ------
    ValueError
        If the symbol is not of the form ``H[..]``, with one group, or ``I[..;..]``, with several.
    """
    inside, _, condition = symbol[2:-1].partition("|")
    targets = tuple(frozenset(group.split(",")) for group in inside.split(";"))
    given = frozenset(condition.split(",")) if condition else frozenset()
    known = all(group <= set(VARIABLES) for group in (*targets, given))
    kind = "H[" if len(targets) == 1 else "I["
    if not (known and symbol.startswith(kind) and symbol.endswith("]")):
        raise ValueError(f"symbol is {symbol!r}; expected one such as H[Y|X], H[X|Y,Z] or I[X;Z|Y]")
    return Parts(targets, given)


def atoms(symbol: str) -> frozenset[str]:
    r"""Return the atoms whose union is a quantity.

    Notes
    -----
    :math:`H[A|B] = \mu^*(A - B)`, :math:`I[A_1; \dots; A_n|B] = \mu^*(\bigcap_i A_i - B)`, and a group of
    variables is the union of their sets.

    References
    ----------
    Yeung 1991; Kirsch et al. 2020, Section 2.1.
    """
    targets, given = parts(symbol)
    return frozenset(
        atom for atom in ATOMS if all(group & set(atom) for group in targets) and not given & set(atom)
    )


def symbol_of(atom: str) -> str:
    """Return an atom's symbol, which has every variable on one side of the bar."""
    given = ",".join(name for name in VARIABLES if name not in atom)
    return f"{'I' if len(atom) > 1 else 'H'}[{';'.join(atom)}{'|' + given if given else ''}]"


def terms(side: str) -> list[tuple[int, str]]:
    """Return sign and symbol of each term on one side of an identity."""
    found, sign = [], 1
    for word in side.split():
        if word in "+-":
            sign = 1 if word == "+" else -1
        else:
            found.append((sign, word))
    return found


def difference(identity: str) -> dict[str, int]:
    """Return how much more often each atom is on the left of an identity than on the right, without zeros.

    If the result is empty, the identity holds for all joint distributions; if only :data:`EMPTY` is left, it
    holds for Markov chains.
    """
    left, right = identity.split(" = ")
    count: dict[str, int] = dict.fromkeys(ATOMS, 0)
    for side, sense in ((left, 1), (right, -1)):
        for sign, symbol in terms(side):
            for atom in atoms(symbol):
                count[atom] += sense * sign
    return {atom: times for atom, times in count.items() if times}


def value(symbol: str, joint: Float64[Tensor, "x y z"]) -> float:
    r"""Return a quantity of a joint distribution of X, Y and Z, in nats, from entropies of marginals.

    Notes
    -----
    :math:`I[A_1;\dots;A_n|B] = -\sum_{\emptyset\ne S} (-1)^{|S|} H[A_S|B]`, over the sets S of groups, with
    :math:`H[A|B] = H[A,B] - H[B]`. For one group that is the entropy, for two the mutual information.
    """
    targets, given = parts(symbol)
    total = 0.0
    for size in range(1, len(targets) + 1):
        for chosen in combinations(targets, size):
            total -= (-1) ** size * (_entropy(joint, given.union(*chosen)) - _entropy(joint, given))
    return total


def _entropy(joint: Float64[Tensor, "x y z"], kept: Iterable[str]) -> float:
    summed = [axis for axis, name in enumerate(VARIABLES) if name not in kept]
    return float(torch.special.entr(joint.sum(dim=summed) if summed else joint).sum())


def sides(identity: str, joint: Float64[Tensor, "x y z"]) -> tuple[float, float]:
    """Return both sides of an identity on a joint distribution, in nats."""
    left, right = identity.split(" = ")
    first, second = (
        sum(sign * value(symbol, joint) for sign, symbol in terms(side)) for side in (left, right)
    )
    return first, second


def measure(joint: Float64[Tensor, "x y z"]) -> dict[str, float]:
    """Return the signed measure of each atom on a joint distribution, in nats."""
    return {atom: value(symbol_of(atom), joint) for atom in ATOMS}


def markov_chain(
    *, inputs: int = 6, labels: int = 3, latents: int = 4, concentration: float = 1.0, seed: int = 0
) -> Float64[Tensor, "x y z"]:
    """Return a random joint distribution in which Y and Z are independent given X.

    Parameters
    ----------
    inputs, labels, latents
        Numbers of values of X, Y and Z.
    concentration
        Concentration of the Dirichlet distributions from which p(y|x) and p(z|x) are drawn: 1 is uniform over
        all distributions, smaller values make labels and latents more certain. p(x) is always drawn with 1.
    seed
        Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    x = rng.dirichlet(np.ones(inputs))
    y, z = (rng.dirichlet(np.full(size, concentration), inputs) for size in (labels, latents))
    return torch.from_numpy(x[:, None, None] * y[:, :, None] * z[:, None, :])


def exclusive_or() -> Float64[Tensor, "x y z"]:
    """Return the joint distribution of two fair coins X and Z, and of Y, which says whether they differ."""
    joint = torch.zeros(2, 2, 2, dtype=torch.float64)
    for x in range(2):
        for z in range(2):
            joint[x, x ^ z, z] = 0.25
    return joint


def in_a_chain(symbol: str) -> list[str]:
    """Return a quantity's atoms without :data:`EMPTY`, which is zero in a Markov chain Y - X - Z."""
    return sorted(atoms(symbol) - {EMPTY}, key=ATOMS.index)


def atomic() -> dict[str, Named]:
    """Return the quantity that each atom is in a Markov chain; H[X|Y,Z] has a symbol but no name."""
    named = {found[0]: one for one in NAMED if len(found := in_a_chain(one.symbol)) == 1}
    return {
        atom: named.get(atom, Named("", symbol_of(atom), "information of the input that neither other has"))
        for atom in ATOMS
        if atom != EMPTY
    }


def reading_guide() -> pd.DataFrame:
    """Return one row per named quantity: symbol, atoms in a Markov chain Y - X - Z, and meaning."""
    atom = atomic()
    rows = {}
    for one in NAMED:
        found = in_a_chain(one.symbol)
        rows[one.name] = {
            "symbol": one.symbol,
            "atoms": "itself" if len(found) == 1 else " + ".join(atom[part].symbol for part in found),
            "in words": one.words,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")


def identity_table(joint: Float64[Tensor, "x y z"]) -> pd.DataFrame:
    """Return one row per identity of Appendix A.1 and the corrected Eq. 10: both sides, and when it holds.

    Returns
    -------
    DataFrame
        Columns ``identity``; ``left`` and ``right`` in nats; ``residual``, left minus right; ``holds``:
        "always", "chain" (if I[Y; Z | X] = 0) or "no". The index is the equation's number.
    """
    listed: dict[str, str] = {}
    for number, identity in IDENTITIES.items():
        listed[str(number)] = identity
        if number == 10:
            listed["10, corrected"] = CORRECTED
    rows = {}
    for number in listed:
        left, right = sides(listed[number], joint)
        left_over = set(difference(listed[number]))
        rows[number] = {
            "identity": listed[number],
            "left": left,
            "right": right,
            "residual": left - right,
            "holds": "always" if not left_over else "chain" if left_over == {EMPTY} else "no",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("Eq.")
