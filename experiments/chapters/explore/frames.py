"""A run while it collapses: it is trained again, and its latents are kept at a ladder of epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.studies.study import Study
from lpc.computing.devices import default_device
from lpc.data import load_images
from lpc.evaluation.collapse import nearest_mean_accuracy, within_between_traces
from lpc.latents import collect
from lpc.runs import load_model
from lpc.runs.measurements import accuracy
from lpc.schedules import gamma
from lpc.specs import TrainSpec
from lpc.training import trainer

TOLERANCE = 1e-2
"""Largest allowed deviation of a retrained run from the stored one: rms of the difference over rms."""


class Frames(NamedTuple):
    """Latents of some networks at some epochs.

    Attributes
    ----------
    names
        Names of the networks.
    epochs
        Numbers of epochs trained.
    gamma
        Weight of the squared norm in the last of these epochs, shape (networks, epochs).
    latent
        Latents of the train set in evaluation mode, shape (networks, epochs, points, width), float32.
    accuracy
        Accuracy of the classifier on the train set, shape (networks, epochs).
    label
        Class of each point, shape (points,).
    deviation
        Deviation of each network's last latents from the stored run's: rms of the difference over rms, shape
        (networks,).
    """

    names: tuple[str, ...]
    epochs: tuple[int, ...]
    gamma: np.ndarray
    latent: np.ndarray
    accuracy: np.ndarray
    label: np.ndarray
    deviation: np.ndarray

    def table(self) -> pd.DataFrame:
        """Return the measures of each frame, one row per network and epoch.

        ``gamma``, ``rms`` of the latents' entries, ``trace_within`` and ``trace_between`` (squared latent
        units), ``trace_ratio`` of the two, ``accuracy`` of the classifier and ``nearest_mean_accuracy``, both
        on the train set.
        """
        rows = []
        for place, name in enumerate(self.names):
            for step, epoch in enumerate(self.epochs):
                latent = self.latent[place, step]
                traces = within_between_traces(latent, self.label)
                rows.append(
                    {
                        "network": name,
                        "epoch": epoch,
                        "gamma": float(self.gamma[place, step]),
                        "rms": rms(latent),
                        "trace_within": traces.within,
                        "trace_between": traces.between,
                        "trace_ratio": traces.ratio,
                        "accuracy": float(self.accuracy[place, step]),
                        "nearest_mean_accuracy": nearest_mean_accuracy(
                            latent, self.label, latent, self.label
                        ),
                    }
                )
        return pd.DataFrame(rows).set_index(["network", "epoch"])


def rms(latent: np.ndarray) -> float:
    """Return the square root of the mean squared entry."""
    return float(np.sqrt(np.square(latent, dtype=np.float64).mean()))


def ladder(train: TrainSpec, *, growing: int, after: int) -> tuple[int, ...]:
    """Return the epochs to show: in equal ratios of gamma while it grows, then evenly spaced to the end.

    Parameters
    ----------
    train
        Schedule with the largest gamma.
    growing
        Number of stages from gamma's first value to its last.
    after
        Number of stages from there to the last epoch.

    Returns
    -------
    tuple of int
        Numbers of epochs trained, ascending; fewer if several fall on one epoch.

    Raises
    ------
    ValueError
        If the schedule has no penalty on the latents, or there are fewer than two stages while gamma grows,
        or none afterwards.
    """
    values = [gamma(epoch, train) for epoch in range(train.epochs)]
    if values[-1] <= 0 or growing < 2 or after < 1:
        raise ValueError(
            f"ladder: gamma ends at {values[-1]:g}, growing={growing}, after={after}; expected a penalty on "
            "the latents, 2 or more stages while gamma grows and 1 or more afterwards"
        )
    aims = np.geomspace(values[0], values[-1], growing)
    up = [1 + next(e for e, value in enumerate(values) if value >= aim * (1 - 1e-9)) for aim in aims]
    rest = np.linspace(up[-1], train.epochs, after + 1)[1:].round().astype(int).tolist()
    return tuple(sorted({*up, *rest}))


def trained_again(
    runs: Study, names: Sequence[str], *, growing: int, after: int, seed: int | None = None
) -> Frames:
    """Train some selected runs again, together, and keep their latents at a ladder of epochs.

    Parameters
    ----------
    runs
        Study in which these runs are finished.
    names
        Architectures whose runs can train in one cohort; the one with the largest gamma sets the ladder.
    growing, after
        Arguments of :func:`ladder`.
    seed
        Seed of the runs; None: the profile's first.

    Raises
    ------
    ValueError
        If a run is missing, runs cannot train together, or one ends further than :data:`TOLERANCE` from the
        stored run, so that the page would not show the run in the book's tables.
    """
    first = runs.profile.seeds[0] if seed is None else seed
    specs = [runs.spec(name, first) for name in names]
    longest = max(specs, key=lambda spec: gamma(spec.train.epochs - 1, spec.train))
    epochs = ladder(longest.train, growing=growing, after=after)
    images = load_images(specs[0].data, device=default_device()).train
    training, weight, latent, right = trainer(specs, images), [], [], []
    for epoch in epochs:
        while training.epoch < epoch:
            last = training.gamma()
            training.train_epoch()
        outputs = training.outputs(images)
        weight.append(last)
        latent.append(outputs.latent.cpu().numpy())
        right.append([accuracy(logits, images.label) for logits in outputs.logits])
    deviation = []
    for spec, ended in zip(specs, latent[-1], strict=True):
        stored = collect(load_model(spec, runs.store, images), images).latent.cpu().numpy()
        deviation.append(rms(ended - stored) / rms(stored))
        if not deviation[-1] <= TOLERANCE:
            raise ValueError(
                f"{spec.architecture}, seed {spec.seed}, of profile {runs.profile.name}, trained again, ends "
                f"{deviation[-1]:.1g} of its rms from the stored run; expected at most {TOLERANCE:g}. Was it "
                "trained on another device, or by other code?"
            )
    return Frames(
        names=tuple(names),
        epochs=epochs,
        gamma=np.array(weight).T,
        latent=np.stack(latent, axis=1),
        accuracy=np.array(right).T,
        label=images.label.cpu().numpy(),
        deviation=np.array(deviation),
    )


def plane(latent: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the two directions in which the class means vary most.

    Parameters
    ----------
    latent, label
        Latents, shape (points, width), and labels, shape (points,), with at least 2 nodes and 2 classes.

    Returns
    -------
    array
        Orthonormal directions, shape (width, 2): the first right singular vectors of the centred class means.
        The largest component of each is positive.
    """
    if latent.shape[1] < 2 or len(np.unique(label)) < 2:
        raise ValueError(
            f"plane: {latent.shape[1]} nodes and {len(np.unique(label))} classes; expected 2 or more of both"
        )
    means = class_means(latent, label)
    directions = np.linalg.svd(means - means.mean(axis=0))[2][:2]
    largest = np.abs(directions).argmax(axis=1)
    return (directions * np.sign(directions[[0, 1], largest])[:, None]).T


def class_means(latent: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the mean of every class (classes, width), in float64, in the order of the labels."""
    return np.stack([latent[label == one].mean(axis=0, dtype=np.float64) for one in np.unique(label)])
