"""A model of a step's time on a GPU that is not at hand, from tiles, waves and bytes; nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from experiments.benchmarks.training_programs import network
from experiments.benchmarks.training_tables import protocol_runs
from experiments.reporting.tables import number
from experiments.studies.image_shapes import shape_of_data
from lpc.backbones import build_backbone
from lpc.specs import ModelSpec, RunSpec


class Card(NamedTuple):
    """A GPU as the model sees it; numbers that its data sheet lacks are assumed.

    Attributes
    ----------
    name
        Name of the GPU.
    processors
        Number of streaming multiprocessors.
    product
        Rate of a large bfloat16 matrix product in FLOP/s.
    stream
        Rate at which a long kernel reads and writes memory, in bytes per second.
    """

    name: str
    processors: int
    product: float
    stream: float


class Program(NamedTuple):
    """How a step is executed: the work besides the convolutions, per convolution.

    Attributes
    ----------
    passes
        How often batch norm, SiLU and additions read or write a convolution's output, forward and backward.
    kernels
        Number of launched kernels.
    """

    passes: float
    kernels: float


H200 = Card("H200", processors=132, product=790e12, stream=4.0e12)
PROGRAMS: Mapping[str, Program] = {
    # Forward: statistics 1, normalise 2, SiLU 2, addition 1; backward: SiLU 3, batch norm 2 + 3, addition 1.
    "graph": Program(passes=15.0, kernels=11.0),
    # Forward: statistics 1, all else 2; backward: sums 2, gradient 3; additions of the residuals 0.5.
    "compiled and graph": Program(passes=8.5, kernels=6.0),
}
TILE = 128
"""Rows and columns of the tile that a multiprocessor computes at a time; half if the product has no more."""
EFFICIENCY = 0.55
"""Share of its rate in a large product that a multiprocessor reaches on the tiles of a convolution."""
LEAST_DEPTH = 512
"""Smallest number of terms in a part of a sum; with fewer tiles than multiprocessors, sums are split."""
START, SUM_UP, GAP = 2.5e-6, 3e-6, 1.2e-6
"""Seconds to fill a kernel, to add the parts of split sums, and between two kernels of a graph."""
HALF, SINGLE = 2, 4  # bytes of bfloat16 and float32


class Convolution(NamedTuple):
    """A convolution, or a linear layer as a convolution with a single position.

    Attributes
    ----------
    channels, filters
        Numbers of input and output channels.
    taps
        Number of taps of a filter in each channel.
    read, written
        Number of positions per image before and after.
    """

    channels: int
    filters: int
    taps: int
    read: int
    written: int

    @property
    def weights(self) -> int:
        """Number of weights in its filters."""
        return self.filters * self.channels * self.taps

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds in an image's forward pass."""
        return self.written * self.weights


@cache
def convolutions(model: ModelSpec, channels: int, size: int) -> tuple[Convolution, ...]:
    """Return the convolutions of a backbone, in the order of the forward pass; no weights are made.

    Parameters
    ----------
    model
        Spec of the model with the backbone.
    channels, size
        Number of channels, and pixels per side, of an image.
    """
    found = []

    def note(module: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        taps = math.prod(module.kernel_size)
        places = [math.prod(value.shape[2:]) for value in (given[0], output)]
        found.append(Convolution(module.in_channels, module.out_channels, taps, *places))

    with torch.device("meta"):
        backbone = build_backbone(
            model.backbone, channels=channels, size=size, width=model.backbone_width
        ).eval()
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        backbone(torch.empty(1, channels, size, size))
    return tuple(found)


def product_seconds(
    rows: int, columns: int, depth: int, card: Card, *, efficiency: float = EFFICIENCY
) -> float:
    """Return the seconds that a matrix product takes as waves of tiles, without its reads and writes.

    Parameters
    ----------
    rows, columns, depth
        Rows and columns of the result, and number of terms in a sum.
    card, efficiency
        The GPU, and the share of its rate that a multiprocessor reaches on a tile.
    """
    high, wide = (TILE if length > TILE // 2 else TILE // 2 for length in (rows, columns))
    tiles = math.ceil(rows / high) * math.ceil(columns / wide)
    parts = max(1, min(card.processors // tiles, depth // LEAST_DEPTH))
    waves = math.ceil(tiles * parts / card.processors)
    each = 2 * high * wide * depth / parts / (efficiency * card.product / card.processors)
    return waves * each + START + (SUM_UP if parts > 1 else 0.0)


def step_seconds(layers: Sequence[Convolution], *, batch: int, card: Card = H200, program: str) -> float:
    """Return the modelled seconds of a training step in bfloat16.

    Parameters
    ----------
    layers
        Convolutions of the backbone.
    batch
        Number of images per step.
    card
        GPU to model.
    program
        Name of the program, a key of :data:`PROGRAMS`.

    Notes
    -----
    Each of a convolution's products (forward; gradient of its input, except for the first; gradient of its
    weights) takes as long as its arithmetic, or as reading and writing its operands once, whichever is
    longer. Batch norm, SiLU and additions go through memory. AdamW reads four numbers per parameter and
    writes three, in float32; weights are cast to bfloat16, and gradients back. Nothing overlaps.
    """
    how, seconds = PROGRAMS[program], 0.0
    for place, one in enumerate(layers):
        moved = HALF * batch * (one.read * one.channels + one.written * one.filters) / card.stream
        depth = one.channels * one.taps
        products = [
            product_seconds(batch * one.written, one.filters, depth, card),
            product_seconds(one.filters, depth, batch * one.written, card, efficiency=0.8 * EFFICIENCY),
        ]
        if place:
            # a stride leaves out taps: there are as many multiply-adds as in the forward pass
            terms = one.multiply_adds // (one.read * one.channels)
            products.append(product_seconds(batch * one.read, one.channels, terms, card))
        seconds += sum(max(product, moved) for product in products)
        seconds += how.passes * HALF * batch * one.written * one.filters / card.stream + how.kernels * GAP
    return seconds + sum(one.weights for one in layers) * (7 * SINGLE + 2 * (SINGLE + HALF)) / card.stream


def modelled(spec: RunSpec, program: str, *, card: Card = H200) -> tuple[float, float]:
    """Return a run's images per second, and the share of a product's rate that its convolutions reach.

    Parameters
    ----------
    spec
        Spec of a run with a ResNet.
    program
        Name of the program, a key of :data:`PROGRAMS`.
    card
        GPU to model.
    """
    shape, batch = shape_of_data(spec.data), spec.train.batch_size
    layers = convolutions(spec.model, shape.channels, shape.size)
    seconds = step_seconds(layers, batch=batch, card=card, program=program)
    flops = 2 * batch * (3 * sum(one.multiply_adds for one in layers) - layers[0].multiply_adds)
    return batch / seconds, flops / seconds / card.product


def modelled_hours(card: Card = H200) -> pd.DataFrame:
    """Return a row of text per part of the paper's protocol: modelled images per second, hours on one GPU."""
    rows, total = {}, dict.fromkeys(PROGRAMS, 0.0)
    for name, (spec, runs) in protocol_runs().items():
        seen = runs * spec.train.epochs * shape_of_data(spec.data).train
        rows[name] = {"network": network(spec), "runs": str(runs)}
        for program in PROGRAMS:
            rate, share = modelled(spec, program, card=card)
            rows[name] |= {
                f"{program} (images/s)": number(rate),
                f"{program} (of the product's)": f"{share:.0%}",
                f"{program} (h)": number(seen / rate / 3600),
            }
            total[program] += seen / rate / 3600
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    table.loc["all"] = {
        "network": "",
        "runs": str(sum(runs for _, runs in protocol_runs().values())),
        **{f"{program} (images/s)": "" for program in PROGRAMS},
        **{f"{program} (of the product's)": "" for program in PROGRAMS},
        **{f"{program} (h)": number(hours) for program, hours in total.items()},
    }
    return table.rename_axis(f"modelled, {card.name}")
