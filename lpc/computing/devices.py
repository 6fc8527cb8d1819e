"""The devices of this machine."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import torch

from lpc.errors import MissingGPU

ASKING = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")
"""Variables by which a user or SLURM reserves GPUs for a process; the last one gives their number."""
NOT_ASKING = ("", "-1", "NoDevFiles", "void", "none")
"""Values of these variables that reserve no GPU."""
DRIVER = Path("/proc/driver/nvidia/version")


def default_device(given: torch.device | str | None = None) -> torch.device:
    """Return the device to compute on: the given one, else the GPU if there is one, else the CPU.

    Parameters
    ----------
    given
        Device asked for; None: the one in the variable ``LPC_DEVICE`` or, if it is not set, the GPU if there
        is one. The CPU replaces the GPU only if nobody has asked for a GPU.

    Raises
    ------
    MissingGPU
        If a GPU was asked for, by ``given``, ``LPC_DEVICE`` or a variable that reserves GPUs
        (:data:`ASKING`), and torch does not find one.

    Warns
    -----
    UserWarning
        If the CPU is used although the machine has an NVIDIA driver.
    """
    given = given or os.environ.get("LPC_DEVICE") or None
    if given is not None:
        device = torch.device(given)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise MissingGPU(f"the device is {str(device)!r}, but {_why()}")
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    asked = _gpus_asked_for()
    if asked:
        raise MissingGPU(f"GPUs were asked for ({asked}), but {_why()}; LPC_DEVICE=cpu computes on the CPU")
    if DRIVER.exists():
        warnings.warn(f"computing on the CPU: {_why()}", stacklevel=2)
    return torch.device("cpu")


def _gpus_asked_for() -> str:
    """Return the settings of the environment that reserve GPUs for this process; empty: there are none."""
    asking = {name: os.environ.get(name, "") for name in ASKING}
    if asking[ASKING[-1]] == "0":
        del asking[ASKING[-1]]
    return ", ".join(f"{name}={value}" for name, value in asking.items() if value not in NOT_ASKING)


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver; None if none is loaded."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER.read_text())
    except OSError:
        return None
    return found[0] if found else None


def _why() -> str:
    """Return why torch finds no GPU, as far as can be told: the driver and the CUDA of the wheel."""
    built = torch.version.cuda
    wheel = f"torch {torch.__version__} is built for CUDA {built}"
    if built is None:
        return f"torch {torch.__version__} is built without CUDA: install a wheel with it"
    driver = driver_version()
    if driver is None:
        return f"torch finds no GPU: no NVIDIA driver is loaded ({wheel})"
    return (
        f"torch finds no GPU: driver {driver} is too old, or no card is visible to this process ({wheel}; "
        "nvidia-smi names the newest CUDA that the driver runs)"
    )


def default_workers() -> int:
    """Return one process per core that this process may use, or one if there is a GPU.

    In a SLURM job that asked for cores, their number counts: not every cluster binds a job to its request.
    """
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK") or cores))
