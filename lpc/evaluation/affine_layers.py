"""A dense classifier as affine maps with activations between: what bounds on its logits are computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from lpc.backbones import MLP, ReluMLP
from lpc.heads import BottleneckHead, Classifier
from lpc.numerics import measurement

_ACTIVATIONS = {nn.SiLU: "silu", nn.ReLU: "relu"}


@dataclass(frozen=True)
class AffineLayers:
    """Affine maps, an activation after each but the last; a function of images, to logits.

    Attributes
    ----------
    weight
        (out, in) of each map, float64.
    bias
        (out,) of each map, float64.
    activation
        ``"silu"`` or ``"relu"``: the one after each map but the last.
    """

    weight: tuple[Tensor, ...]
    bias: tuple[Tensor, ...]
    activation: tuple[str, ...]

    @measurement
    def __call__(self, images: Float[Tensor, " batch *shape"]) -> Float64[Tensor, "batch classes"]:
        """Return the logits of images, which are flattened and taken to float64."""
        value = images.to(self.weight[0]).flatten(start_dim=1)
        for weight, bias, activation in zip(self.weight, self.bias, (*self.activation, None), strict=True):
            value = value @ weight.T + bias
            if activation is not None:
                value = nn.functional.silu(value) if activation == "silu" else value.relu()
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
    model: nn.Module, *, mean: Sequence[float] | None = None, sd: Sequence[float] | None = None
) -> AffineLayers:
    r"""Return a dense network as affine maps and activations, computed in float64.

    Batch normalisation, as it is in evaluation mode, and maps that follow each other without an activation
    between, such as a linear penultimate layer and the classifier, are multiplied out.

    Parameters
    ----------
    model
        A :class:`~lpc.heads.Classifier` with a dense backbone, or a Sequential; in evaluation mode.
    mean, sd
        Of the normalisation, a number a channel: the result then takes pixels x, which the model sees as
        (x - mean) / sd. Both or neither; None: the result takes what the model takes.

    Raises
    ------
    ValueError
        A module in training mode; one that is no dense layer, such as a convolution, or an activation other
        than SiLU and ReLU (its name in the model); a normalisation that does not fit.
    """
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}
    for module, name in names.items():
        if module.training:
            raise ValueError(f"{name} is in training mode; expected a model after .eval()")
    maps: list[tuple[Tensor, Tensor]] = []
    activations: list[str] = []
    with torch.no_grad():
        for module in _leaves(model):
            if type(module) in _ACTIVATIONS:
                if len(maps) != len(activations) + 1:
                    raise ValueError(f"{names[module]} does not follow a linear layer")
                activations.append(_ACTIVATIONS[type(module)])
            elif (found := _affine(module)) is not None:
                if len(maps) > len(activations):
                    found = found[0] @ maps[-1][0], found[0] @ maps[-1][1] + found[1]
                    maps.pop()
                maps.append(found)
            elif not isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout)):
                raise ValueError(
                    f"{names.get(module, 'a layer')} is {type(module).__name__}, for which no bound is "
                    "written; expected dense layers, batch normalisation of vectors, SiLU and ReLU"
                )
        if len(maps) != len(activations) + 1:
            raise ValueError(
                f"{type(model).__name__} does not end with a linear layer, whose outputs are logits"
            )
        if (mean is None) != (sd is None):
            raise ValueError("mean or sd is missing; expected both or neither")
        if mean is not None and sd is not None:
            maps[0] = _from_pixels(*maps[0], mean, sd)
    weights, biases = zip(*maps, strict=True)
    return AffineLayers(weights, biases, tuple(activations))


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers in the order in which they are applied; what is not known to be a chain is one."""
    if isinstance(module, Classifier):
        yield from _leaves(module.backbone)
        yield from _leaves(module.head)
    elif isinstance(module, (MLP, ReluMLP)):
        yield from _leaves(module.layers)
    elif isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    elif isinstance(module, BottleneckHead):
        if module.penultimate is not None:
            yield from (module.penultimate, module.activation)
        if module.rescaled:
            scaling = nn.Linear(module.latent_width, module.latent_width, dtype=torch.float64)
            scaling.weight.copy_(torch.diag(module.scale.double()))
            scaling.bias.copy_(-module.shift.double() * module.scale.double())
            yield scaling
        yield module.classifier
    else:
        yield module


def _affine(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return a module's weight and bias in float64; None where it is no affine map of vectors."""
    if type(module) is nn.Linear:
        weight = module.weight.detach().double()
        bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().double()
        return weight, bias
    if type(module) is nn.BatchNorm1d and module.running_mean is not None and module.running_var is not None:
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
    """Put the normalisation of the pixels, a mean and an sd a channel, into the first map."""
    channels, inputs = len(mean), weight.shape[1]
    if len(sd) != channels or inputs % channels or not all(value > 0 for value in sd):
        raise ValueError(
            f"mean {tuple(mean)} and sd {tuple(sd)} for {inputs} inputs; expected one a channel, sd above 0"
        )
    centre, spread = (
        torch.tensor(tuple(value), dtype=torch.float64, device=weight.device).repeat_interleave(
            inputs // channels
        )
        for value in (mean, sd)
    )
    scaled = weight / spread
    return scaled, bias - scaled @ centre
