"""Coupled and decoupled weight decay beside the penalty, on free latents and on recorded networks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from experiments.reporting.intervals import interval
from experiments.reporting.tables import number
from lpc.extinction import decayed_gap, extinction_gamma

COUPLED, DECOUPLED = "coupled (Adam)", "decoupled (AdamW)"
DECAYS: dict[str, type[torch.optim.Optimizer]] = {COUPLED: torch.optim.Adam, DECOUPLED: torch.optim.AdamW}
"""Optimizers with coupled decay, which is part of the gradient, and with decoupled decay, which is not."""


def free_minimum(
    gamma: float, *, weight_decay: float, classes: int = 10, width: int | None = None, seed: int = 0
) -> dict[str, float]:
    r"""Return measures of free latents and a free classifier at the minimum of loss plus penalty plus decay.

    Parameters
    ----------
    gamma
        Weight of the squared norm, in Eq. 3's convention.
    weight_decay
        Coefficient :math:`\lambda` of :math:`\tfrac\lambda2\lVert W\rVert^2`.
    classes, width
        Numbers of classes K and of nodes P; None: as many nodes as classes.
    seed
        Seed of the random start, for L-BFGS in float64.

    Returns
    -------
    dict
        Values ``gap`` (the true logit minus the mean of the others, for the class where this is smallest),
        ``gap_law`` (:func:`lpc.extinction.decayed_gap`, for at least K - 1 nodes), ``rms`` of the latents,
        ``cross_entropy``, and ``logits``, the largest deviation of a logit from the mean of its column.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = classes, classes if width is None else width
    latent, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    label = torch.arange(classes)
    optimizer = torch.optim.LBFGS(
        [latent, weight], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(latent @ weight.T, label) + gamma * latent.square().sum(1).mean()
        value = value + weight_decay / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return _found(latent, weight) | {
        "gap_law": decayed_gap(gamma, weight_decay=weight_decay, classes=classes)
    }


@torch.no_grad()
def _found(latent: torch.Tensor, weight: torch.Tensor) -> dict[str, float]:
    logits, classes = latent @ weight.T, len(weight)
    true = logits.diagonal()
    gap = true - (logits.sum(1) - true) / (classes - 1)
    return {
        "gap": float(gap.min()),
        "rms": float(latent.square().mean().sqrt()),
        "cross_entropy": float(cross_entropy(logits, torch.arange(classes))),
        "logits": float((logits - logits.mean(dim=1, keepdim=True)).abs().max()),
    }


def across(
    *,
    classes: Sequence[int] = (3, 10, 30),
    widths: Sequence[int] = (2, 8, 30),
    decays: Sequence[float] = (5e-4, 5e-3, 5e-2),
    shares: Sequence[float] = (0.8, 1.25),
) -> pd.DataFrame:
    """Return the minimum of free latents on both sides of extinction.

    Parameters
    ----------
    classes, widths, decays
        Values of K, of P and of the coupled decay. The first decay is combined with every K and P, the others
        with the second K and P.
    shares
        Ratios of gamma to extinction's gamma.

    Returns
    -------
    DataFrame
        One row per K, P, decay and share. Columns ``classes``, ``width``, ``weight_decay``, ``gamma``,
        ``product`` (gamma times the decay), ``share``, and the values of :func:`free_minimum`.
    """
    settings = [(k, p, decays[0]) for k in classes for p in widths]
    settings += [(classes[1], widths[1], decay) for decay in decays[1:]]
    rows = []
    for k, p, decay in settings:
        threshold = extinction_gamma(weight_decay=decay, classes=k)
        for share in shares:
            gamma = share * threshold
            rows.append(
                {"classes": k, "width": p, "weight_decay": decay, "gamma": gamma, "product": gamma * decay}
                | {"share": share}
                | free_minimum(gamma, weight_decay=decay, classes=k, width=p)
            )
    return pd.DataFrame(rows)


def trained_free(
    *,
    weight_decay: float,
    shares: Sequence[float] = (0.5, 2.0, 20.0),
    classes: int = 10,
    width: int = 8,
    steps: int = 3000,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> pd.DataFrame:
    """Train free latents and a classifier, with either kind of decay on the classifier.

    Parameters
    ----------
    weight_decay
        Weight decay of both optimizers.
    shares
        Ratios of gamma to extinction's gamma with coupled decay.
    classes, width
        Numbers of classes K and of nodes P.
    steps, learning_rate, seed
        Number of steps, learning rate and seed of the training.

    Returns
    -------
    DataFrame
        Columns ``decay``, ``share``, ``gamma``, ``gap``, ``rms`` of the latents, ``cross_entropy``,
        ``logits``.
    """
    gamma = torch.tensor(shares, dtype=torch.float64) * extinction_gamma(
        weight_decay=weight_decay, classes=classes
    )
    generator, label = torch.Generator().manual_seed(seed), torch.arange(classes).repeat(len(shares))
    start = [torch.randn(classes, width, generator=generator, dtype=torch.float64) for _ in range(2)]
    rows = []
    for (
        kind,
        optimizer,
    ) in DECAYS.items():  # both optimizers treat every number separately, so all shares train at once
        latent, weight = (one.repeat(len(shares), 1, 1).requires_grad_() for one in start)
        groups = [
            {"params": [latent], "weight_decay": 0.0},
            {"params": [weight], "weight_decay": weight_decay},
        ]
        steps_of = optimizer(groups, lr=learning_rate)  # type: ignore[call-arg]
        for _ in range(steps):
            loss = cross_entropy((latent @ weight.mT).flatten(0, 1), label) * len(shares)
            loss = loss + (gamma * latent.square().sum(2).mean(1)).sum()
            steps_of.zero_grad()
            loss.backward()
            steps_of.step()
        for place, share in enumerate(shares):
            of = {"decay": kind, "share": share, "gamma": float(gamma[place])}
            rows.append(of | _found(latent[place], weight[place]))
    return pd.DataFrame(rows)


def network_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the recorded networks on either side of extinction: means over seeds with 95 % intervals.

    Parameters
    ----------
    runs
        Runs of profile ``extinction``, one row per run.
    """
    rows = {}
    kinds = {"adam": COUPLED, "adamw": DECOUPLED}
    for _, own in runs.groupby("architecture", sort=False):
        first = own.iloc[0]
        decay, gamma = float(first["train.weight_decay"]), float(first["train.gamma_maximum"])
        share = gamma / extinction_gamma(weight_decay=decay, classes=10)
        rows[kinds[str(first["train.optimizer"])], f"{decay:g}", f"{gamma:g}"] = {
            "γλ": number(gamma * decay),
            "γ over extinction's": f"{share:g}",
            "training accuracy": str(interval(own["accuracy"].tolist())),
            "tr Σ_W / tr Σ_B": str(interval(own["trace_ratio"].tolist(), ratio=True)),
            "rms of the latents": str(interval(own["rms"].tolist(), ratio=True)),
            "n": str(len(own)),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["decay", "λ", "γ"])
    return table
