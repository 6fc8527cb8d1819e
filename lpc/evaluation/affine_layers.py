"""A chain of layers as affine maps with activations between, from which bounds on its logits are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from lpc.arrays import Array, as_float64
from lpc.backbones import MLP, ReluMLP, ResNet, SmallCNN
from lpc.computing.generators import as_they_were
from lpc.computing.numerics import measurement
from lpc.evaluation._networks.networks import check_evaluation_mode
from lpc.evaluation._networks.unrolled_layers import (
    OF_IMAGES,
    Map,
    Shape,
    Step,
    activation_name,
    activation_of,
    is_residual,
    residual,
    unrolled,
)
from lpc.heads import BottleneckHead, Classifier
from lpc.inputs.networks import Snapshot, logits_of


@dataclass(frozen=True)
class AffineLayers:
    """Affine maps with an activation after each but the last; callable, from images to logits.

    Attributes
    ----------
    weight
        Matrices of the maps, shape (out, in), float64.
    bias
        Biases of the maps, shape (out,), float64.
    activation
        Activations after each map but the last: ``"silu"``, ``"relu"``, or ``"leaky_relu:"`` with its slope;
        ``"+"`` and a number behind it say how many of the last nodes stay as they are.
    """

    weight: tuple[Tensor, ...]
    bias: tuple[Tensor, ...]
    activation: tuple[str, ...]

    @measurement
    def __call__(self, images: Float[Array, " batch *shape"]) -> Float64[Tensor, "batch classes"]:
        """Return the logits of images, which are flattened and taken to float64."""
        value = as_float64(images, name="image")
        if isinstance(images, Tensor):  # checked arrays are detached: gradients go through the images
            value = images.to(value)
        value = value.to(self.weight[0].device).flatten(start_dim=1)
        for weight, bias, activation in zip(self.weight, self.bias, (*self.activation, None), strict=True):
            value = value @ weight.T + bias
            if activation is not None:
                value = activation_of(activation)(value)
        return value

    @measurement
    def rescaled(self, factor: float) -> AffineLayers:
        """Return the same network with all logits multiplied by a factor: last weights and biases are."""
        return replace(
            self,
            weight=(*self.weight[:-1], factor * self.weight[-1]),
            bias=(*self.bias[:-1], factor * self.bias[-1]),
        )


@measurement
def affine_layers(
    model: nn.Module,
    *,
    mean: Sequence[float] | None = None,
    sd: Sequence[float] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> AffineLayers:
    r"""Return a chain of layers as affine maps and activations, computed in float64.

    Convolutions and average pools become matrices, which is for small images; the shortcut of a residual
    block becomes nodes of its own. Batch normalisation, as it is in evaluation mode, and maps that follow
    each other without an activation between, such as a linear penultimate layer and the classifier, are
    multiplied out.

    Parameters
    ----------
    model
        A :class:`~lpc.heads.Classifier` with one of our backbones (except the dropout CNN), or a Sequential,
        in evaluation mode; it is left as it was.
    mean, sd
        Normalisation of the pixels, one number per channel: the result then takes pixels x, which the model
        sees as (x - mean) / sd. Give both or neither; None: the result takes the model's own inputs.
    shape
        Channels, rows and columns of an image, needed for convolutions.

    Raises
    ------
    ValueError
        If a module is in training mode; is not affine, such as a maximum pool, or an activation other than
        SiLU, ReLU and LeakyReLU (the message gives its name in the model); if a convolution comes without
        ``shape``, or its matrix would take more than a GiB; if the normalisation does not match; or if the
        layers' logits differ from the model's on random inputs (by how much), as with a ``forward`` or hooks
        of its own, or weights that a hook computes.
    """
    check_evaluation_mode(model)
    snapshot = Snapshot(frozen=True)
    with torch.inference_mode(False), torch.no_grad(), as_they_were():
        try:
            snapshot.add(model)
            maps, activations = _maps(model, shape)
            channels = 1 if mean is None else len(mean)
            _compare(model, AffineLayers(*_columns(maps), tuple(activations)), channels, shape)
        finally:
            snapshot.restore()
        if (mean is None) != (sd is None):
            raise ValueError("mean or sd is missing; expected both or neither")
        if mean is not None and sd is not None:
            maps[0] = _from_pixels(*maps[0], mean, sd)
    return AffineLayers(*_columns(maps), tuple(activations))


def _columns(maps: list[tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return tuple(weight for weight, _ in maps), tuple(bias for _, bias in maps)


def _maps(model: nn.Module, shape: tuple[int, ...] | None) -> tuple[list[tuple[Tensor, Tensor]], list[str]]:
    """Return the affine maps of a network's layers, and the activations between."""
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}
    maps: list[Map] = []
    activations: list[str] = []
    for module in _leaves(model):
        name = names.get(module, "a layer")
        steps, shape = _steps(module, name, shape)
        for step in steps:
            if isinstance(step, str):
                if len(maps) != len(activations) + 1:
                    raise ValueError(f"{name} does not follow a linear layer")
                activations.append(step)
                continue
            if len(maps) > len(activations):
                step = step[0] @ maps[-1][0], step[0] @ maps[-1][1] + step[1]
                maps.pop()
            maps.append(step)
    if len(maps) != len(activations) + 1:
        raise ValueError(f"{type(model).__name__} does not end with a linear layer, whose outputs are logits")
    return maps, activations


def _steps(module: nn.Module, name: str, shape: Shape | None) -> tuple[list[Step], Shape | None]:
    """Return a layer as maps and activations, and the shape of its output."""
    if is_residual(module):
        return residual(module, name, shape)
    if isinstance(module, OF_IMAGES):
        found, shape = unrolled(module, name, shape)
        return [found], shape
    called = activation_name(module)
    if called is not None:
        return [called], shape
    dense = _affine(module)
    if dense is not None:
        return [dense], None
    if not isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout)):
        raise ValueError(
            f"{name} is {type(module).__name__}, for which no bound is written; expected dense layers, "
            "convolutions, batch normalisation, average pools, torchvision's residual blocks, SiLU, ReLU and "
            "LeakyReLU, one after the other"
        )
    return [], None if isinstance(module, nn.Flatten) else shape


DRAWN = 32
"""Number of inputs of each kind for comparing layers and network: uniform, normal, ten times normal."""
DIFFERENCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest share of their range by which logits may differ; in other dtypes 32 times the rounding."""


def _compare(model: nn.Module, layers: AffineLayers, channels: int, image: tuple[int, ...] | None) -> None:
    """Raise a ValueError if the layers do not compute the same as the network.

    Parameters
    ----------
    model
        Network in evaluation mode.
    layers
        Layers that were read from its modules.
    channels
        Number of channels of its images, if known.
    image
        Shape of one image; None: unknown.
    """
    generator, inputs = torch.Generator("cpu").manual_seed(0), layers.weight[0].shape[1]
    shape = {"size": (DRAWN, inputs), "generator": generator, "dtype": torch.float64, "device": "cpu"}
    drawn = torch.cat([torch.rand(**shape), torch.randn(**shape), 10 * torch.randn(**shape)])
    weight = next((part for part in model.parameters() if part.is_floating_point()), layers.weight[0])
    drawn = drawn.to(weight)
    own = _outputs(model, drawn, channels, image)
    found = layers(drawn)
    if own.shape != found.shape:
        raise ValueError(
            f"the model's logits have shape {tuple(own.shape)}, those of its layers {tuple(found.shape)}; "
            f"{_suspects(model)}"
        )
    allowed = DIFFERENCE.get(weight.dtype, 32 * torch.finfo(weight.dtype).eps)
    for ours, theirs in zip(found.split(DRAWN), own.split(DRAWN), strict=True):
        spread, away = float(theirs.max() - theirs.min()), float((ours - theirs).abs().max())
        rounding = 64 * torch.finfo(weight.dtype).eps * float(theirs.abs().max())
        if away <= allowed * spread + rounding:
            continue
        raise ValueError(
            f"the layers of the model do not compute its logits: on {DRAWN} random inputs they differ by up "
            f"to {away:.3g}, where the logits range over {spread:.3g}; {_suspects(model)}"
        )


def _outputs(
    model: nn.Module, drawn: Tensor, channels: int, image: tuple[int, ...] | None
) -> Float64[Tensor, "batch classes"]:
    """Return the network's logits of drawn vectors, shaped as images where it insists on them."""
    inputs = drawn.shape[1]
    flat = type(next(_leaves(model))) is not nn.Flatten
    shapes: list[tuple[int, ...]] = [(inputs,)] if flat else []
    if image is not None:
        shapes.insert(0, image)
    for count in dict.fromkeys((channels, 1, 3)):
        pixels = inputs // count
        if pixels * count == inputs:
            side = math.isqrt(pixels)
            shapes += [(count, side, side)] if side * side == pixels else []
            shapes += [(count, 1, pixels)]
    errors = []
    for shape in [*shapes, (inputs,)]:
        try:
            return logits_of(model(drawn.reshape(-1, *shape).clone())).double()
        except Exception as error:  # of another shape, perhaps
            errors.append(error)
    raise ValueError(
        f"the model takes none of the inputs that its layers do, of shapes {shapes}: {errors[0]}"
    ) from errors[0]


_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def _suspects(model: nn.Module) -> str:
    """Return in words which parts of a network may compute something other than its layers."""
    found = []
    for name, module in model.named_modules():
        where = f"{name or 'the model itself'} ({type(module).__name__})"
        hooks = [hook for kind in _HOOKS for hook in getattr(module, kind, {}).values()]
        found += [f"{where} has the hook {_name(hook)}" for hook in hooks]
        known = next((kind for kind in _CHAINS if isinstance(module, kind)), None)
        if known is not None and type(module).forward is not known.forward:
            found.append(f"{where} has a forward of its own")
    cure = (
        "move this computation into layers (parametrizations of torch.nn.utils for hooks that make weights)"
    )
    return f"{'; '.join(found) or 'the reason is not visible'};  {cure}"


def _name(hook: Any) -> str:
    return getattr(hook, "__qualname__", type(hook).__name__)


_CHAINS = (
    nn.Sequential,
    Classifier,
    MLP,
    ReluMLP,
    SmallCNN,
    ResNet,
    BottleneckHead,
    nn.Linear,
    nn.BatchNorm1d,
)
"""Modules that are read as a chain of layers, or as one layer."""


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers in the order of application; anything but a known chain counts as one layer."""
    if isinstance(module, Classifier):
        yield from _leaves(module.backbone)
        yield from _leaves(module.head)
    elif isinstance(module, (MLP, ReluMLP)):
        yield from _leaves(module.layers)
    elif isinstance(module, (SmallCNN, ResNet)):
        for child in module.children():
            yield from _leaves(child)
        yield from (nn.AdaptiveAvgPool2d(1).eval(), nn.Flatten())  # the mean over the image
    elif isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    elif isinstance(module, BottleneckHead):
        if module.penultimate is not None:
            yield from (module.penultimate, module.activation)
        if module.rescaled:
            place = {"dtype": torch.float64, "device": module.scale.device}
            scaling = nn.Linear(module.latent_width, module.latent_width, **place).eval()
            scaling.weight.copy_(torch.diag(module.scale.double()))
            scaling.bias.copy_(-module.shift.double() * module.scale.double())
            yield scaling
        yield module.classifier
    else:
        yield module


def _affine(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return a module's weight and bias in float64; None if it is no affine map of vectors."""
    if isinstance(module, nn.Linear):
        weight = module.weight.detach().to(torch.float64, copy=True)
        bias = weight.new_zeros(len(weight))
        return weight, bias if module.bias is None else bias + module.bias.detach()
    if (
        isinstance(module, nn.BatchNorm1d)
        and module.running_mean is not None
        and module.running_var is not None
    ):
        scale = (module.running_var.double() + module.eps).rsqrt()
        shift = -module.running_mean.double() * scale
        if module.affine:
            scale, shift = (
                scale * module.weight.double(),
                shift * module.weight.double() + module.bias.double(),
            )
        return torch.diag(scale), shift
    return None


def _from_pixels(
    weight: Tensor, bias: Tensor, mean: Sequence[float], sd: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Put the normalisation of the pixels, one mean and one sd per channel, into the first map."""
    channels, inputs = len(mean), weight.shape[1]
    if len(sd) != channels or inputs % channels or not all(value > 0 for value in sd):
        raise ValueError(
            f"mean {tuple(mean)} and sd {tuple(sd)} for {inputs} inputs; expected one per channel, sd above 0"
        )
    centre, spread = (
        torch.tensor(tuple(value), dtype=torch.float64, device=weight.device).repeat_interleave(
            inputs // channels
        )
        for value in (mean, sd)
    )
    scaled = weight / spread
    return scaled, bias - scaled @ centre
