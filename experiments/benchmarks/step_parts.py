"""Where training time on a CPU goes: products, batch norm, activations, the optimizer, Python."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from torch.profiler import ProfilerActivity, profile

from experiments.benchmarks.sizes import Size
from experiments.benchmarks.training_programs import digits_cohort, first_run, name_of
from experiments.studies.image_shapes import random_images
from lpc.specs import RunSpec
from lpc.training import trainer

PRODUCTS = "convolutions, matrix products"
PYTHON = "Python, between operations"
OTHERS = "all other operations"
KINDS: Mapping[str, str] = {
    PRODUCTS: r"conv|::(add|b|badd)?mm\b|linear",
    "batch norm": r"batch_?norm",
    "activations": r"silu|relu",
    "optimizer": r"optimizer|adam|addcdiv|addcmul|lerp|_foreach",
}
"""For each kind, parts of the names, in lower case, that PyTorch's profiler gives its operations; the first
kind that fits counts."""


def kind_of(name: str) -> str:
    """Return the kind of an operation, given its name in PyTorch's profiler."""
    lower = name.lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, lower)), OTHERS)


def parts(program: Callable[[], Any]) -> dict[str, float]:
    """Return the share of each kind of operation in the wall time of a program that has warmed up.

    Parameters
    ----------
    program
        Function that is called twice; the second call is profiled. Its operations must run on the CPU.

    Returns
    -------
    dict of str to float
        Shares of :data:`KINDS`, :data:`OTHERS` and :data:`PYTHON`, which is the time outside all operations,
        including the profiler's own work. They add up to 1.
    """
    program()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler's library writes every step to stderr
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        program()
        wall = time.perf_counter() - began
    seconds = dict.fromkeys((*KINDS, OTHERS), 0.0)
    for event in profiler.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    taken = sum(seconds.values())
    wall = max(wall, taken)
    return {
        **{kind: value / wall for kind, value in seconds.items()},
        PYTHON: 1 - taken / wall,
    }


def parts_table(size: Size) -> pd.DataFrame:
    """Return where the time goes for a small ResNet in both precisions, and for MLPs that train together.

    Parameters
    ----------
    size
        Sizes of the timed work.

    Returns
    -------
    pandas.DataFrame
        One column for each; the last row says how many times faster training would be if everything except
        products took no time.
    """
    columns = {}
    for together in (
        [first_run("fashion-cpu", size, precision="float32")],
        [first_run("fashion-cpu", size, precision="bfloat16")],
        digits_cohort(size),
    ):
        found = parts(_epoch(together, size))
        rows = {kind: f"{share:.0%}" for kind, share in found.items()}
        columns[name_of(together)] = {**rows, "limit: products alone": f"{1 / found[PRODUCTS]:.1f} times"}
    return pd.DataFrame(columns)


def _epoch(together: Sequence[RunSpec], size: Size) -> Callable[[], Any]:
    images = (
        size.digits if len(together) > 1 else max(size.training_images // 2, together[0].train.batch_size)
    )
    return trainer(together, random_images(together[0].data, images)).train_epoch
