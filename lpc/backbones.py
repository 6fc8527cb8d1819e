"""Backbones: images -> features. Each has an attribute ``feature_width``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpc.computing.options import whole
from lpc.computing.sampling import repeated
from lpc.errors import unknown_name

if TYPE_CHECKING:
    from torchvision.models import resnet


class MLP(nn.Module):
    """Two hidden layers with batch norm and SiLU.

    Parameters
    ----------
    channels
        Colour channels of the images.
    size
        Height and width of the square images, in pixels.
    width
        Units in each hidden layer; also ``feature_width``.
    """

    def __init__(self, *, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.feature_width = width
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, width, bias=False),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.SiLU(),
        )

    def forward(self, images: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch feature"]:
        """Return the features of normalised images."""
        return self.layers(images)


class SmallCNN(nn.Module):
    """Three 3 x 3 convolutions (width, 2 width, 4 width channels; strides 1, 2, 2), then the mean.

    Parameters
    ----------
    channels
        Colour channels of the images.
    size
        Height and width of the square images, in pixels; at least 4.
    width
        Channels of the first convolution; ``feature_width`` is four times that number.
    """

    def __init__(self, *, channels: int, size: int, width: int) -> None:
        super().__init__()
        del size  # any size from 4 pixels up
        self.feature_width = 4 * width
        widths = (channels, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for stage in range(3):
            layers += [
                nn.Conv2d(
                    widths[stage], widths[stage + 1], 3, stride=1 if stage == 0 else 2, padding=1, bias=False
                ),
                nn.BatchNorm2d(widths[stage + 1]),
                nn.SiLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch feature"]:
        """Return the features of normalised images."""
        return self.layers(images).mean(dim=(-2, -1))


class ReluMLP(nn.Module):
    """Two hidden layers with ReLU: 784-1024-1024 of Kirsch et al. 2020, Section 7.1, at a width of 1024.

    Parameters
    ----------
    channels
        Colour channels of the images.
    size
        Height and width of the square images, in pixels.
    width
        Units in each hidden layer; also ``feature_width``.
    """

    def __init__(self, *, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.feature_width = width
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )

    def forward(self, images: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch feature"]:
        """Return the features of normalised images."""
        return self.layers(images)


class DropoutCNN(nn.Module):
    """The dropout CNN of PyTorch's MNIST example at a width of 32, without its last layer.

    Two 3 x 3 convolutions without padding (width and 2 width channels) with ReLU, maximum over 2 x 2 pixels,
    dropout of 0.25, a hidden layer of 4 width ReLU units, dropout of 0.5.

    Parameters
    ----------
    channels
        Colour channels of the images.
    size
        Height and width of the square images, in pixels; at least 6.
    width
        Channels of the first convolution; ``feature_width`` is four times that number.

    Attributes
    ----------
    sites
        Probability of zeroing and number of nodes, for each place where dropout acts.

    References
    ----------
    Kirsch et al. 2020, Section 7.2.
    """

    def __init__(self, *, channels: int, size: int, width: int) -> None:
        super().__init__()
        if size < 6:
            raise ValueError(f"size is {size}; expected images of at least 6 x 6 pixels")
        flat = 2 * width * ((size - 4) // 2) ** 2
        self.feature_width = 4 * width
        self.sites = ((0.25, flat), (0.5, self.feature_width))
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.hidden = nn.Sequential(nn.Linear(flat, self.feature_width), nn.ReLU())

    def forward(
        self,
        images: Float[Tensor, "batch channel row column"],
        *,
        mask: Float[Tensor, "rows nodes"] | None = None,
    ) -> Float[Tensor, "rows feature"]:
        """Return the features of normalised images.

        Parameters
        ----------
        images
            Normalised images, shape (batch, channels, rows, columns).
        mask
            Dropout masks of all sites side by side, already divided by the probability of keeping; shape
            (samples * batch, nodes), and the features then have as many rows. None: torch draws one sample,
            in training only.
        """
        pooled = self.convolutions(images)
        if mask is None:
            (first, _), (second, _) = self.sites
            dropout = torch.nn.functional.dropout
            return dropout(self.hidden(dropout(pooled, first, self.training)), second, self.training)
        before, after = mask.split([nodes for _, nodes in self.sites], dim=1)
        return self.hidden(repeated(pooled, mask.shape[0]) * before) * after


class ResNet(nn.Module):
    """A residual network of torchvision's blocks with the CIFAR stem and SiLU, without classifier.

    The stem is one 3 x 3 convolution of stride 1 without pooling; four stages of width, 2, 4 and 8 times
    width channels follow, of strides 1, 2, 2 and 2, then the mean over the image.

    Parameters
    ----------
    block
        Residual block of torchvision.
    depths
        Number of blocks in each stage.
    channels
        Colour channels of the images, which may have any size from 8 pixels up.
    width
        Channels of the first stage: 64 in the paper, fewer for small machines.

    References
    ----------
    LPC 2024, Appendix C; He et al. 2016, whose CIFAR stem this is.
    """

    def __init__(
        self,
        block: type[resnet.BasicBlock] | type[resnet.Bottleneck],
        depths: Sequence[int],
        *,
        channels: int,
        width: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()
        )
        incoming, stages = width, []
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            for place in range(depth):
                stride = 2 if stage > 0 and place == 0 else 1
                outgoing = planes * block.expansion
                shortcut = None
                if stride != 1 or incoming != outgoing:
                    shortcut = nn.Sequential(
                        nn.Conv2d(incoming, outgoing, 1, stride=stride, bias=False), nn.BatchNorm2d(outgoing)
                    )
                made = block(incoming, planes, stride, shortcut)
                made.relu = nn.SiLU()  # type: ignore[assignment]
                stages.append(made)
                incoming = outgoing
        self.stages = nn.Sequential(*stages)
        self.feature_width = incoming
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch feature"]:
        """Return the features of normalised images."""
        return self.stages(self.stem(images)).mean(dim=(-2, -1))


def _resnet18(*, channels: int, size: int, width: int) -> ResNet:
    from torchvision.models import resnet

    del size
    return ResNet(resnet.BasicBlock, (2, 2, 2, 2), channels=channels, width=width)


def _resnet50(*, channels: int, size: int, width: int) -> ResNet:
    from torchvision.models import resnet

    del size
    return ResNet(resnet.Bottleneck, (3, 4, 6, 3), channels=channels, width=width)


BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "relu_mlp": ReluMLP,
    "small_cnn": SmallCNN,
    "dropout_cnn": DropoutCNN,
    "resnet18": _resnet18,
    "resnet50": _resnet50,
}


def build_backbone(name: str, *, channels: int, size: int, width: int) -> nn.Module:
    """Return a new backbone, initialised from torch's global random state.

    Parameters
    ----------
    name
        Name of the backbone, a key of :data:`BACKBONES`.
    channels
        Colour channels of the images.
    size
        Height and width of the square images, in pixels.
    width
        Width of the backbone, as ``backbone_width`` of :class:`~lpc.specs.ModelSpec`.
    """
    if name not in BACKBONES:
        raise unknown_name("backbone", name, BACKBONES)
    channels, size, width = whole("channels", channels), whole("size", size), whole("width", width)
    return BACKBONES[name](channels=channels, size=size, width=width)
