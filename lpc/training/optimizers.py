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
"""Beginning of the names of the last classifier's parameters, which LPC Appendix C exempts from the decay."""
_OF_LATENT = {"head.penultimate.weight": -2, "head.penultimate.bias": -1, f"{CLASSIFIER}weight": -1}
"""Parameters with the latent's nodes along a dimension, and that dimension, counted from the end."""
_TURNS = 0x7EA1
"""Offset from a run's seed to that of its turn, so that nothing else is drawn from the same seed."""


def adamw(
    named: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float, on_gpu: bool
) -> torch.optim.AdamW:
    """Return a fused AdamW with two groups: the last classifier's parameters, and all others.

    Parameters
    ----------
    named
        Parameters by name.
    weight_decay
        Weight decay of both groups.
    on_gpu
        Whether a step can be recorded as a CUDA graph: every group's learning rate is then a tensor on the
        parameters' device, which a recorded step reads anew.
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
        Schedule with the optimizer and its weight decay.
    named
        Parameters by name.
    on_gpu
        Whether a step can be recorded as a CUDA graph, as in :func:`adamw`.
    seed
        Seed of the run, from which the turn of ``adamw_turned`` is drawn.
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
        Schedule with the optimizer and its weight decay.
    stacked
        Stacked parameters by name; the first dimension is the run.
    seeds
        Seed of each run.
    graphed
        Whether a step is recorded as a CUDA graph: everything it computes with, the step count included, then
        lies on the device.
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
    """Return the turn of ``adamw_turned``, whose coordinates are the turn times the latent.

    Parameters
    ----------
    seed
        Seed of the run.
    width
        Number of nodes of the latent.
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
        Optimizer from :func:`of_run`.
    rates
        Learning rates of the last classifier and of all other parameters.
    """
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the moments and counts of steps that an optimizer of the same parameters has saved.

    Rates and settings stay those of the optimizer: a saved group would bring the rates of the device on which
    it was saved, and the state of older runs holds one tensor for both groups.

    Parameters
    ----------
    optimizer
        Optimizer of a single run or of a cohort.
    state
        Saved state, from the ``state_dict`` of an optimizer of the same parameters.
    """
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state["state"]})
