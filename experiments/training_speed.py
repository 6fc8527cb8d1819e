"""Training in tables: the library beside a plain loop, each choice, the paper's protocol in hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from experiments.image_shapes import random_images
from experiments.profiles import profile, specs
from experiments.speed import verdict
from experiments.speed_sizes import Size
from experiments.tables import MISSING, number
from experiments.training_flops import flops, matmul_rate, parameters, run_flops, stored
from experiments.training_programs import (
    PLAIN,
    Timed,
    digits_cohort,
    paper_run,
    small_resnet,
    time_cohort,
    time_run,
)
from lpc.specs import Precision

CPU_TARGET, GPU_TARGET = 1.5, 4.0
"""The least ratio to the plain loop that is aimed at: a small ResNet on two CPU cores, ResNet-18 on a GPU."""
PRODUCT_SHARE = 0.30
"""Of the rate of a bfloat16 matrix product, aimed at on a GPU."""
NO_GPU = "not run on a GPU"
"""What a cell shows where there is no GPU."""
DTYPES: Mapping[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def time_all(of: Size, device: str = "cpu") -> list[Timed]:
    """Time everything that the tables show on a device: ``"cpu"`` or ``"cuda"``."""
    cohort = time_cohort("MLP on digits, {} runs together", digits_cohort(of), of, device=device)
    cohort = replace(cohort, name=cohort.name.format(len(cohort.specs)))
    if device == "cpu":
        small = small_resnet(of)
        return [time_run("small ResNet-18", small, of, target=CPU_TARGET), cohort]
    on_gpu = {"device": device, "target": GPU_TARGET}
    return [
        time_run("ResNet-18, bfloat16", paper_run("paper-cifar10", of), of, **on_gpu),
        time_run(
            "ResNet-18, float32", paper_run("paper-cifar10", of, "float32"), of, device=device, choices=False
        ),
        time_run("ResNet-50, bfloat16", paper_run("paper-cifar100", of), of, device=device, choices=False),
        cohort,
    ]


def training_table(timed: Sequence[Timed], of: Size) -> pd.DataFrame:
    """Return a row of text a model: images a second and runs an hour, of the plain loop and of the library.

    Parameters
    ----------
    timed
        From :func:`time_all`.
    of
        Whether the targets are meant for what was timed.
    """
    rows = {}
    for one in timed:
        found, target = one.against(one.ours), one.target if of.aims else None
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
    """Return the rows of what is aimed at on a GPU, where there is none."""
    aims = {
        "ResNet-18 in bfloat16 against the plain loop": f"≥ {GPU_TARGET:g}",
        "share of the bfloat16 matrix product": f"≥ {PRODUCT_SHARE:.0%}",
    }
    return pd.DataFrame({"target": aims, "reached": dict.fromkeys(aims, NO_GPU)}).rename_axis("on one GPU")


def choices_table(one: Timed, rates: Mapping[Precision, float], of: Size) -> pd.DataFrame:
    """Return a row of text a program: images a second, over the plain loop, share of a matrix product's rate.

    Parameters
    ----------
    one
        A run that was timed with its choices.
    rates
        FLOP/s of a large matrix product (:func:`product_rates`).
    of
        Whether the target is meant.
    """
    spec = one.specs[0]
    each = flops(spec, random_images(spec.data, 2)).step_flops
    rows = {}
    for program in one.seconds:
        found = one.against(program)
        dtype: Precision = "bfloat16" if "bfloat16" in program else "float32"
        share = each * one.rate(program) / rates[dtype]
        aimed = of.aims and one.target == GPU_TARGET and program == one.ours
        rows[program] = {
            "images/s": number(one.rate(program)),
            "over the plain loop": number(found.ratio),
            "quartiles": f"{number(found.low)} to {number(found.high)}" if found.pairs > 1 else MISSING,
            "TFLOP/s": number(each * one.rate(program) / 1e12),
            "of the product's": f"{share:.1%}",
            "target": f"≥ {PRODUCT_SHARE:.0%}" if aimed else MISSING,
            "reached": ("yes" if share >= PRODUCT_SHARE else "no") if aimed else MISSING,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(one.name)


def product_rates(of: Size, device: str = "cpu") -> dict[Precision, float]:
    """Return the FLOP/s of a large matrix product in float32 and bfloat16."""
    return {name: matmul_rate(device, dtype, size=of.product) for name, dtype in DTYPES.items()}


def flops_table() -> pd.DataFrame:
    """Return a row of text a profile: what its network costs an image, a run, and on disk."""
    rows = {}
    for name in ("laptop", "fashion-cpu", "fashion", "paper-svhn", "paper-cifar10", "paper-cifar100"):
        spec = specs(profile(name), only=("IB",))[0]
        cost, kept = flops(spec, random_images(spec.data, 2)), stored(spec)
        rows[name] = {
            "backbone (width)": f"{spec.model.backbone} ({spec.model.backbone_width})",
            "parameters": f"{parameters(spec):,}",
            "forward (multiply-adds)": number(cost.forward_multiply_adds),
            "step (FLOP)": number(cost.step_flops),
            "run (FLOP)": number(run_flops(spec)),
            "checkpoint (MB)": number(kept.checkpoint / 1e6),
            "finished run (MB)": number(kept.weights / 1e6),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("profile")
