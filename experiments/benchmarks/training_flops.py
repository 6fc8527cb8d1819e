"""What training needs: operations, counted; the rate of a matrix product, measured; bytes of a checkpoint."""

from __future__ import annotations

import io
import math
import statistics
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.timing import interleave
from experiments.studies.image_shapes import random_images, shape_of_data
from lpc.classifiers import build_classifier
from lpc.data import ImageSet
from lpc.losses import squared_norm
from lpc.specs import DataSpec, ModelSpec, RunSpec, TrainSpec
from lpc.training import trainer

PRODUCT_SIZES = {"cpu": 2048, "cuda": 16_384}
"""Rows and columns of the square matrices whose product is timed."""


class Operations(NamedTuple):
    """Cost per image: multiply-adds of a forward pass, FLOPs of a training step (two per multiply-add)."""

    forward_multiply_adds: float
    step_flops: float


def flops(spec: RunSpec, images: ImageSet) -> Operations:
    """Count the FLOPs per image on the actual model.

    Parameters
    ----------
    spec
        Spec of the run.
    images
        Images whose shape is used.

    Notes
    -----
    ``torch.utils.flop_counter`` counts matrix products and convolutions, forward and backward; elementwise
    work (batch norm, SiLU, AdamW) is not counted.
    """
    return _counted(spec.model, images.channels, images.size, images.classes)


@cache
def _counted(model_spec: ModelSpec, channels: int, size: int, classes: int) -> Operations:
    model = build_classifier(model_spec, channels=channels, size=size, classes=classes, seed=0)
    batch, label = torch.randn(2, channels, size, size), torch.tensor([0, 1])
    with FlopCounterMode(display=False) as counter:
        output = model(batch)
        forward = counter.get_total_flops()
        (cross_entropy(output.logits, label) + squared_norm(output.latent, reduction="sum")).backward()
    return Operations(forward / 2 / len(batch), counter.get_total_flops() / len(batch))


def operations(spec: RunSpec) -> Operations:
    """Return :func:`flops` of a run on images of its data set's shape."""
    return flops(spec, random_images(spec.data, 2))


def run_flops(spec: RunSpec) -> float:
    """Return the FLOPs of all steps of a run; evaluation is not counted."""
    return operations(spec).step_flops * spec.train.epochs * shape_of_data(spec.data).train


def matmul_rate(
    device: torch.device | str, dtype: torch.dtype, *, size: int | None = None, repeats: int = 7
) -> float:
    """Return the median FLOP/s of some large matrix products.

    Parameters
    ----------
    device, dtype
        Device and dtype of the product; float32 on a GPU is not rounded to TF32.
    size
        Rows and columns of the random square matrices; None: :data:`PRODUCT_SIZES`.
    repeats
        Number of timed products, after a first one that is not timed.
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
    """Bytes on disk of a run under way (weights, AdamW's two moments), and of a finished run."""

    checkpoint: int
    weights: int


def stored(spec: RunSpec) -> Stored:
    """Return the bytes that a single run keeps on disk, by writing its files after one step.

    Parameters
    ----------
    spec
        Spec of the run.
    """
    size = spec.data.size if spec.model.backbone == "mlp" else 8  # convolutions do not depend on it
    data = DataSpec(name=spec.data.name, size=size)
    return _written(replace(spec, data=data, train=TrainSpec(epochs=1, batch_size=2, learning_rate=1e-3)))


@cache
def _written(spec: RunSpec) -> Stored:
    training = trainer([spec], random_images(spec.data, 2), compiled=False)
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
