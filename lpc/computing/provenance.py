"""The code, the versions and the device that a result comes from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lpc.computing.devices import default_device, driver_version


def provenance(
    device: torch.device | None = None, *, folders: Sequence[str] = ("lpc",), packages: Sequence[str] = ()
) -> dict[str, Any]:
    """Return everything besides the spec that a result depends on: code, versions, device.

    Parameters
    ----------
    device
        Device that computed the result; None: the default.
    folders
        Folders of the repository that count as code: ``dirty`` says whether they differ from the commit.
    packages
        Packages whose versions are recorded besides torch, torchvision, numpy and scikit-learn.
    """
    device = default_device(device)
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
    on_gpu = device.type == "cuda"
    return {
        "commit": git("rev-parse", "HEAD") if tracked else None,
        "dirty": None if changes is None else bool(changes),
        "python": sys.version.split()[0],
        "versions": {
            name: metadata.version(name)
            for name in ("torch", "torchvision", "numpy", "scikit-learn", *packages)
        },
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        **({"gpu": _gpu(device)} if on_gpu else {}),
    }


def _gpu(device: torch.device) -> dict[str, str | None]:
    """Return what a GPU's numbers depend on beside torch's version: its libraries, compiler and driver."""
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    cudnn = torch.backends.cudnn.version()
    return {
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
        "driver": driver_version(),
        "triton": triton,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
    }
