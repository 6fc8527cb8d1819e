"""Classifiers: from a spec, with weights from a seed, or from any network under a bottleneck head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from lpc.arrays import Array, tensor_of
from lpc.backbones import build_backbone
from lpc.computing.generators import as_they_were, seeded
from lpc.heads import BottleneckHead, CategoricalHead, Classifier
from lpc.inputs.features import check_features, features_of, warn_of_classifier
from lpc.inputs.networks import evaluating
from lpc.specs import ModelSpec, Penultimate


def build_classifier(spec: ModelSpec, *, channels: int, size: int, classes: int, seed: int) -> Classifier:
    """Return the classifier of a spec on the CPU, in float32, initialised from ``seed``.

    torch's own generators, on every device, are left alone; default device and dtype do not matter.

    Parameters
    ----------
    spec
        Backbone and head of the classifier.
    channels
        Colour channels of the images.
    size
        Height and width of the square images, in pixels.
    classes
        Number of classes.
    seed
        Seed of the initial weights.
    """
    with seeded(seed), torch.device("cpu"), _default_dtype(torch.float32):
        backbone = build_backbone(spec.backbone, channels=channels, size=size, width=spec.backbone_width)
        width = int(backbone.feature_width)  # type: ignore[arg-type]
        if spec.encoder == "categorical":
            assert spec.latent_width is not None
            head: BottleneckHead | CategoricalHead = CategoricalHead(
                width,
                classes,
                categories=spec.latent_width,
                decoder=spec.decoder,
                decoder_width=spec.decoder_width,
            )
        else:
            head = BottleneckHead(
                width,
                classes,
                penultimate=spec.penultimate,
                latent_width=spec.latent_width,
                dropout=spec.dropout,
                dropout_site=spec.dropout_site,
                latent_noise=spec.latent_noise,
                rescaled=spec.rescaled,
                classifier=spec.classifier,
                classifier_scale=spec.classifier_scale,
                spectral_norm=spec.spectral_norm,
                logit_temperature=spec.logit_temperature,
            )
        return Classifier(backbone, head)


def bottleneck_classifier(
    backbone: nn.Module,
    classes: int,
    *,
    latent_width: int | None = None,
    penultimate: Penultimate = "linear",
    dropout: float = 0.0,
    feature_width: int | None = None,
    images: Float[Array, "batch channel row column"] | None = None,
) -> Classifier:
    """Put a new bottleneck head on any network that maps images to features; return the classifier.

    The head is on the device of the features, in their dtype or, if that is narrower, in float32.

    Parameters
    ----------
    backbone
        Network from images to features, without a classifier of its own; with timm, a model made with
        ``num_classes=0``.
    classes
        Number of classes.
    latent_width, penultimate, dropout
        Arguments of the new :class:`~lpc.heads.BottleneckHead`.
    feature_width
        Width of the backbone's features. None: taken from the features of ``images`` or, without images, from
        the backbone's attribute ``feature_width`` (ours), ``head_hidden_size`` or ``num_features`` (timm's;
        they differ where layers stand between the pool and the classifier).
    images
        A few images of the right shape; arrays are moved to the backbone's device and dtype. The network is
        called on them once, in evaluation mode, and left as it was.

    Raises
    ------
    ValueError
        If the width is unknown, or the features are not one row of that width per image.

    Warns
    -----
    UserWarning
        If the network still has its own classifier, so that its "features" are logits.
    """
    features = like = next((part for part in backbone.parameters() if part.is_floating_point()), None)
    if images is None:
        warn_of_classifier(backbone, classes)
    else:
        shown = tensor_of(images).detach()
        if isinstance(images, np.ndarray) and like is not None:
            shown = shown.to(like)
        with evaluating(backbone), as_they_were():
            returned, last = features_of(backbone, shown)
        features = check_features(returned, images=shown)
        warn_of_classifier(backbone, classes, features, last)
        if feature_width not in (None, features.shape[1]):
            raise ValueError(f"feature_width is {feature_width}, but the features have {features.shape[1]}")
        feature_width = features.shape[1]
    for name in ("feature_width", "head_hidden_size", "num_features"):
        if feature_width is None and isinstance(getattr(backbone, name, None), int):
            feature_width = getattr(backbone, name)
    if feature_width is None:
        raise ValueError(
            f"{type(backbone).__name__} does not tell the width of its features: pass feature_width or images"
        )
    usual = torch.get_default_dtype() if features is None else features.dtype
    dtype = torch.promote_types(usual, torch.float32)
    with torch.device("cpu"), _default_dtype(dtype):
        head = BottleneckHead(
            feature_width, classes, penultimate=penultimate, latent_width=latent_width, dropout=dropout
        )
    device = torch.get_default_device() if features is None else features.device
    return Classifier(backbone, head.to(device))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
