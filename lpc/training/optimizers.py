"""Optimizers as runs use them: the last classifier keeps its learning rate while the others decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpc.computing.sampling import random_turn
from lpc.specs import TrainSpec
from lpc.training.own_optimizers import DecoupledSGD, EquivariantAdam, Lion, TurnedAdamW

CLASSIFIER = "head.classifier."
"""How the names of the last classifier's parameters begin; LPC Appendix C exempts them from the decay."""
_OF_LATENT = {"head.penultimate.weight": -2, "head.penultimate.bias": -1, f"{CLASSIFIER}weight": -1}
"""Parameters with the latent's nodes along a dimension, and which, counted from the end."""
_TURNS = 0x7EA1
"""Added to a run's seed for its turn, so that it is not drawn from the seed of anything else."""


def adamw(
    named: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float, on_gpu: bool
) -> torch.optim.AdamW:
    """Return a fused AdamW with two groups: the last classifier's parameters, and all others.

    Parameters
    ----------
    named
        Parameters by name.
    weight_decay
        Of both groups.
    on_gpu
        Whether a step can be recorded as a CUDA graph: every group's learning rate is then a tensor of its
        own on the parameters' device, which a recorded step reads anew.
    """
    named = list(named)
    last = [value for name, value in named if name.startswith(CLASSIFIER)]  # a categorical latent has none
    rest = [value for name, value in named if not name.startswith(CLASSIFIER)]

    def rate() -> Any:
        return torch.ones((), device=rest[0].device) if on_gpu else 1.0

    # As a default of all groups it would be one tensor: the last rate written would hold for both.
    return torch.optim.AdamW(
        [{"params": last, "lr": rate()}, {"params": rest, "lr": rate()}],
        lr=rate(),
        weight_decay=weight_decay,
        fused=True,
        capturable=on_gpu,
    )


def of_run(
    train: TrainSpec, named: Iterable[tuple[str, nn.Parameter]], *, seed: int, on_gpu: bool
) -> torch.optim.Optimizer:
    """Return a run's optimizer with two groups: the last classifier's parameters, and all others.

    Parameters
    ----------
    train
        Says which, and its weight decay.
    named, on_gpu
        As in :func:`adamw`.
    seed
        Of the run; the turn of ``adamw_turned`` is drawn from it.
    """
    if train.optimizer == "adamw":
        return adamw(named, weight_decay=train.weight_decay, on_gpu=on_gpu)
    by_name = dict(named)
    device = next(iter(by_name.values())).device
    groups = [
        {
            "params": [value for name, value in by_name.items() if name.startswith(CLASSIFIER) == last],
            "lr": torch.ones((), device=device) if on_gpu else 1.0,
        }
        for last in (True, False)
    ]
    return _other(train, groups, by_name, turns=lambda width: latent_turn(seed, width), capturable=on_gpu)


def of_cohort(
    train: TrainSpec, stacked: Mapping[str, Tensor], *, seeds: Sequence[int], graphed: bool = False
) -> torch.optim.Optimizer:
    """Return the optimizer of a cohort's stacked parameters, at rate 1.

    Parameters
    ----------
    train
        Says which, and its weight decay.
    stacked
        Parameters by name, runs first.
    seeds
        Of the runs.
    graphed
        Whether a step is recorded as a CUDA graph: what it computes with lies on the device, the count of
        steps too.
    """
    values = list(stacked.values())
    if train.optimizer == "adamw":
        recordable: dict[str, Any] = {"fused": True, "capturable": True} if graphed else {}
        return torch.optim.AdamW(values, lr=1.0, weight_decay=train.weight_decay, **recordable)

    def turns(width: int) -> Tensor:
        return torch.stack([latent_turn(seed, width) for seed in seeds])

    return _other(
        train, [{"params": values, "lr": 1.0}], stacked, turns=turns, capturable=graphed, stacked=True
    )


def latent_turn(seed: int, width: int) -> Float[Tensor, "width width"]:
    """Return the turn in whose coordinates ``adamw_turned`` works: those are the turn times the latent.

    Parameters
    ----------
    seed
        Of the run.
    width
        Nodes of the latent.
    """
    generator = torch.Generator("cpu").manual_seed(seed + _TURNS)
    return random_turn(width, generator).float()


def _other(
    train: TrainSpec,
    groups: list[dict[str, Any]],
    named: Mapping[str, Tensor],
    *,
    turns: Callable[[int], Tensor],
    capturable: bool = False,
    stacked: bool = False,
) -> torch.optim.Optimizer:
    """Return any optimizer but AdamW; ``turns`` is called with the latent's nodes where one is needed."""
    shared: dict[str, Any] = {"lr": 1.0, "weight_decay": train.weight_decay}
    fused = None if stacked else True  # as AdamW; on a GPU others wait to read a rate that is a tensor
    if train.optimizer == "adam":
        return torch.optim.Adam(groups, **shared, capturable=capturable, fused=fused)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, **shared, momentum=train.momentum, fused=fused)
    if train.optimizer == "sgdw":
        return DecoupledSGD(groups, **shared, momentum=train.momentum)
    if train.optimizer == "lion":
        return Lion(groups, **shared)
    if train.optimizer == "adam_equivariant":
        return EquivariantAdam(groups, **shared, stacked=stacked)
    last = named[f"{CLASSIFIER}weight"]
    axes = {named[name]: axis for name, axis in _OF_LATENT.items() if name in named}
    return TurnedAdamW(groups, **shared, axes=axes, turn=turns(last.shape[-1]).to(last.device))


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Give every parameter group its learning rate for the coming steps, recorded ones included.

    Parameters
    ----------
    optimizer
        From :func:`of_run`.
    rates
        Of the last classifier, of all else.
    """
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the moments and counts of steps that an optimizer of the same parameters has saved.

    Rates and settings stay the optimizer's own: a saved group would bring the rates of the device that it was
    saved on, and the state of older runs holds one tensor for both groups.

    Parameters
    ----------
    optimizer
        Solo's, or a cohort's.
    state
        From its ``state_dict``.
    """
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state["state"]})
