"""Bottleneck heads: features -> HeadOutput(latent, logits), and Classifier = backbone + head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpc.specs import DropoutSite, Penultimate, unknown_name


class HeadOutput(NamedTuple):
    """What a head returns: the penultimate representation and the class scores."""

    latent: Float[Tensor, "batch width"]
    logits: Float[Tensor, "batch classes"]


class BottleneckHead(nn.Module):
    """The last layers of a classifier: an optional penultimate layer, then a linear classifier.

    Parameters
    ----------
    feature_width
        Width of the features that come in.
    classes
        Number of classes.
    penultimate
        ``"linear"``: z = W_H h + b_H (the paper's IB layer); ``"nonlinear"``: SiLU of that;
        ``"none"``: z = h.
    latent_width
        Nodes of the penultimate layer; None means ``feature_width``.
    dropout, dropout_site
        Probability of zeroing an element in training, on the latent before the classifier or on the
        logits. The latent that is returned, and penalised, is the one before dropout.

    Notes
    -----
    The head runs in float32 even under autocast: collapsed latents have norms of 1e-4 and spreads far
    below, which bfloat16 cannot hold.

    References
    ----------
    LPC 2024, Section 2.1 and Table 3.
    """

    def __init__(
        self,
        feature_width: int,
        classes: int,
        *,
        penultimate: Penultimate = "linear",
        latent_width: int | None = None,
        dropout: float = 0.0,
        dropout_site: DropoutSite = "latent",
    ) -> None:
        super().__init__()
        if penultimate not in ("none", "linear", "nonlinear"):
            raise unknown_name("penultimate layer", penultimate, ("none", "linear", "nonlinear"))
        if penultimate == "none" and latent_width is not None:
            raise ValueError(f"latent_width is {latent_width} but there is no penultimate layer to have it")
        if classes < 2:
            raise ValueError(f"classes is {classes}; expected 2 or more")
        width = latent_width or feature_width
        self.latent_width = width
        self.dropout = dropout
        self.dropout_site = dropout_site
        self.penultimate = None if penultimate == "none" else nn.Linear(feature_width, width)
        self.activation = nn.SiLU() if penultimate == "nonlinear" else nn.Identity()
        self.classifier = nn.Linear(width, classes)

    def forward(
        self, features: Float[Tensor, "batch feature"], *, keep: Float[Tensor, "batch site"] | None = None
    ) -> HeadOutput:
        """Return latent and logits.

        Parameters
        ----------
        features
            Output of the backbone.
        keep
            Dropout's mask, already divided by the probability of keeping, where the caller draws it
            (runs trained together each draw their own); by default torch draws it, in training only.
        """
        with torch.autocast(features.device.type, enabled=False):
            latent = features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
            if self.penultimate is not None:
                latent = self.activation(self.penultimate(latent))
            on_latent = self.dropout_site == "latent"
            logits = self.classifier(self._drop(latent, keep) if on_latent else latent)
            return HeadOutput(latent, logits if on_latent else self._drop(logits, keep))

    def _drop(self, value: Tensor, keep: Tensor | None) -> Tensor:
        if keep is not None:
            return value * keep
        return nn.functional.dropout(value, self.dropout, self.training)


class Classifier(nn.Module):
    """A backbone and a head: images -> HeadOutput(latent, logits).

    Parameters
    ----------
    backbone
        Any module that maps images to features of shape (batch, feature_width).
    head
        A :class:`BottleneckHead` for that width.
    """

    def __init__(self, backbone: nn.Module, head: BottleneckHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(
        self,
        images: Float[Tensor, "batch channel row column"],
        *,
        keep: Float[Tensor, "batch site"] | None = None,
    ) -> HeadOutput:
        """Return latent and logits of normalised images."""
        return self.head(self.backbone(images), keep=keep)
