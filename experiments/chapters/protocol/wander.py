"""The law of wandering biases compared with AdamW itself, on classifiers that have only biases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.reporting.tables import number
from lpc.equilibrium import bias_sd


def simulated(
    *,
    learning_rate: float,
    classes: int,
    batch_size: int,
    images: int,
    permuted: bool,
    epochs: int = 40,
    replicas: int = 60,
    seed: int = 0,
) -> float:
    """Return the standard deviation of biases at the ends of epochs, over classifiers and the later epochs.

    The mean of a classifier's biases changes no prediction and is subtracted.

    Parameters
    ----------
    learning_rate, classes, batch_size, images
        Arguments of :func:`lpc.equilibrium.bias_sd`.
    permuted
        Whether an epoch is a permutation of the labels; if not, every label is drawn at random.
    epochs, replicas, seed
        Number of epochs, number of classifiers, and seed of the labels.
    """
    generator = np.random.default_rng(seed)
    label = np.tile(np.arange(classes), images // classes + 1)[:images]
    bias = torch.zeros(replicas, classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([bias], lr=learning_rate, weight_decay=0.5e-4)
    seen, eye = [], np.eye(classes)
    for _ in range(epochs):
        if permuted:
            drawn = generator.permuted(np.tile(label, (replicas, 1)), axis=1)
        else:
            drawn = generator.integers(classes, size=(replicas, images))
        for first in range(0, images, batch_size):
            share = eye[drawn[:, first : first + batch_size]].mean(axis=1)
            bias.grad = bias.detach().softmax(dim=1) - torch.from_numpy(share)
            optimizer.step()
        seen.append(float(bias.detach().var(dim=1, correction=0).mean()))
    return math.sqrt(float(np.mean(seen[epochs // 2 :])))


def checked(learning_rates: Sequence[float] = (5e-3, 1e-2, 2e-2)) -> pd.DataFrame:
    """Return, as text, the standard deviation by the law and by AdamW, by learning rate and kind of epoch.

    Parameters
    ----------
    learning_rates
        Learning rates, one per row. The number of labels is that of the laptop profile's training images,
        rounded so that classes are equally large.
    """
    setting: dict[str, Any] = {"classes": 10, "batch_size": 128}
    rows = {}
    for rate in learning_rates:
        for kind, images in (("permuted", 1200), ("drawn at random", None)):
            law = bias_sd(learning_rate=rate, images=images, **setting)
            found = simulated(learning_rate=rate, images=1200, permuted=images is not None, **setting)
            rows[f"{rate:g}", kind] = {
                "law": number(law),
                "AdamW": number(found),
                "ratio": f"{found / law:.2f}",
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["learning rate", "labels of an epoch"])
    return table
