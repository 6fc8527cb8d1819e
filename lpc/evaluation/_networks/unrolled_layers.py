"""Layers of images as maps of flattened ones; a residual block as wider layers that carry its shortcut."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

Map = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,), float64."""
Step = Map | str
"""An affine map, or the name of an activation."""
Shape = tuple[int, ...]

OF_IMAGES = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
MOST_BYTES = 2**30
"""Largest size of one map: a convolution becomes a matrix from all its inputs to all its outputs."""


class Kept(nn.Module):
    """An activation of all but the last nodes, which carry a shortcut and stay as they are.

    Parameters
    ----------
    activation
        Activation of the other nodes.
    kept
        Number of last nodes that stay as they are.
    """

    def __init__(self, activation: nn.Module, kept: int) -> None:
        super().__init__()
        self.activation, self.kept = activation, kept

    def forward(self, value: Tensor) -> Tensor:
        """Return the values after the layer."""
        return torch.cat([self.activation(value[..., : -self.kept]), value[..., -self.kept :]], dim=-1)


def activation_name(module: nn.Module) -> str | None:
    """Return the name of a module that is an activation with a bound; None for any other."""
    if type(module) is nn.LeakyReLU and 0 <= module.negative_slope <= 1:
        return f"leaky_relu:{module.negative_slope!r}"
    return {nn.SiLU: "silu", nn.ReLU: "relu"}.get(type(module))


def activation_of(name: str) -> nn.Module:
    """Return the activation function named in :class:`~lpc.evaluation.affine_layers.AffineLayers`.

    Parameters
    ----------
    name
        Name of the activation: ``"silu"``, ``"relu"``, or ``"leaky_relu:"`` followed by the slope below zero;
        optionally followed by ``"+"`` and the number of last nodes that stay as they are.
    """
    rest, _, kept = name.partition("+")
    kind, _, slope = rest.partition(":")
    made = nn.LeakyReLU(float(slope)) if slope else {"silu": nn.SiLU(), "relu": nn.ReLU()}[kind]
    return (Kept(made, int(kept)) if kept else made).eval()


def unrolled(module: nn.Module, name: str, shape: Shape | None) -> tuple[Map, Shape]:
    """Return an affine layer of images as a map of flattened ones, and the shape of its output.

    Raises
    ------
    ValueError
        If the shape does not consist of three numbers, or the map is larger than :data:`MOST_BYTES`.
    """
    if shape is None or len(shape) != 3:
        raise ValueError(
            f"{name} is {type(module).__name__}, for which the shape of an image is needed: pass "
            "shape=(channels, rows, columns)"
        )
    own = copy.deepcopy(module).double()
    place = next((part.device for part in module.parameters()), torch.device("cpu"))
    bias = own(torch.zeros(1, *shape, dtype=torch.float64, device=place))
    inputs = math.prod(shape)
    needed = 8 * inputs * bias.numel()
    if needed > MOST_BYTES:
        raise ValueError(
            f"{name} ({type(module).__name__}) of images of shape {shape} would be a matrix of {needed:,} "
            f"bytes; the most allowed are {MOST_BYTES:,}: bounds are for small images"
        )
    eye = torch.eye(inputs, dtype=torch.float64, device=place).reshape(inputs, *shape)
    weight = (own(eye) - bias).flatten(start_dim=1).T.contiguous()
    return (weight, bias.flatten()), tuple(bias.shape[1:])


def is_residual(module: nn.Module) -> bool:
    """Whether a module is one of torchvision's residual blocks."""
    if not type(module).__module__.startswith("torchvision."):
        return False
    from torchvision.models.resnet import BasicBlock, Bottleneck

    return type(module) in (BasicBlock, Bottleneck)


def residual(block: nn.Module, name: str, shape: Shape | None) -> tuple[list[Step], Shape]:
    """Return a residual block as maps and activations, one after the other, and the shape of its result.

    Its shortcut is carried along in nodes of its own, which the activations leave as they are.
    """
    numbers = [number for number in (1, 2, 3) if hasattr(block, f"conv{number}")]
    activation = getattr(block, "relu", None)
    called = None if activation is None else activation_name(activation)
    if called is None:
        raise ValueError(
            f"{name} has the activation {type(activation).__name__}, for which no bound is written"
        )
    shortcut = getattr(block, "downsample", None)
    around, after = _chain([] if shortcut is None else list(shortcut), f"{name}.downsample", shape)
    maps = []
    for number in numbers:
        layers = [getattr(block, f"conv{number}"), getattr(block, f"bn{number}")]
        found, shape = _chain(layers, f"{name}.conv{number}", shape)
        maps.append(found)
    kept = len(around[1])
    return list(_side_by_side(maps, around, called, kept)), after


def _chain(layers: Sequence[nn.Module], name: str, shape: Shape | None) -> tuple[Map, Shape]:
    """Return a sequence of affine layers of images as one map; an empty one is the identity."""
    (weight, bias), shape = unrolled(layers[0] if layers else nn.Identity(), name, shape)
    for layer in layers[1:]:
        (second, shift), shape = unrolled(layer, name, shape)
        weight, bias = second @ weight, second @ bias + shift
    return (weight, bias), shape


def _side_by_side(maps: list[Map], around: Map, activation: str, kept: int) -> Iterator[Step]:
    """Yield the maps of a block with its shortcut beside them; the last adds the two."""
    (first, shift), *middle, (last, offset) = maps
    eye = torch.eye(kept, dtype=first.dtype, device=first.device)
    yield torch.cat([first, around[0]]), torch.cat([shift, around[1]])
    for weight, bias in middle:
        yield f"{activation}+{kept}"
        yield torch.block_diag(weight, eye), torch.cat([bias, torch.zeros_like(around[1])])
    yield f"{activation}+{kept}"
    yield torch.cat([last, eye], dim=1), offset
    yield activation
