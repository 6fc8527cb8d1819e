"""Trainers from specs, for a single run or a cohort, and classifiers from weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lpc.classifiers import build_classifier
from lpc.data import ImageSet
from lpc.heads import Classifier
from lpc.specs import RunSpec
from lpc.training.cohorts import Cohort
from lpc.training.solo import Solo
from lpc.training.trainers import Trainer, same_shapes


def trainer(
    specs: Sequence[RunSpec],
    images: ImageSet,
    *,
    compiled: bool | None = None,
    graphed: bool | None = None,
) -> Trainer:
    """Return the trainer of some runs: :class:`~lpc.training.solo.Solo` for one, a cohort for several.

    Parameters
    ----------
    specs
        Specs of the runs, with equal :func:`~lpc.training.cohorts.shape_of`.
    images
        Train set, on the device to train on.
    compiled
        Whether to compile the backbone, as in :class:`~lpc.training.solo.Solo`; cohorts are not compiled.
    graphed
        Whether to record a step as a CUDA graph. None: the default of :class:`~lpc.training.solo.Solo` for a
        single run, that of :class:`~lpc.training.cohorts.Cohort` for several.
    """
    if len(specs) == 1:
        return Solo(specs, images, compiled=compiled, graphed=graphed)
    return Cohort(specs, images, graphed=graphed)


def load_member(spec: RunSpec, images: ImageSet, state: dict[str, Tensor]) -> Classifier:
    """Return a finished run's classifier in evaluation mode, on the device of the images.

    Parameters
    ----------
    spec
        Spec of the run.
    images
        Any split of its data, for channels, size and classes.
    state
        Weights from :meth:`~lpc.training.trainers.Trainer.member_state`.

    Raises
    ------
    ValueError
        If the weights have other shapes, from another width or from images with other classes, channels or
        size.
    """
    model = build_classifier(
        spec.model, channels=images.channels, size=images.size, classes=images.classes, seed=spec.seed
    )
    ours = model.state_dict()
    if not same_shapes(ours, state):
        name = next(
            k for k in (*ours, *state) if k not in ours or k not in state or ours[k].shape != state[k].shape
        )
        found, expected = (tuple(one[name].shape) if name in one else "none" for one in (state, ours))
        raise ValueError(
            f"the weights do not fit {spec.architecture} on a {spec.model.backbone} of width "
            f"{spec.model.backbone_width} for {images.classes} classes: "
            f"{name} has shape {found}, expected {expected}"
        )
    model.load_state_dict(state)
    return model.to(images.images.device).eval()
