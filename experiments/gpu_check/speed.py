"""Speed of training on a GPU: one run in four ways, and several at once, in one process or in several."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from experiments.benchmarks.training_crew import Crew, Way
from experiments.benchmarks.training_flops import flops, matmul_rate
from experiments.benchmarks.training_packing import mps_is_on
from experiments.benchmarks.training_tables import DTYPES
from experiments.gpu_check.amounts import Amount, Rows
from experiments.studies.image_shapes import random_images
from lpc.data import ImageSet
from lpc.specs import RunSpec
from lpc.training.compiling import compiles
from lpc.training.solo import Solo
from lpc.training.together import SideBySide

DEVICE = torch.device("cuda")
AT_ONCE = (1, 2, 3)
"""Numbers of runs that share the GPU."""
_T = TypeVar("_T")


def device(amount: Amount, seconds: float) -> Rows:
    """Yield the name of the GPU, and the rates at which it computes large matrix products."""
    del seconds
    known = torch.cuda.get_device_properties(DEVICE)
    yield (
        "GPU",
        {
            "multiprocessors": known.multi_processor_count,
            "memory (GB)": known.total_memory / 1e9,
            "MPS": mps_is_on(),
            "compiles": amount.compiled and compiles(DEVICE),
        },
    )
    for name, dtype in DTYPES.items():
        rate = matmul_rate(DEVICE, dtype, size=amount.product)
        yield f"product, {name}", {"TFLOP/s": rate / 1e12}


def alone(amount: Amount, seconds: float) -> Rows:
    """Yield images per second of a single run (plain, recorded, compiled, both), and its memory."""
    for program, compiled, graphed in (
        ("eager", False, False),
        ("graph", False, True),
        ("compiled", True, False),
        ("compiled and graph", True, True),
    ):
        for network in amount.networks:
            spec = amount.run(network)
            what = f"{_network(spec)}, {program}"
            if compiled and not _can_compile(amount):
                yield what, {"images/s": None, "note": "networks are not compiled here"}
                continue
            images = images_of(spec, amount)
            _tidy()
            before = torch.cuda.memory_allocated()
            member = Solo([spec], images, compiled=compiled, graphed=graphed)
            spent, first = epoch_seconds(member.train_epoch, amount, seconds / 16)
            held = torch.cuda.max_memory_allocated() - before
            values = _rates(spec, amount, len(images) / spent)
            yield what, {**values, "first epoch (s)": first, "memory (GB)": held / 1e9}
            del member


def together(amount: Amount, seconds: float) -> Rows:
    """Yield images per second over one, two and three runs whose steps alternate in one process."""
    compiled = _can_compile(amount)
    for network in amount.networks:
        spec, single = amount.run(network), None
        images = images_of(spec, amount)
        for count in AT_ONCE:
            _tidy()
            before = torch.cuda.memory_allocated()
            both = SideBySide([Solo([spec], images, compiled=compiled) for _ in range(count)])
            spent, _ = epoch_seconds(both.train_epoch, amount, seconds / 8)
            rate = count * len(images) / spent
            single = single or rate
            held = (torch.cuda.max_memory_allocated() - before) / 1e9
            gained = {"over one": rate / single, "memory (GB)": held}
            yield f"{_network(spec)}, {count} at once", {**_rates(spec, amount, rate), **gained}
            del both


def processes(amount: Amount, seconds: float) -> Rows:
    """Yield images per second over processes that share the GPU by MPS, if that is available."""
    if not mps_is_on():
        yield "MPS", {"images/s": None, "note": "NVIDIA's Multi-Process Service does not run here"}
        return
    spec = amount.run(amount.networks[0])
    images = amount.batches * spec.train.batch_size
    with Crew(spec, images=images, members=max(AT_ONCE), device=DEVICE.type) as crew:
        for count in AT_ONCE:
            way = Way(count, 1, 1, spec.train.precision)
            spent, _ = epoch_seconds(lambda way=way: crew.epoch(way), amount, seconds / 8)
            yield f"{_network(spec)}, {count} processes", _rates(spec, amount, count * images / spent)


def epoch_seconds(train: Callable[[], Any], amount: Amount, limit: float) -> tuple[float, float]:
    """Return the median seconds of an epoch, and those of the first, which the median leaves out.

    Parameters
    ----------
    train
        Function that trains an epoch.
    amount
        Amount of work, with the number of timed epochs.
    limit
        Seconds after which no further epoch begins; at least one is timed.
    """
    first, _ = timed(train)
    spent: list[float] = []
    while len(spent) < amount.epochs and (not spent or sum(spent) < limit):
        spent.append(timed(train)[0])
    return statistics.median(spent), first


def timed(call: Callable[[], _T]) -> tuple[float, _T]:
    """Return the seconds until the GPU has finished the work of a call, and the call's result."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


def images_of(spec: RunSpec, amount: Amount) -> ImageSet:
    """Return random images for an epoch of whole batches, on the GPU."""
    return random_images(spec.data, amount.batches * spec.train.batch_size, device=DEVICE)


def _network(spec: RunSpec) -> str:
    return spec.model.backbone.replace("resnet", "ResNet-")


def _can_compile(amount: Amount) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first section reports whether it can
        return amount.compiled and compiles(DEVICE)


def _rates(spec: RunSpec, amount: Amount, rate: float) -> dict[str, Any]:
    """Return images per second, FLOP/s, and their share of a matrix product's in the same precision."""
    each = flops(spec, random_images(spec.data, 2)).step_flops
    product = matmul_rate(DEVICE, DTYPES[spec.train.precision], size=amount.product)
    return {
        "images/s": rate,
        "ms per step": 1e3 * spec.train.batch_size / rate,
        "TFLOP/s": each * rate / 1e12,
        "of the product's": each * rate / product,
    }


def _tidy() -> None:
    torch.compiler.reset()  # compiled networks of one class share a limit on their number
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
