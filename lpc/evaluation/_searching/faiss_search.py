"""Candidates for nearest neighbours in float32 by faiss, if it is installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lpc.computing.threads import threads_for
from lpc.errors import MissingExtra
from lpc.evaluation._searching.frames import Frame, Norm
from lpc.evaluation._searching.neighbour_search import SPARE, Candidates

MOST_ON_A_GPU = 2048
"""Largest number of neighbours that faiss finds on a GPU, the point itself included."""
MOST_K = MOST_ON_A_GPU - 1 - SPARE
"""The largest k for which faiss is used on a GPU."""
_WHEELS = ("faiss-cpu", "faiss-gpu")
_ONE_ONLY = "faiss-cpu and faiss-gpu exclude each other: each writes over the other's files"


def module_for(device: torch.device) -> Any:
    """Import and return the module; it is imported late because it brings its own OpenMP and BLAS.

    Parameters
    ----------
    device
        Device of the points.

    Raises
    ------
    MissingExtra
        If faiss is not installed, both of its wheels are, or only the CPU wheel is and the points are on a
        GPU.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(
            "method 'faiss' needs faiss, not installed here; it comes with the extra 'gpu' (faiss-gpu, for "
            f"Linux on x86-64) or 'faiss' (faiss-cpu): pip install '.[gpu]'. {_ONE_ONLY}"
        ) from error
    wheels = _installed()
    if len(wheels) > 1:
        raise MissingExtra(
            f"method 'faiss': {' and '.join(wheels)} are both installed. {_ONE_ONLY}; uninstall both, then "
            "pip install '.[gpu]' or '.[faiss]'"
        )
    if device.type == "cpu":
        return faiss
    if device.type != "cuda" or not hasattr(faiss, "StandardGpuResources"):
        raise MissingExtra(
            f"method 'faiss' for points on {device} needs faiss-gpu; what is installed here "
            f"({', '.join(wheels) or 'faiss'} {faiss.__version__}) computes on the CPU alone: "
            f"pip uninstall faiss-cpu, then pip install '.[gpu]'. {_ONE_ONLY}"
        )
    importlib.import_module("faiss.contrib.torch_utils")  # lets it take tensors, on the current stream
    return faiss


@lru_cache
def _installed() -> list[str]:
    """Return which of the wheels are installed."""
    found = []
    for wheel in _WHEELS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(wheel)
            found.append(wheel)
    return found


def on_gpus() -> bool:
    """Whether faiss is installed and computes on GPUs; it is imported only if its GPU wheel is installed."""
    return _installed() == ["faiss-gpu"] and hasattr(module_for(torch.device("cuda")), "StandardGpuResources")


def by_faiss(device: torch.device, norm: Norm) -> Candidates:
    """Return the search for candidates by faiss, on the device of the points.

    Raises
    ------
    MissingExtra
        As in :func:`module_for`.
    """
    faiss = module_for(device)
    metric = faiss.METRIC_L2 if norm == "l2" else faiss.METRIC_Linf

    def on_the_cpu(own: Tensor, frame: Frame, count: int) -> tuple[Tensor, Tensor]:
        with threads_for(own.numel() * len(frame.relative)) as threads:
            faiss.omp_set_num_threads(threads)
            value, column = faiss.knn(own.numpy(), frame.relative.numpy(), count, metric=metric)
        return torch.from_numpy(value), torch.from_numpy(column)

    if device.type == "cpu":
        return on_the_cpu
    resources = faiss.StandardGpuResources()  # 1.5 GiB of scratch memory, given back with it

    def on_a_gpu(own: Tensor, frame: Frame, count: int) -> tuple[Tensor, Tensor]:
        place = own.device.index
        return faiss.knn_gpu(resources, own, frame.relative, count, metric=metric, device=place)

    return on_a_gpu
