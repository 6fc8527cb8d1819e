"""Networks altered by hand, flattened or tilted, for which it is known what an attack should find."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.probes.attacks import IMAGES, pixel_logits
from experiments.probes.image_functions import Logits
from lpc.data import ImageSet
from lpc.evaluation import attacks
from lpc.evaluation.lipschitz import margin_gradient
from lpc.evaluation.robustness import deepfool
from lpc.heads import Classifier
from lpc.runs.measurements import attacked_images


def saturated(logits: Logits, sharpness: float) -> Logits:
    r"""Return a network with the same decisions that is flatter away from the boundary.

    Parameters
    ----------
    logits
        Network to alter.
    sharpness
        Sharpness s, positive; for a small value, the result is nearly the network itself.

    Notes
    -----
    :math:`f'(x) = \mathrm{softmax}(s f(x))`. The order of the classes stays, hence also every decision and
    the smallest perturbation. For two classes with margin m, the new margin is :math:`\tanh(sm/2)`, and the
    first-order distance grows by a factor :math:`\sinh(sm)/(sm)`.
    """
    if not sharpness > 0:
        raise ValueError(f"sharpness is {sharpness}; expected a positive number")
    return lambda image: (sharpness * logits(image)).softmax(dim=1)


def tilted(logits: Logits, amount: float, *, favoured: int = 0) -> Logits:
    """Return a network with a constant added to one class's logit, like a bias that outgrows the gap."""

    def moved(image: Tensor) -> Tensor:
        value = logits(image)
        return value + amount * (torch.arange(value.shape[1], device=value.device) == favoured)

    return moved


def by_sharpness(
    model: Classifier, images: ImageSet, levels: Sequence[float], *, count: int = IMAGES
) -> pd.DataFrame:
    """Attack a network and its saturated versions.

    Parameters
    ----------
    model
        Classifier in evaluation mode.
    images
        Test set.
    levels
        Sharpness times the median margin; the unaltered network comes first.
    count
        Number of images.

    Returns
    -------
    DataFrame
        One row per level (0: unaltered). ``deepfool`` and ``superdeepfool``: mean lengths in pixel units,
        SuperDeepFool's over the images that it fools; ``deepfool_median``; ``unfooled`` and
        ``superdeepfool_unfooled``: numbers of images; ``first_order``: the median first-order distance;
        ``changed``: the number of decisions that differ from the unaltered network's.
    """
    logits, pixel, margin = _target(model, images, count)
    rows = {0.0: _attacked(logits, pixel, logits)}
    for level in levels:
        rows[level] = _attacked(saturated(logits, level / margin), pixel, logits)
    return pd.DataFrame.from_dict(rows, orient="index")


def by_tilt(
    model: Classifier, images: ImageSet, levels: Sequence[float], *, favoured: int = 0, count: int = IMAGES
) -> pd.DataFrame:
    """Attack a network and its tilted versions, like :func:`by_sharpness`.

    Parameters
    ----------
    model, images, count
        Arguments of :func:`by_sharpness`.
    levels
        Amounts added to a logit, in median margins.
    favoured
        Class whose logit is raised.

    Returns
    -------
    DataFrame
        The columns of :func:`by_sharpness`, and ``largest_class``, the share of the most frequent decision.
    """
    logits, pixel, margin = _target(model, images, count)
    rows = {}
    for level in (0.0, *levels):
        network = tilted(logits, level * margin, favoured=favoured)
        with torch.no_grad():
            decision = network(pixel).argmax(dim=1)
        share = float(decision.bincount().max()) / len(decision)
        rows[level] = {**_attacked(network, pixel, logits), "largest_class": share}
    return pd.DataFrame.from_dict(rows, orient="index")


def _target(model: Classifier, images: ImageSet, count: int) -> tuple[Logits, Tensor, float]:
    """Return a network in float64 as a function of pixels, the attacked images, and its median margin."""
    pixel = images.pixels(attacked_images(images, count=count), dtype=torch.float64)
    logits = pixel_logits(attacks.in_float64(model), images)
    return logits, pixel, float(margin_gradient(logits, pixel).margin.quantile(0.5))


def _attacked(
    network: Logits, pixel: Float[Tensor, "images channel row column"], original: Logits
) -> dict[str, float]:
    with torch.no_grad():
        changed = network(pixel).argmax(dim=1) != original(pixel).argmax(dim=1)
    result = deepfool(network, pixel)
    shorter = attacks.attack("superdeepfool", network, pixel, box=None)
    length = torch.linalg.vector_norm(result.perturbation.flatten(start_dim=1), dim=1)
    return {
        "deepfool": float(length.mean()),
        "deepfool_median": float(length.quantile(0.5)),
        "unfooled": float((~result.fooled).sum()),
        "superdeepfool": float(shorter.norm[shorter.fooled].mean()),
        "superdeepfool_unfooled": float((~shorter.fooled).sum()),
        "first_order": float(torch.as_tensor(margin_gradient(network, pixel).distance).quantile(0.5)),
        "changed": float(changed.sum()),
    }
