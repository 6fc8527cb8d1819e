"""torch's own generators: seeded for a while, then restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def as_they_were() -> Iterator[None]:
    """Put the states of torch's generators back at the end: the CPU's, and those of all GPUs in use."""
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=used):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the generators of the CPU and of one device; afterwards they are in their former state.

    Parameters
    ----------
    seed
        Seed of both generators.
    device
        Device on which numbers are drawn besides the CPU.

    Notes
    -----
    ``torch.manual_seed`` seeds every GPU, and ``torch.random.fork_rng`` restores only those it is told of:
    used together, they leave the other GPUs at the seed.
    """
    device = torch.device(device)
    with as_they_were():
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            state = torch.mps.get_rng_state()
            torch.mps.manual_seed(seed)
            try:
                yield
            finally:
                torch.mps.set_rng_state(state)
            return
        yield
