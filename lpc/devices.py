"""The devices of this machine, and what they may round."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep float32 what it says on a GPU, where convolutions are otherwise rounded to TF32's 10 bits, and
    choose algorithms that repeat to the bit. Nothing changes for bfloat16 under autocast, or on a CPU.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def default_workers() -> int:
    """Return one process a core this process may use, or one where there is a GPU.

    In a job of SLURM's that asked for cores, these: not every cluster binds a job to what it asked for.
    """
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK") or cores))
