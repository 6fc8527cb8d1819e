"""Coupled and decoupled weight decay beside the penalty, on free latents and on networks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from lpc.backbones import MLP
from lpc.classifiers import bottleneck_classifier
from lpc.data import ImageSet
from lpc.extinction import decayed_gap, extinction_gamma

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    "coupled (Adam)": torch.optim.Adam,
    "decoupled (AdamW)": torch.optim.AdamW,
}
"""What adds the decay to the gradient, and what shrinks weights beside the step."""


def free_minimum(gamma: float, *, weight_decay: float, classes: int = 10, seed: int = 0) -> dict[str, float]:
    r"""Return what is left of free latents and a free classifier at the minimum of loss, penalty and decay.

    Parameters
    ----------
    gamma
        Weight of the squared norm, in Eq. 3's convention.
    weight_decay
        :math:`\lambda` of :math:`\tfrac\lambda2\lVert W\rVert^2`.
    classes
        K; latents have as many nodes.
    seed
        Of the random start, for L-BFGS in float64.

    Returns
    -------
    dict
        ``gap`` (least over classes of the true logit's lead over the mean of the others), ``gap_law``
        (:func:`lpc.extinction.decayed_gap`), ``rms`` of the latents and ``cross_entropy``.
    """
    generator = torch.Generator().manual_seed(seed)
    latent, weight = (
        torch.randn(classes, classes, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    )
    label = torch.arange(classes)
    optimizer = torch.optim.LBFGS(
        [latent, weight], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(latent @ weight.T, label) + gamma * latent.square().sum(1).mean()
        value = value + weight_decay / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    with torch.no_grad():
        logits = latent @ weight.T
        true = logits.diagonal()
        gap = true - (logits.sum(1) - true) / (classes - 1)
        return {
            "gap": float(gap.min()),
            "gap_law": decayed_gap(gamma, weight_decay=weight_decay, classes=classes),
            "rms": float(latent.square().mean().sqrt()),
            "cross_entropy": float(cross_entropy(logits, label)),
        }


def networks(
    images: ImageSet,
    *,
    gammas: Sequence[float],
    weight_decay: float,
    epochs: int = 100,
    learning_rate: float = 2e-3,
    batch_size: int = 128,
    latent_width: int = 8,
    seeds: Sequence[int] = (0, 1),
) -> pd.DataFrame:
    """Train an MLP with IB's layer at a constant gamma, with both kinds of decay on all of its parameters.

    Parameters
    ----------
    images
        Of training.
    gammas
        In Eq. 3's convention.
    weight_decay
        Given to both optimisers.
    epochs, learning_rate, batch_size, latent_width, seeds
        Of the runs.

    Returns
    -------
    DataFrame
        ``decay``, ``gamma``, ``share`` (gamma over :func:`lpc.extinction.extinction_gamma`), ``seed``,
        ``accuracy`` on the training images in evaluation mode, and ``rms`` of their latents.
    """
    threshold = extinction_gamma(weight_decay=weight_decay, classes=images.classes)
    pixels, label = images.normalised(), images.label
    rows = []
    for kind, optimiser in OPTIMISERS.items():
        for gamma in gammas:
            for seed in seeds:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    backbone = MLP(channels=images.channels, size=images.size, width=128)
                    model = bottleneck_classifier(backbone, images.classes, latent_width=latent_width)
                steps = optimiser(model.parameters(), lr=learning_rate, weight_decay=weight_decay)  # type: ignore[call-arg]
                generator = torch.Generator().manual_seed(seed)
                for _ in range(epochs):
                    for index in torch.randperm(len(images), generator=generator).split(batch_size):
                        out = model(pixels[index])
                        loss = cross_entropy(out.logits, label[index].long())
                        loss = loss + gamma * out.latent.square().sum(1).mean()
                        steps.zero_grad()
                        loss.backward()
                        steps.step()
                model.eval()
                with torch.no_grad():
                    out = model(pixels)
                rows.append(
                    {
                        "decay": kind,
                        "gamma": gamma,
                        "share": gamma / threshold,
                        "seed": seed,
                        "accuracy": float((out.logits.argmax(1) == label).double().mean()),
                        "rms": float(out.latent.square().mean().sqrt()),
                    }
                )
    return pd.DataFrame(rows)
