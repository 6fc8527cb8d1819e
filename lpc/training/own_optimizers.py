"""Optimizers that torch lacks: turned AdamW, Adam without preferred axes, Lion, SGD with decoupled decay."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
"""Betas of both moments of Adam, torch's defaults."""
LION_BETAS = (0.9, 0.99)
"""Betas of Lion (Chen et al. 2023, Algorithm 2)."""
EPS = 1e-8
"""Constant added to the root of the second moment, torch's default."""


class Descent(torch.optim.Optimizer):
    r"""An optimizer with decoupled decay whose step is linear in the learning rate.

    Parameters
    ----------
    groups
        Parameters, or groups of them.
    lr
        Learning rate: a number, or a tensor that is read anew at every step.
    weight_decay
        :math:`\lambda`, the decoupled weight decay.

    Notes
    -----
    :math:`w \leftarrow (1 - \eta\lambda)\,w - \eta\,d`, with the direction d of the subclass.
    """

    def __init__(self, groups: Iterable[Any], *, lr: float | Tensor, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    direction = self.direction(value, value.grad)
                    value.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * direction)

    @abstractmethod
    def direction(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Return the step subtracted from a parameter at rate 1, and update its moments."""


class _Moments(Descent):
    def _adam(self, value: Tensor, gradient: Tensor, squared: Tensor) -> Tensor:
        """Return Adam's direction from a gradient and the value that the second moment averages."""
        state = self.state[value]
        if not state:
            state["count"] = torch.zeros((), device=value.device)
            state["mean"], state["squares"] = torch.zeros_like(gradient), torch.zeros_like(squared)
        state["count"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["squares"].lerp_(squared, 1 - BETAS[1])
        steps = state["count"].double()  # in float32, 1 - 0.999 loses five digits
        first, second = ((1 - beta**steps).to(gradient.dtype) for beta in BETAS)
        return (state["mean"] / first) / ((state["squares"] / second).sqrt() + EPS)


class EquivariantAdam(_Moments):
    r"""AdamW with one second moment per tensor: the step turns with the coordinates.

    Parameters
    ----------
    groups, lr, weight_decay
        The arguments of :class:`Descent`.
    stacked
        Whether each parameter holds one tensor per run along its first dimension, each with a moment of its
        own.

    Notes
    -----
    The second moment is the running mean of :math:`\tfrac1n\sum_i g_i^2` over a tensor's n entries, which no
    orthogonal map of them changes. A step of AdamW has about the length :math:`\eta` in every entry; here the
    root mean square over the entries is about :math:`\eta`.
    """

    def __init__(
        self, groups: Iterable[Any], *, lr: float | Tensor, weight_decay: float, stacked: bool
    ) -> None:
        super().__init__(groups, lr=lr, weight_decay=weight_decay)
        self.stacked = stacked

    def direction(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Return the step subtracted from a parameter at rate 1, and update its moments."""
        entries = list(range(1 if self.stacked else 0, gradient.dim()))
        squared = gradient.square()
        return self._adam(value, gradient, squared.mean(dim=entries, keepdim=True) if entries else squared)


class TurnedAdamW(_Moments):
    """AdamW in coordinates in which the latent is turned.

    Parameters
    ----------
    groups, lr, weight_decay
        The arguments of :class:`Descent`.
    axes
        Dimension along which a parameter has the latent's nodes, counted from the end, by parameter. Other
        parameters keep their coordinates.
    turn
        Orthogonal matrix, or one per run: the optimizer's coordinates are the turn times the latent's.

    Notes
    -----
    With z' = Q z instead of the latent z, AdamW's own step is computed for the weights around z' and turned
    back. Decoupled decay is the same in all coordinates.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        *,
        lr: float | Tensor,
        weight_decay: float,
        axes: Mapping[Tensor, int],
        turn: Tensor,
    ) -> None:
        super().__init__(groups, lr=lr, weight_decay=weight_decay)
        self.axes, self.turn = dict(axes), turn

    def direction(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Return the step subtracted from a parameter at rate 1, and update its moments."""
        axis = self.axes.get(value)
        if axis is None:
            return self._adam(value, gradient, gradient.square())
        gradient = turned(gradient, self.turn, axis=axis)
        return turned(self._adam(value, gradient, gradient.square()), self.turn.mT, axis=axis)


class Lion(Descent):
    r"""Evolved sign momentum: steps of the length of the learning rate in every entry.

    Parameters
    ----------
    groups, lr, weight_decay
        The arguments of :class:`Descent`.

    Notes
    -----
    :math:`d = \operatorname{sign}(\beta_1 m + (1 - \beta_1) g)`, then :math:`m \leftarrow \beta_2 m +
    (1 - \beta_2) g`, with the betas 0.9 and 0.99.

    References
    ----------
    Chen et al. 2023, Symbolic discovery of optimization algorithms, Algorithm 2.
    """

    def direction(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Return what is taken from a parameter at rate 1, and update its momentum."""
        state = self.state[value]
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        found = torch.lerp(gradient, state["mean"], LION_BETAS[0]).sign()
        state["mean"].lerp_(gradient, 1 - LION_BETAS[1])
        return found


class DecoupledSGD(Descent):
    r"""SGD with momentum and decoupled weight decay.

    Parameters
    ----------
    groups, lr, weight_decay
        The arguments of :class:`Descent`.
    momentum
        Momentum :math:`\mu`, at least 0 and below 1.

    Notes
    -----
    :math:`d \leftarrow \mu d + g`, as in ``torch.optim.SGD``.

    References
    ----------
    Loshchilov and Hutter 2019, Algorithm 1 (SGDW).
    """

    def __init__(
        self, groups: Iterable[Any], *, lr: float | Tensor, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(groups, lr=lr, weight_decay=weight_decay)
        self.momentum = momentum

    def direction(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Return what is taken from a parameter at rate 1, and update its momentum."""
        state = self.state[value]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        return state["momentum"].mul_(self.momentum).add_(gradient)


def turned(value: Tensor, turn: Tensor, *, axis: int) -> Tensor:
    """Return a tensor turned along one axis, with a turn of its own for every run if there are several.

    Parameters
    ----------
    value
        Bias (nodes) or weight (rows, columns), with the runs as the first dimension if there are several.
    turn
        Orthogonal matrix, shape (nodes, nodes) or (runs, nodes, nodes).
    axis
        Dimension of the nodes: -1, or -2 for some weights.
    """
    if axis == -2:
        return turn @ value
    if value.dim() < turn.dim():  # a bias
        return (turn @ value[..., None])[..., 0]
    return value @ turn.mT
