"""Surrogate regularizers in a batch: how strongly they pull, and how wrong they are with few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.special import digamma
from scipy.stats import hypergeom
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lpc.latents import Latents
from lpc.losses import batch_conditional_log_variance, log_variance, squared_norm, zero_entropy_noise

Term = Callable[[Tensor, Tensor], Tensor]
"""Function from a batch's noisy latents and their labels to a term of the objective."""


def terms(decoder: nn.Module, *, classes: int) -> Mapping[str, Term]:
    """Return the terms of Observation 8's objectives by name, each with weight 1.

    Parameters
    ----------
    decoder
        Function from latents to logits.
    classes
        Number of classes.
    """
    return {
        "cross-entropy": lambda z, label: cross_entropy(decoder(z), label),
        "E‖Z‖²": lambda z, label: squared_norm(z, reduction="sum"),
        "log Var[Z]": lambda z, label: log_variance(z),
        "log Var[Z|Y]": lambda z, label: batch_conditional_log_variance(z, label, classes=classes),
    }


def pull(term: Term, latents: Latents, *, batch: int, generator: torch.Generator) -> float:
    """Return the mean length of a term's gradient with respect to one image's latent, times the batch size.

    Batches take the latents in order, each with zero-entropy noise; an incomplete last batch is left out.
    Divided by the batch size, the result is the gradient that moves one latent in a step.

    Parameters
    ----------
    term
        Function that returns the mean over a batch, in nats.
    latents
        Latents without noise.
    batch
        Images per batch.
    generator
        Generator of the noise.

    Returns
    -------
    float
        Mean length in nats per latent unit.

    Raises
    ------
    ValueError
        If a batch has fewer than two images, or more than there are in all.
    """
    total, width = latents.latent.shape
    if not 2 <= batch <= total:
        raise ValueError(f"batch is {batch} of {total} images; expected 2 to {total}")
    lengths = []
    for start in range(0, total - batch + 1, batch):
        at = slice(start, start + batch)
        z = (latents.latent[at] + zero_entropy_noise((batch, width), generator)).requires_grad_()
        (slope,) = torch.autograd.grad(term(z, latents.label[at]), z)
        lengths.append(batch * slope.norm(dim=1))
    return float(torch.cat(lengths).mean())


def too_low(images: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
    r"""Return by how many nats, on average, a node's estimated Gaussian bound is below the true one.

    Parameters
    ----------
    images
        Number of images from which the unbiased variance is computed, at least 2.

    Notes
    -----
    For Gaussian latents :math:`\mathbb E\ln s^2 = \ln\sigma^2 + \psi(\frac{m-1}2) - \ln\frac{m-1}2`; the
    bound has half of this.
    """
    freedom = (np.asarray(images, dtype=float) - 1) / 2
    if not (freedom > 0).all():
        raise ValueError(f"a variance of {np.min(images)} images; expected 2 or more")
    return 0.5 * (np.log(freedom) - digamma(freedom))


def in_a_batch(label: Int[Tensor, " images"], *, batch: int, width: int) -> pd.Series:
    """Return how the numbers of images per class in a random batch affect the log-variances.

    Parameters
    ----------
    label
        Labels of the train set.
    batch
        Images per batch, drawn without replacement.
    width
        Number of nodes of the latent.

    Returns
    -------
    Series
        ``alone``: expected number of classes with one image; ``few``: with two or three images, for which the
        inverse of the variance has no mean. ``whole``, ``conditional``: by how many nats log Var[Z] and
        log Var[Z | Y] are below the truth for Gaussian latents, the second weighted by the images of classes
        that have at least two.

    Raises
    ------
    ValueError
        If a batch has fewer than two images, or more than there are.
    """
    if not 2 <= batch <= len(label):
        raise ValueError(f"batch is {batch} of {len(label)} images; expected 2 to {len(label)}")
    size = np.arange(batch + 1)
    of_class = [hypergeom(len(label), n, batch).pmf(size) for n in label.bincount().tolist()]
    expected = np.sum(np.array(of_class), axis=0)
    share = (size * expected)[2:]
    return pd.Series(
        {
            "alone": expected[1],
            "few": expected[2:4].sum(),
            "whole": width * too_low(np.array([batch]))[0],
            "conditional": width * float(share @ too_low(size[2:]) / share.sum()),
        }
    )
