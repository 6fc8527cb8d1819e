"""Whether ``torch.compile`` works on a device: tried once in a process."""

from __future__ import annotations

import functools
import subprocess
import warnings

import torch
from torch.utils._triton import has_triton


@functools.cache
def compiles(device: torch.device) -> bool:
    """Return whether torch compiles for a device: Triton supports it, and a small function was compiled.

    Warns
    -----
    UserWarning
        If torch cannot compile, with the reason: a card that Triton does not support, or no C compiler on the
        node.
    """
    if not has_triton():
        reason = "Triton is not installed, or does not support this card"
    else:
        try:
            torch.compile(torch.sin, dynamic=False)(torch.zeros(16, device=device))
            return True
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            said = str(error).strip() or "no message"
            reason = f"{type(error).__name__}: {said.splitlines()[0]}"
    warnings.warn(f"networks are trained uncompiled, which is slower: {reason}", stacklevel=3)
    return False
