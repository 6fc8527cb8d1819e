"""Checks of a backbone's output: one row of features per image, and not a classifier's logits."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lpc.inputs.networks import described

_NAMES = frozenset(("fc", "head", "heads", "classifier", "last_linear", "head_dist"))
"""Usual names of a network's own classifier, also within another name, such as ``heads.head``."""
_LIBRARIES = ("torchvision", "timm", "transformers")
_POOLED = ("pooler_output", "last_hidden_state")


def check_features(
    features: object, *, width: int | None = None, images: Tensor | None = None, owner: str = "the backbone"
) -> Tensor:
    """Return features, one row per image; ValueError for anything else, with a cure.

    Parameters
    ----------
    features
        Output of the backbone.
    width
        Required number of columns; None: any.
    images
        Images that the backbone was called on; None: unknown.
    owner
        Description of the network that returned the features, for the message.

    Raises
    ------
    ValueError
        If the features are tuples, dicts or objects of other libraries, feature maps or tokens, or have
        another number of rows or columns.
    """
    if not isinstance(features, Tensor):
        names = [name for name in _POOLED if isinstance(getattr(features, name, None), Tensor)]
        cure = f"take its {names[0]}" if names else "take the features out of it, as a tensor"
        if type(features).__name__ in ("GoogLeNetOutputs", "InceptionOutputs"):
            cure = "make it with aux_logits=False"
        raise ValueError(
            f"{owner} returned {described(features)}; expected features, one row per image: {cure}"
        )
    rows = "" if images is None else f" for images of shape {tuple(images.shape)}"
    if features.dim() != 2 or (images is not None and features.shape[0] != images.shape[0]):
        cures = {
            4: "pool the feature maps, as by nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten())",
            3: "take one token, or their mean",
        }
        cure = cures.get(features.dim(), "pool or flatten them first")
        raise ValueError(
            f"{owner} returned features of shape {tuple(features.shape)}{rows}; expected one row per image, "
            f"({'batch' if images is None else len(images)}, width): {cure}"
        )
    if width is not None and features.shape[1] != width:
        raise ValueError(
            f"{owner} returned features of width {features.shape[1]}, and the head was made for {width}: "
            "pass `images` when you make it, or take the network's own classifier off (torchvision: "
            "backbone.fc = nn.Identity(); timm: num_classes=0)"
        )
    return features


def own_classifier(backbone: nn.Module) -> str | None:
    """Return the name of a network's own classification layer; None if it has none.

    Parameters
    ----------
    backbone
        Any network, for example of torchvision, timm or transformers.
    """
    ask = getattr(backbone, "get_classifier", None)  # timm's
    last: Any = ask() if callable(ask) else backbone
    candidates = set(last.modules()) if isinstance(last, nn.Module) else set()
    kinds = (nn.Linear, nn.Conv2d, nn.Identity) if _of_a_library(backbone) else (nn.Linear, nn.Identity)
    named = [
        (name, module)
        for name, module in backbone.named_modules()
        if module in candidates and isinstance(module, kinds) and set(name.split(".")) & _NAMES
    ]
    if not named or isinstance(named[-1][1], nn.Identity):  # taken off
        return None
    return named[-1][0]


def _of_a_library(backbone: nn.Module) -> bool:
    return type(backbone).__module__.split(".")[0] in _LIBRARIES


def warn_of_classifier(
    backbone: nn.Module, classes: int, features: Tensor | None = None, last: str | None = None
) -> None:
    """Warn if a new head would take the logits of a network's own classifier as its features.

    Parameters
    ----------
    backbone
        Network under the new head.
    classes
        Number of classes of the new head.
    features
        Output of the network for some images; None: it was not called.
    last
        Linear layer whose output the features are; None: there is none, or it is unknown.
    """
    name = own_classifier(backbone)
    if name is None:
        return
    layer = backbone.get_submodule(name)
    width = layer.out_channels if isinstance(layer, nn.Conv2d) else int(layer.out_features)  # type: ignore
    if features is not None:
        theirs = last == name if isinstance(layer, nn.Linear) else features.shape[1] == width
        if not theirs:
            return
    if not _of_a_library(backbone) and width not in (classes, 1000):
        return
    warnings.warn(
        f"{type(backbone).__name__} still has its own classifier, {name!r}: the head would stand on its "
        f"{width} logits. Take it off: backbone.{name} = nn.Identity() or, with timm, make the model with "
        "num_classes=0",
        UserWarning,
        stacklevel=3,
    )


def features_of(backbone: nn.Module, images: Tensor) -> tuple[Any, str | None]:
    """Return a network's output for some images, and the name of the linear layer that computed it.

    Parameters
    ----------
    backbone
        Network in evaluation mode.
    images
        Images, which are not changed.
    """
    made: list[tuple[str, Any]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: made.append((name, output)))
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            features = backbone(images.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return features, next((name for name, output in reversed(made) if output is features), None)
