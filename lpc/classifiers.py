"""A spec's classifier: its backbone and its head, with weights from a seed."""

from __future__ import annotations

import torch

from lpc.backbones import build_backbone
from lpc.heads import BottleneckHead, Classifier
from lpc.specs import ModelSpec


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
        head = BottleneckHead(
            int(backbone.feature_width),  # type: ignore[arg-type]
            classes,
            penultimate=spec.penultimate,
            latent_width=spec.latent_width,
            dropout=spec.dropout,
            dropout_site=spec.dropout_site,
        )
        return Classifier(backbone, head)
