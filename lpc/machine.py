"""The machine and the code that a result comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

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


def provenance(
    device: torch.device | None = None, *, folders: Sequence[str] = ("lpc",), packages: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what a result depends on beside its spec: code, versions, device.

    Parameters
    ----------
    device
        Where it was computed; None: the default.
    folders
        Folders of the repository that count as its code: ``dirty`` says whether they differ from the commit.
    packages
        Of which the versions are named beside those of torch, torchvision, numpy and scikit-learn.
    """
    device = device or default_device()
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    tracked = git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    changes = git("status", "--porcelain", "--", *(f":/{name}" for name in folders)) if tracked else None
    return {
        "commit": git("rev-parse", "HEAD") if tracked else None,
        "dirty": None if changes is None else bool(changes),
        "python": sys.version.split()[0],
        "versions": {
            name: metadata.version(name)
            for name in ("torch", "torchvision", "numpy", "scikit-learn", *packages)
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }
