"""The probe ``transfer``: how well a network's latents separate classes on which it was not trained."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lpc.classifiers import build_classifier
from lpc.data import ImageSet, Splits, left_out
from lpc.evaluation import collapse
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.runs.measurements import Measured
from lpc.specs import RunSpec
from lpc.store.probes import Probe

SHOTS = (1, 5)
"""Numbers of images per new class from which its mean is taken."""
EPISODES = 200
"""Number of draws of these images."""


def probe(model: Classifier, splits: Splits, spec: RunSpec) -> Probe:
    """Measure few-shot classification of new classes by their means, and how tight these classes are.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images.
    splits
        Data of the classes on which it was trained.
    spec
        Spec of the run; ``data.first_classes`` must be set.

    Returns
    -------
    Probe
        Values: ``images`` and ``classes``, the numbers of new images and classes. ``accuracy_<shots>``:
        :func:`few_shot_accuracy` of the latents. ``trace_ratio``: that of the new classes' latents.
        ``occupied``: the share of new images whose latents have, in all nodes, the signs of a training
        class's mean. Controls: ``untrained_...``, the same values before training (:func:`untrained`), and
        ``gain``, how much training adds to the accuracy with the most shots; ``pixels_...``, the values for
        normalised images instead of latents; ``shuffled``, the accuracy with the most shots after shuffling
        the new images' labels, which is chance.
    """
    new, measured = left_out(spec.data, splits.train), Measured()
    measured.values |= {"images": len(new), "classes": new.classes}
    forms = {"": model, "untrained_": untrained(spec, splits.train)}
    for form, network in forms.items():
        found, seen = collect(network, new), collect(network, splits.train)
        _add_accuracies(measured, form, found.latent, new.label)
        measured.add([f"{form}trace_ratio"], partial(_trace_ratio, found.latent, new.label))
        measured.add([f"{form}occupied"], partial(occupied, seen, found.latent))
        if not form:
            mixed = new.label[torch.randperm(len(new), generator=_generator()).to(new.label.device)]
            measured.add(["shuffled"], partial(few_shot_accuracy, found.latent, mixed, shots=SHOTS[-1]))
    pixels = new.normalised().flatten(1)
    _add_accuracies(measured, "pixels_", pixels, new.label)
    measured.add(["pixels_trace_ratio"], partial(_trace_ratio, pixels, new.label))
    last = f"accuracy_{SHOTS[-1]}"
    measured.add(["gain"], lambda: measured.values[last] - measured.values[f"untrained_{last}"])
    return Probe(measured.as_dict())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _add_accuracies(measured: Measured, form: str, latent: Tensor, label: Tensor) -> None:
    for shots in SHOTS:
        measured.add([f"{form}accuracy_{shots}"], partial(few_shot_accuracy, latent, label, shots=shots))


def _trace_ratio(latent: Tensor, label: Tensor) -> float:
    return collapse.within_between_traces(latent.double(), label).ratio


def untrained(spec: RunSpec, train: ImageSet) -> Classifier:
    """Return a run's network as it was before training, except that its batch norms have seen the images.

    Parameters
    ----------
    spec
        Spec of the run.
    train
        Train set, from which the moments of batch norms are taken, averaged over batches.
    """
    model = build_classifier(
        spec.model, channels=train.channels, size=train.size, classes=train.classes, seed=spec.seed
    ).to(train.images.device)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # takes the mean over all batches
    model.train()
    with torch.no_grad():
        for part in torch.arange(len(train), device=train.images.device).split(spec.train.batch_size):
            model(train.normalised(part))
    return model.eval()


def few_shot_accuracy(
    latent: Float[Tensor, "points width"],
    label: Int[Tensor, " points"],
    *,
    shots: int,
    episodes: int = EPISODES,
    seed: int = 0,
) -> float:
    """Return the accuracy of classifying by the nearest class mean, with means taken from a few points.

    Parameters
    ----------
    latent, label
        Latents and their classes.
    shots
        Number of points per class from which its mean is taken; all others are classified.
    episodes
        Number of draws, without replacement, over which the accuracy is averaged.
    seed
        Seed of the draws, which do not depend on the latents.

    Raises
    ------
    ValueError
        If a class has no more than ``shots`` points, so that none would be left to classify.
    """
    groups = [(label == value).nonzero()[:, 0] for value in label.unique()]
    least = min(map(len, groups))
    if least <= shots:
        raise ValueError(f"shots is {shots}; expected at most {least - 1}: a class has {least} points")
    generator = torch.Generator().manual_seed(seed)
    points, total = latent.double(), 0.0
    for _ in range(episodes):
        drawn = [group[torch.randperm(len(group), generator=generator).to(group.device)] for group in groups]
        few = torch.cat([group[:shots] for group in drawn])
        rest = torch.cat([group[shots:] for group in drawn])
        total += collapse.nearest_mean_accuracy(points[few], label[few], points[rest], label[rest])
    return total / episodes


def occupied(seen: Latents, latent: Float[Tensor, "points width"]) -> float:
    """Return the share of points that have, in all nodes, the signs of some class's mean.

    Parameters
    ----------
    seen
        Latents of the known classes, and their labels.
    latent
        Latents whose signs are compared.
    """
    signs: Bool[Tensor, "classes width"] = torch.stack(
        [seen.latent[seen.label == value].double().mean(dim=0) > 0 for value in seen.label.unique()]
    )
    return float(((latent > 0)[:, None] == signs).all(dim=2).any(dim=1).double().mean())
