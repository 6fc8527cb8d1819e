"""Classifiers: a spec's, with weights from a seed, and any network with a bottleneck head put on it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpc.backbones import build_backbone
from lpc.heads import BottleneckHead, CategoricalHead, Classifier
from lpc.specs import ModelSpec, Penultimate


def build_classifier(spec: ModelSpec, *, channels: int, size: int, classes: int, seed: int) -> Classifier:
    """Return the classifier of a spec, initialised from ``seed`` (torch's global state is left alone).

    Parameters
    ----------
    spec
        Backbone and head.
    channels, size, classes
        Of the data.
    seed
        Of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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
    images: Float[Tensor, "batch channel row column"] | None = None,
) -> Classifier:
    """Return a classifier made of any network that maps images to features, and a new bottleneck head.

    Parameters
    ----------
    backbone
        Without its own classifier; of timm, a model made with ``num_classes=0``.
    classes
        Number of classes.
    latent_width, penultimate, dropout
        As in :class:`~lpc.heads.BottleneckHead`.
    feature_width
        Width of the backbone's features. None: it is read off the features of ``images``, or, without
        any, off the backbone's attribute ``feature_width`` (ours), ``head_hidden_size`` or ``num_features``
        (timm's; they differ where layers stand between the pool and the classifier).
    images
        A few images of the right shape, on the backbone's device.

    Raises
    ------
    ValueError
        Where the width is not known, or the features are not one row an image of that width.
    """
    if images is not None:
        training = backbone.training
        with torch.no_grad():
            features = backbone.eval()(images)
        backbone.train(training)
        if not isinstance(features, Tensor) or features.dim() != 2 or features.shape[0] != images.shape[0]:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"the backbone maps images of shape {tuple(images.shape)} to {shape}; "
                f"expected features of shape ({images.shape[0]}, width): pool or flatten them first"
            )
        if feature_width not in (None, features.shape[1]):
            raise ValueError(f"feature_width is {feature_width}, but the features have {features.shape[1]}")
        feature_width = features.shape[1]
    for name in ("feature_width", "head_hidden_size", "num_features"):
        if feature_width is None and isinstance(getattr(backbone, name, None), int):
            feature_width = getattr(backbone, name)
    if feature_width is None:
        raise ValueError(
            f"{type(backbone).__name__} does not tell the width of its features: give it, or images"
        )
    head = BottleneckHead(
        feature_width, classes, penultimate=penultimate, latent_width=latent_width, dropout=dropout
    )
    return Classifier(backbone, head)
