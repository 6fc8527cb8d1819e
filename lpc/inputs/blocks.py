"""The blocks of a network with measurable outputs, found by one call of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lpc.computing.generators import as_they_were
from lpc.inputs.loaders import Unpack, checked_batches, to_device
from lpc.inputs.networks import described, evaluating

_SEQUENCES = (nn.Sequential, nn.ModuleList)
WHOLE = 0.9
"""Share of the parameters from which a block counts as a shell around the network."""


class _Output(NamedTuple):
    rows: bool
    said: str


def blocks(
    model: nn.Module, batches: Iterable[Any], unpack: Unpack | None
) -> tuple[list[str], dict[str, str]]:
    """Return the names of a network's blocks with measurable outputs, and the reasons against the others.

    Blocks are the children of the network. A child is replaced by its own children if it is a sequence, if it
    holds nearly all parameters (a wrapper, such as the network in a LightningModule), or if it returns no
    tensor, as models of transformers do, while its children return tensors.

    Parameters
    ----------
    model
        Network to look through; it is called once on the first batch, in evaluation mode, and left as it was.
    batches
        Loader, whose first batch is used.
    unpack
        Function from a batch to (input, labels), as in :func:`~lpc.latents.collect_latents`.
    """
    made = _outputs(model, batches, unpack)
    total = sum(value.numel() for value in model.parameters())
    left_out: dict[str, str] = {}

    def within(module: nn.Module, prefix: str) -> list[str]:
        kept = []
        for short, child in module.named_children():
            name, outputs = f"{prefix}{short}", made[f"{prefix}{short}"]
            whole = total > 0 and sum(value.numel() for value in child.parameters()) > WHOLE * total
            once = len(outputs) == 1 and outputs[0].rows
            inner = next(child.children(), None) is not None
            if inner and (isinstance(child, _SEQUENCES) or whole or not once):
                before = dict(left_out)
                found = within(child, f"{name}.")
                if found or isinstance(child, _SEQUENCES):
                    kept += found
                    continue
                left_out.clear()  # nothing within it either: the block itself is named
                left_out.update(before)
            if once:
                kept.append(name)
            else:
                left_out[name] = _reason(outputs)
        return kept

    return within(model, ""), left_out


def _reason(outputs: list[_Output]) -> str:
    if len(outputs) == 1:
        return f"returned {outputs[0].said}"
    return f"ran {len(outputs)} times" if outputs else "did not run"


def _outputs(model: nn.Module, batches: Iterable[Any], unpack: Unpack | None) -> dict[str, list[_Output]]:
    """Return every module's output for two points of the first batch."""
    outputs: dict[str, list[_Output]] = {name: [] for name, _ in model.named_modules(remove_duplicate=False)}
    given, label = next(iter(checked_batches(batches, unpack, limit=2)))

    def keep(name: str, output: Any) -> None:
        rows = isinstance(output, Tensor) and output.dim() >= 2 and len(output) == len(label)
        outputs[name].append(_Output(rows, described(output)))

    device = next((value.device for value in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    try:
        with torch.no_grad(), as_they_were(), evaluating(model):
            given = to_device(given, device)
            model(**given) if isinstance(given, Mapping) else model(given)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
