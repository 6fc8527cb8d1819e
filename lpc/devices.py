"""The devices of this machine."""

from __future__ import annotations

import os

import torch


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_workers() -> int:
    """Return one process a core this process may use, or one where there is a GPU.

    In a job of SLURM's that asked for cores, these: not every cluster binds a job to what it asked for.
    """
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK") or cores))
