"""What training asks of a device: operations, counted; a matrix product, measured; bytes of a checkpoint."""

from __future__ import annotations

import io
import math
import statistics
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from experiments.image_shapes import random_images, shape_of_data
from experiments.speed import interleave
from lpc.classifiers import build_classifier
from lpc.data import ImageSet
from lpc.losses import objective
from lpc.specs import RunSpec
from lpc.training import trainer

PRODUCT_SIZES = {"cpu": 2048, "cuda": 16_384}
"""Rows and columns of the square matrices whose product is timed."""


class Operations(NamedTuple):
    """Of one image: multiply-adds of the forward pass, and FLOPs of a training step (two a multiply-add)."""

    forward_multiply_adds: float
    step_flops: float


def flops(spec: RunSpec, images: ImageSet) -> Operations:
    """Count what one image costs, on the real model.

    Parameters
    ----------
    spec
        Of the run.
    images
        Two or more, whose shape counts.

    Notes
    -----
    ``torch.utils.flop_counter`` counts matrix products and convolutions, forward and backward; what is done
    element by element (batch norm, SiLU, AdamW) is not counted.
    """
    model = build_classifier(
        spec.model, channels=images.channels, size=images.size, classes=images.classes, seed=spec.seed
    )
    batch, label = images.normalised(slice(2)).cpu(), images.label[:2].cpu()
    with FlopCounterMode(display=False) as counter:
        output = model(batch)
        forward = counter.get_total_flops()
        cross_entropy, penalty = objective(output.latent, output.logits, label, gamma=1.0)
        (cross_entropy + penalty).backward()
    return Operations(forward / 2 / len(batch), counter.get_total_flops() / len(batch))


@cache
def operations(spec: RunSpec) -> Operations:
    """Return :func:`flops` of a run on images of its data set's shape."""
    return flops(spec, random_images(spec.data, 2))


def run_flops(spec: RunSpec) -> float:
    """Return the FLOPs of all steps of a run; evaluation is not counted."""
    return operations(spec).step_flops * spec.train.epochs * shape_of_data(spec.data).train


def matmul_rate(
    device: torch.device | str, dtype: torch.dtype, *, size: int | None = None, repeats: int = 7
) -> float:
    """Return the FLOP/s of a large matrix product, the median of some.

    Parameters
    ----------
    device, dtype
        Where, and of what. float32 on a GPU is not rounded to TF32.
    size
        Rows and columns of the random square matrices; None: :data:`PRODUCT_SIZES`.
    repeats
        Products that are timed, after one that is not.
    """
    device = torch.device(device)
    rows = PRODUCT_SIZES[device.type] if size is None else size
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(rows, rows, generator=generator, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    turns = interleave([lambda: torch.matmul(left, right, out=product)], repeats=repeats, device=device.type)
    seconds = [taken for (taken,), _ in turns][1:]
    return 2 * rows**3 / statistics.median(seconds)


class Stored(NamedTuple):
    """Bytes on disk: of a run that is under way (weights, AdamW's two moments), and of a finished one."""

    checkpoint: int
    weights: int


@cache
def stored(spec: RunSpec) -> Stored:
    """Return the bytes that a run alone keeps on disk, by writing what it would write after one step.

    Parameters
    ----------
    spec
        Of the run.
    """
    brief = replace(spec, train=replace(spec.train, batch_size=2))
    depends = spec.model.backbone == "mlp"  # the weights of convolutions do not depend on the size of images
    images = random_images(spec.data if depends else replace(spec.data, size=8), 2)
    training = trainer([brief], images, compiled=False)
    training.train_epoch()
    content = io.BytesIO()
    torch.save(training.state_dict(), content)
    weights = {name: value.contiguous() for name, value in training.member_state(0).items()}
    return Stored(content.tell(), len(save(weights)))


def parameters(spec: RunSpec) -> int:
    """Return the number of a classifier's parameters."""
    shape = shape_of_data(spec.data)
    model = build_classifier(
        spec.model, channels=shape.channels, size=shape.size, classes=shape.classes, seed=spec.seed
    )
    return sum(math.prod(value.shape) for value in model.parameters())
