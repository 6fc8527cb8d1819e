"""Networks from outside the library: their state is restored after a call, their output becomes logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class _Buffer(NamedTuple):
    owner: nn.Module
    name: str
    value: Tensor
    copy: Tensor


class Snapshot:
    """Modes, buffers and ``requires_grad`` of some modules, saved to be restored.

    Parameters
    ----------
    frozen
        Whether parameters lose ``requires_grad`` until then: gradients with respect to images do not need it,
        and nothing adds to ``grad`` or triggers an optimizer hooked to it.
    """

    def __init__(self, *, frozen: bool = False) -> None:
        self.modules: dict[nn.Module, bool] = {}
        self._frozen = frozen
        self._buffers: list[_Buffer] = []
        self._trained: dict[nn.Parameter, bool] = {}

    def add(self, module: nn.Module) -> None:
        """Save the present state of a module and all modules within it, except those already saved."""
        for part in module.modules():
            if part in self.modules:
                continue
            self.modules[part] = getattr(part, "training", False)
            for name, value in part.named_buffers(recurse=False):
                if not is_lazy(value):
                    self._buffers.append(_Buffer(part, name, value, value.detach().clone()))
            for parameter in part.parameters(recurse=False):
                self._trained.setdefault(parameter, parameter.requires_grad)
                if self._frozen and parameter.requires_grad and _settable(parameter):
                    parameter.requires_grad_(False)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters."""
        return list(self._trained)

    def moved(self) -> str | None:
        """Return the name of a changed floating-point buffer, or None."""
        floating = [buffer for buffer in self._buffers if buffer.copy.is_floating_point()]
        changed = _changed(floating)
        return f"{changed[0].name} of a {type(changed[0].owner).__name__}" if changed else None

    def restore(self) -> None:
        """Restore everything."""
        for module, training in self.modules.items():
            if getattr(module, "training", False) != training:
                module.training = training  # not train(), which would reach inner modules
        for buffer in _changed(self._buffers):
            with torch.no_grad():
                buffer.value.copy_(buffer.copy)
            setattr(buffer.owner, buffer.name, buffer.value)
        for parameter, trained in self._trained.items():
            if parameter.requires_grad != trained and _settable(parameter):
                parameter.requires_grad_(trained)


def _settable(parameter: nn.Parameter) -> bool:
    return parameter.is_leaf and not parameter.is_inference()


def _changed(buffers: list[_Buffer]) -> list[_Buffer]:
    """Return the changed ones. The program waits for a GPU once, not once per buffer."""
    changed: dict[int, bool] = {}
    asked: dict[torch.device, dict[int, Tensor]] = {}
    for place, buffer in enumerate(buffers):
        now = getattr(buffer.owner, buffer.name, None)
        if now is None or now is not buffer.value:
            changed[place] = True
        elif now.is_meta:
            continue
        elif now.device.type == "cpu":
            changed[place] = not torch.equal(now, buffer.copy) and bool(_differ(now, buffer.copy))
        else:
            asked.setdefault(now.device, {})[place] = _differ(now, buffer.copy)
    for found in asked.values():
        changed |= dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
    return [buffer for place, buffer in enumerate(buffers) if changed.get(place, False)]


def _differ(now: Tensor, copy: Tensor) -> Tensor:
    """Whether any entry differs; NaN equals NaN."""
    if now.shape != copy.shape:
        return torch.ones((), dtype=torch.bool, device=now.device)
    return ((now != copy) & ~((now != now) & (copy != copy))).any()


def check_network(model: object) -> None:
    """Raise ValueError unless a model is a torch network, whose layers can be watched."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is {described(model)}; expected a torch.nn.Module")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode; afterwards every module within it is in its former mode.

    ``model.train(model.training)`` would not do: it would also set frozen parts to training.

    Parameters
    ----------
    model
        Network; its buffers and ``requires_grad`` are left as they were, too.
    """
    kept = Snapshot()
    kept.add(model)
    try:
        model.eval()
        yield
    finally:
        kept.restore()


def logits_of(output: object) -> Tensor:
    """Return the logits in the output of a network.

    Parameters
    ----------
    output
        A tensor; an object with an attribute ``logits``, such as :class:`~lpc.heads.HeadOutput` or the output
        of a transformers model; or a mapping with a key ``"logits"``.

    Raises
    ------
    ValueError
        For any other output; the message says what it is and how to cure it.
    """
    found = output
    if not isinstance(found, Tensor):
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor) and found.is_floating_point():
        return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
    raise ValueError(
        f"the network returned {described(output)}; expected logits, as a tensor of floats or as `logits` in "
        f"an object or a dict; {_cure(output)}"
    )


def described(value: object) -> str:
    """Return a description of a network's output."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {', '.join(map(repr, value)) or 'nothing in it'}"
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None)
        parts = names or [described(part) if isinstance(part, Tensor) else _named(part) for part in value]
        return f"a {type(value).__name__} of ({', '.join(parts)})"
    return _named(value)


def _named(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _cure(output: object) -> str:
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return "for the first of several: lambda x: model(x)[0]"
    if isinstance(output, Mapping) and output:
        return f"for one of several: lambda x: model(x)[{next(iter(output))!r}]"
    return "as in: lambda x: model(x).logits"
