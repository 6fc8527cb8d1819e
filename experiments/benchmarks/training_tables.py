"""Tables of training times: the library beside a plain loop, each choice, the paper's protocol in hours."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from experiments.benchmarks.plain_training import PlainTraining
from experiments.benchmarks.sizes import Size
from experiments.benchmarks.timing import verdict
from experiments.benchmarks.training_flops import matmul_rate, operations, parameters, run_flops, stored
from experiments.benchmarks.training_programs import (
    PLAIN,
    Timed,
    digits_cohort,
    first_run,
    network,
    time_cohort,
    time_run,
)
from experiments.reporting.tables import MISSING, number
from experiments.studies.image_shapes import random_images, shape_of_data
from experiments.studies.learning_rates import retrained
from experiments.studies.profiles import profile, resolve, specs
from lpc.data import ImageSet
from lpc.specs import Precision, RunSpec
from lpc.training import Trainer, trainer

GPU_TARGET = 4.0
"""Target: the smallest ratio to the plain loop for a ResNet-18 on a GPU."""
PRODUCT_SHARE = 0.30
"""Target on a GPU: the share of a bfloat16 matrix product's rate."""
NO_GPU = "not run on a GPU"
"""Content of a cell if there is no GPU."""
DTYPES: Mapping[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def time_all(size: Size, device: str = "cpu") -> list[Timed]:
    """Time everything that the tables show for a device, ``"cpu"`` or ``"cuda"``."""
    if device == "cpu":
        alone = [time_run(first_run("fashion-cpu", size), size)]
    else:
        brief = {"device": device, "choices": False}
        alone = [
            time_run(first_run("paper-cifar10", size), size, device=device, target=GPU_TARGET),
            time_run(first_run("paper-cifar10", size, precision="float32"), size, **brief),
            time_run(first_run("paper-cifar100", size), size, **brief),
        ]
    return [*alone, time_cohort(digits_cohort(size), size, device=device)]


def training_table(timed: Sequence[Timed], size: Size) -> pd.DataFrame:
    """Return one row of text per model: images per second and runs per hour of plain loop and library.

    Parameters
    ----------
    timed
        Times from :func:`time_all`.
    size
        Sizes of the timed work, which say whether the targets apply.
    """
    rows = {}
    for one in timed:
        found, target = one.against(one.ours), one.target if size.aims else None
        rows[one.name] = {
            "plain (images/s)": number(one.rate(PLAIN)),
            "ours (images/s)": number(one.rate(one.ours)),
            "plain (runs/h)": number(one.runs_an_hour(PLAIN)),
            "ours (runs/h)": number(one.runs_an_hour(one.ours)),
            "ratio": number(found.ratio),
            "quartiles": f"{number(found.low)} to {number(found.high)}" if found.pairs > 1 else MISSING,
            "turns": f"{found.pairs}{' (cold)' if found.cold else ''}",
            "target": MISSING if target is None else f"≥ {target:g}",
            "reached": verdict(found, target),
            "workers": str(one.workers),
            "difference": number(found.difference, 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def gpu_targets() -> pd.DataFrame:
    """Return the targets for a GPU, marked as not run, for a machine without one."""
    aims = {
        "ResNet-18 in bfloat16 against the plain loop": f"≥ {GPU_TARGET:g}",
        "share of the bfloat16 matrix product": f"≥ {PRODUCT_SHARE:.0%}",
    }
    return pd.DataFrame({"target": aims, "reached": dict.fromkeys(aims, NO_GPU)}).rename_axis("on one GPU")


def choices_table(one: Timed, rates: Mapping[Precision, float], size: Size) -> pd.DataFrame:
    """Return a row of text per program: images per second, ratio to plain loop, share of a product's rate.

    Parameters
    ----------
    one
        Times of a run with its choices.
    rates
        Rates of a large matrix product in FLOP/s (:func:`product_rates`).
    size
        Sizes of the timed work, which say whether the target applies.
    """
    spec = one.specs[0]
    each = operations(spec).step_flops
    rows = {}
    for program in one.seconds:
        found = one.against(program)
        dtype: Precision = "bfloat16" if "bfloat16" in program else "float32"
        share = each * one.rate(program) / rates[dtype]
        aimed = size.aims and one.target == GPU_TARGET and program == one.ours
        rows[program] = {
            "images/s": number(one.rate(program)),
            "over the plain loop": number(found.ratio),
            "quartiles": f"{number(found.low)} to {number(found.high)}" if found.pairs > 1 else MISSING,
            "TFLOP/s": number(each * one.rate(program) / 1e12),
            "of the product's": f"{share:.1%}",
            "target": f"≥ {PRODUCT_SHARE:.0%}" if aimed else MISSING,
            "reached": ("yes" if share >= PRODUCT_SHARE else "no") if aimed else MISSING,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(network(spec))


def product_rates(size: Size, device: str = "cpu") -> dict[Precision, float]:
    """Return the FLOP/s of a large matrix product in float32 and bfloat16."""
    return {name: matmul_rate(device, dtype, size=size.product) for name, dtype in DTYPES.items()}


def flops_table() -> pd.DataFrame:
    """Return one row of text per profile: what its network costs per image, per run and on disk."""
    rows = {}
    for name in ("laptop", "fashion-cpu", "fashion", "paper-svhn", "paper-cifar10", "paper-cifar100"):
        spec = specs(profile(name), only=("IB",))[0]
        cost, kept = operations(spec), stored(spec)
        rows[name] = {
            "backbone (width)": network(spec),
            "parameters": f"{parameters(spec):,}",
            "forward (multiply-adds)": number(cost.forward_multiply_adds),
            "step (FLOP)": number(cost.step_flops),
            "run (FLOP)": number(run_flops(spec)),
            "checkpoint (MB)": number(kept.checkpoint / 1e6),
            "finished run (MB)": number(kept.weights / 1e6),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("profile")


def protocol_runs() -> dict[str, tuple[RunSpec, int]]:
    """Return one IB run for each part of the paper's protocol, and how many runs of its kind there are."""
    parts = {}
    for one in resolve("paper"):
        declared = specs(one)
        first = next(spec for spec in declared if spec.architecture == "IB")
        parts[f"{one.name}, learning rates"] = first, len(declared)
        pairs = {(spec.architecture, spec.seed) for spec in declared}
        parts[f"{one.name}, trained again"] = retrained(first), len(pairs)
    return parts


def protocol_cost(timed: Sequence[Timed] = (), *, product: float | None = None) -> pd.DataFrame:
    """Return one row of text per part of the paper's protocol: runs, FLOPs, disk, and hours on one GPU.

    Parameters
    ----------
    timed
        Times from :func:`time_all` on a GPU; empty: there is no GPU.
    product
        Rate of a bfloat16 matrix product on the GPU in FLOP/s; None: there is no GPU.

    Notes
    -----
    Hours are those of training alone: an epoch's images divided by the measured images per second. Every
    architecture counts as IB, because heads differ by less than a thousandth.
    """
    rates = {(one.specs[0].model.backbone, one.specs[0].train.precision): one for one in timed}
    rows = {}
    for name, (spec, runs) in protocol_runs().items():
        costs = replace(
            spec, data=replace(spec.data, validation=0)
        )  # the cost per image, whichever images are held out
        each, weights = operations(costs).step_flops, stored(costs).weights
        seen = runs * spec.train.epochs * shape_of_data(spec.data).train
        one = rates.get((spec.model.backbone, spec.train.precision))
        rows[name] = {
            "runs": runs,
            "EFLOP": each * seen / 1e18,
            "finished runs (GB)": runs * weights / 1e9,
            f"at {PRODUCT_SHARE:.0%} of the product (h)": (
                np.nan if product is None else each * seen / (PRODUCT_SHARE * product) / 3600
            ),
            "plain loop (h)": np.nan if one is None else seen / one.rate(PLAIN) / 3600,
            "lpc (h)": np.nan if one is None else seen / one.rate(one.ours) / 3600,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.loc["all"] = table.sum(skipna=False)
    text = table.map(lambda value: NO_GPU if np.isnan(value) else number(value))
    text["runs"] = table["runs"].map("{:.0f}".format)
    return text.rename_axis("part of the protocol")


def memory_table(size: Size) -> pd.DataFrame:
    """Return one row of text per network: the peak GPU memory of an epoch of training, in GB.

    Parameters
    ----------
    size
        Sizes of the timed work, which give the number of images.
    """
    rows = {}
    for name, precision in itertools.product(("paper-cifar10", "paper-cifar100"), DTYPES):
        spec = first_run(name, size, precision=precision)
        images = random_images(spec.data, 8 * spec.train.batch_size, device="cuda")
        heading = f"{network(spec)}, {precision}"
        rows[heading] = {}
        for program, make in {PLAIN: partial(PlainTraining, device="cuda"), "lpc": _alone}.items():
            torch.compiler.reset()
            gc.collect()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            make(spec, images).train_epoch()
            rows[heading][program] = number((torch.cuda.max_memory_allocated() - before) / 1e9)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("GB, images not counted")


def _alone(spec: RunSpec, images: ImageSet) -> Trainer:
    return trainer([spec], images)
