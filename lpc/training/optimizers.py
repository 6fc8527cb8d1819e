"""AdamW as one run uses it: the last classifier keeps its learning rate while the others decay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CLASSIFIER = "head.classifier."
"""How the names of the last classifier's parameters begin; LPC Appendix C exempts them from the decay."""


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


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Give every parameter group its learning rate for the coming steps, recorded ones included.

    Parameters
    ----------
    optimizer
        From :func:`adamw`.
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
