"""Outputs of named layers for a batch, one row per point, in the pass that gives the logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lpc.errors import unknown_name
from lpc.inputs.networks import described, logits_of

Pool = Literal["mean", "flatten", "first"]
"""Ways to turn feature maps and tokens into one row per point."""


class Pass(NamedTuple):
    """Latents and logits of one batch.

    Attributes
    ----------
    latent
        Latents by layer name, one row per point.
    logits
        Class scores, one row per point.
    """

    latent: dict[str, Tensor]
    logits: Tensor


class Watched:
    """A network whose layer outputs are recorded while it is called.

    Parameters
    ----------
    model
        Network in evaluation mode.
    layers
        Names of layers, as in ``model.named_modules()``; None: the latents that the network returns beside
        its logits, or else the input of the linear layer that makes the logits.
    pool
        Reduction of feature maps and tokens to one row per point; None: they are refused.

    Attributes
    ----------
    names
        Names of the layers; None: none were given.
    found
        Description of the recorded latents when no layer was given; known after the first call.
    last
        Linear layer that makes the logits from the latents, known after the first call; None: there is none.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None, pool: Pool | None) -> None:
        self.model, self.pool = model, pool
        self.names = None if layers is None else list(layers)
        self.found = ""
        self.last: nn.Module | None = None
        self._made: dict[str, list[Tensor]] = {}
        self._points = 0
        self._linear: list[tuple[str, nn.Module, Any, Any]] = []
        modules = dict(model.named_modules())
        for name in self.names or ():
            if name not in modules or not name:
                raise unknown_name("layer", name, [known for known in modules if known])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the layers; afterwards the network has no hook of ours."""
        hooks = []
        for name, module in self.model.named_modules():
            if name in (self.names or ()):
                hooks.append(module.register_forward_hook(self._keeper(name)))
            if isinstance(module, nn.Linear):
                hooks.append(module.register_forward_hook(self._linear_keeper(name, module)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keeper(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            rows = self._rows(f"layer {name!r}", output)  # now: an activation that comes next may be in place
            self._made.setdefault(name, []).append(rows)

        return keep

    def _linear_keeper(self, name: str, module: nn.Module) -> Any:
        def keep(_module: nn.Module, inputs: Any, output: Any) -> None:
            self._linear.append((name, module, inputs[0] if inputs else None, output))

        return keep

    def __call__(self, given: Any, points: int) -> Pass:
        """Call the network on a batch.

        Parameters
        ----------
        given
            Input of the network; a dict is passed by keyword.
        points
            Expected number of rows.
        """
        self._made.clear()
        self._linear.clear()
        self._points = points
        output = self.model(**given) if isinstance(given, Mapping) else self.model(given)
        logits = logits_of(output)
        made = next((item for item in reversed(self._linear) if item[3] is _raw_logits(output)), None)
        self.last = None if made is None else made[1]
        if self.names is None:
            self.found, value = self._penultimate(output, made)
            if made is None or not _same(value, made[2]):
                self.last = None
            latent = {self.found: self._rows(self.found, value)}
        else:
            latent = {name: self._once(name) for name in self.names}
        self._made.clear()
        self._linear.clear()
        if logits.dim() != 2 or len(logits) != points:
            raise ValueError(
                f"the network returned logits of shape {tuple(logits.shape)} for {points} labels; expected "
                "one row per label"
            )
        return Pass(latent, logits.detach())

    def _penultimate(self, output: Any, made: tuple[str, nn.Module, Any, Any] | None) -> tuple[str, Any]:
        own = getattr(output, "latent", None)
        if isinstance(own, Tensor):
            return "latent", own
        if made is None:
            linear = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
            raise ValueError(
                "the logits are not the output of a linear layer of the network, so its latents are "
                f"unknown: name one of model.named_modules(), as layer={(linear or ['features'])[-1]!r}"
            )
        return f"input of {made[0] or 'the network'}", made[2]

    def _once(self, name: str) -> Tensor:
        found = self._made.get(name, [])
        if len(found) != 1:
            how = "did not run" if not found else f"ran {len(found)} times"
            raise ValueError(f"layer {name!r} {how} in a pass over one batch; name a layer that runs once")
        return found[0]

    def _rows(self, who: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise ValueError(f"{who} gave {described(value)}; expected a tensor: name a layer within it")
        shape, points = tuple(value.shape), self._points
        if value.dim() == 0 or len(value) != points:
            raise ValueError(
                f"{who} gave a tensor of shape {shape} for {points} labels; expected one row per label"
            )
        if value.dim() > 2 and self.pool is None:
            raise ValueError(
                f"{who} gave a tensor of shape {shape}; expected one row per point: pass pool='mean' over "
                "positions, 'flatten' for all entries, or 'first' for the first token"
            )
        rows = _pooled(value, self.pool) if value.dim() > 2 and self.pool else value.reshape(points, -1)
        kept = rows.detach().to(torch.float64 if value.dtype == torch.float64 else torch.float32)
        return kept.clone() if kept.data_ptr() == value.data_ptr() else kept


def _same(first: Any, second: Any) -> bool:
    return isinstance(second, Tensor) and first.shape == second.shape and torch.equal(first, second)


def _raw_logits(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    return output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)


def _pooled(value: Tensor, pool: str) -> Tensor:
    if pool == "flatten":
        return value.flatten(1)
    if value.dim() == 3:  # batch, tokens, width
        return value[:, 0] if pool == "first" else value.mean(dim=1)
    if pool == "first":
        raise ValueError(f"pool is 'first', but shape {tuple(value.shape)} has no tokens; take 'mean'")
    return value.flatten(2).mean(dim=2)  # batch, channels, positions
