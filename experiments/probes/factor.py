"""The probe ``factor``: where the factor between perturbations at different gammas comes from, by steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from experiments.probes import perturbations
from experiments.probes.attacks import IMAGES, LESS, image_count, is_tiny, pixel_logits
from experiments.probes.image_functions import Logits, norms
from lpc.data import ImageSet, Splits
from lpc.evaluation import attacks
from lpc.evaluation.lipschitz import margin_gradient
from lpc.evaluation.robustness import deepfool
from lpc.heads import Classifier
from lpc.runs.measurements import RELEASED_STEP_FLOOR, attacked_images
from lpc.store.probes import Probe

ATTACKS = ("superdeepfool", "fab_targeted", "ddn")
"""Attacks that search, with their authors' settings, for shorter perturbations than DeepFool's."""
WAY = 40
"""Number of steps from an image to the boundary at which the margin's gradient is computed."""


def gradient_on_way(
    logits: Logits, image: Float[Tensor, "images channel row column"], step: Tensor, *, steps: int = WAY
) -> Float64[Tensor, "images places"]:
    """Return gradient norms of the initial decision's margin from each image to image + step, inclusive.

    Parameters
    ----------
    logits
        Function from images to logits.
    image
        Images at which the lines start.
    step
        Perturbations that lead to the lines' ends, with the images' shape.
    steps
        Number of equal parts of each line.

    Returns
    -------
    Tensor
        Euclidean norms of the margin's gradient (``lipschitz.margin_gradient``), in logits per unit of input.
    """
    with torch.no_grad():
        decision = logits(image).argmax(dim=1)
    places = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
    norms = [margin_gradient(logits, image + t * step, label=decision).norm for t in places]
    return torch.stack(norms, dim=1)


def measured(
    model: Classifier,
    images: ImageSet,
    *,
    count: int = IMAGES,
    names: Sequence[str] = ATTACKS,
    less: int = 1,
) -> pd.DataFrame:
    """Attack test images with DeepFool, as in the paper, and with attacks that find shorter perturbations.

    Parameters
    ----------
    model
        Classifier in evaluation mode, in float32, on the device of the images.
    images
        Test set.
    count
        Number of attacked images.
    names
        Names of attacks besides DeepFool, keys of :data:`lpc.evaluation.attacks.ATTACKS`.
    less
        Number by which these attacks' budgets are divided.

    Returns
    -------
    DataFrame
        One row per image; lengths are Euclidean and in pixel units, with pixels in [0, 1]:

        ``image``, ``label``, ``decision``: index in the test set, class, and the network's decision.
        ``deepfool``, ``fooled``, ``iterations``, ``first_step``: length of DeepFool's perturbation in float64
        (50 steps, overshoot 0.02, nothing clipped), whether it fooled the network, its number of steps, and
        the length of the first step.
        ``deepfool_float32``, ``deepfool_released``: its length in float32, without and with the release's
        lower bound on steps.
        ``own_line``: the shortest length along DeepFool's own direction; missing if DeepFool did not fool.
        One column per attack (float32, no box): its length; missing if the attack did not fool.
        ``smallest``: the minimum of ``own_line`` and the attacks; missing if none fooled.
        ``margin``, ``gradient``, ``gradient_float32``: the logit margin at the image, and the norm of its
        gradient there, in logits per pixel unit.
        ``steepest``: the largest gradient norm on the line to the smallest perturbation.

    Raises
    ------
    ValueError
        If the network cannot be attacked (:func:`lpc.evaluation.attacks.check_target`).

    Notes
    -----
    DeepFool runs on normalised images, as in the paper, and its perturbations are converted to pixels. The
    other attacks run on pixels.
    """
    chosen = attacked_images(images, count=count)
    exact, pixel = attacks.in_float64(model), images.pixels(chosen, dtype=torch.float64)
    single, double = pixel_logits(model, images), pixel_logits(exact, images)
    budgets = {name: -(-attacks.ATTACKS[name].budget // less) for name in names}
    found = {
        name: attacks.attack(name, single, pixel.float(), box=None, budget=budget)
        for name, budget in budgets.items()
    }
    rough = images.normalised(chosen)
    fine = images.normalise(pixel)

    def norm(change: Tensor) -> Tensor:
        return norms(images.change_in_pixels(change.double()))

    def through(network: Classifier) -> Logits:
        return lambda image: network(image).logits

    paper = deepfool(through(exact), fine)
    first = deepfool(through(exact), fine, max_iter=1)
    floored = deepfool(through(model), rough, step_floor=RELEASED_STEP_FLOOR)
    own = _own_line(double, pixel, images.change_in_pixels(paper.perturbation), paper.fooled)
    best = attacks.smallest(found)
    there = margin_gradient(double, pixel)
    columns = {
        "image": chosen,
        "label": images.label[chosen],
        "decision": double(pixel).argmax(dim=1),
        "deepfool": norm(paper.perturbation),
        "fooled": paper.fooled,
        "iterations": paper.iterations,
        "first_step": norm(first.perturbation),
        "deepfool_float32": norm(deepfool(through(model), rough).perturbation),
        "deepfool_released": norm(floored.perturbation),
        "own_line": own,
        **{name: one.norm for name, one in found.items()},
        "smallest": torch.minimum(own, best.norm),
        "margin": there.margin,
        "gradient": there.norm,
        "gradient_float32": margin_gradient(single, pixel.float()).norm,
        "steepest": gradient_on_way(double, pixel, best.perturbation.double()).amax(dim=1),
    }
    table = pd.DataFrame({name: value.detach().cpu().numpy() for name, value in columns.items()})
    table.loc[~best.fooled.cpu().numpy(), "steepest"] = float("nan")
    lengths = ["own_line", *names, "smallest"]
    table[lengths] = table[lengths].replace(float("inf"), float("nan"))
    return table


def _own_line(logits: Logits, image: Tensor, step: Tensor, fooled: Tensor) -> Float64[Tensor, " images"]:
    """Return the length at which the decision first changes on the line to image + step; else infinity."""
    length = norms(image)
    line = perturbations.shortest(perturbations.Attacked(logits, image, step), [step])
    return torch.where(fooled, line * length, torch.inf)


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Return a run's values from the rows of :func:`measured`.

    Means and medians are over the images on which DeepFool fools the network in float64, except that
    ``deepfool``, ``deepfool_float32`` and ``deepfool_released`` are means over all images, as in the release.
    A value is None if no image is fooled, or no perturbation is shorter.

    Notes
    -----
    ``flatness`` is the median of the gradient's norm at the image, divided by the largest on the line to the
    boundary; ``step_ratio`` is the median of the first-order distance, divided by the length of the smallest
    perturbation. Because the margin falls to zero on that line, ``step_ratio`` equals the margin's mean slope
    on the line, divided by the gradient's norm at the image.
    """
    own = table[table["fooled"]]
    first_order = table["margin"] / table["gradient"]
    tiny = torch.finfo(torch.float32).tiny
    names = [name for name in attacks.ATTACKS if name in table and name != "deepfool"]
    values = {
        **{name: table[name].mean() for name in ("deepfool", "deepfool_float32", "deepfool_released")},
        "deepfool_fooled": own["deepfool"].mean(),
        "deepfool_median": own["deepfool"].median(),
        **{name: own[name].mean() for name in ("own_line", *names, "smallest", "iterations")},
        "smallest_median": own["smallest"].median(),
        "one_step": (own["iterations"] == 1).mean(),
        "first_step": (own["first_step"] / own["deepfool"]).median(),
        "excess": (own["deepfool"] / own["smallest"]).median(),
        "first_order": first_order.median(),
        "step_ratio": (first_order / table["smallest"]).median(),
        "flatness": (table["gradient"] / table["steepest"]).median(),
        "margin": table["margin"].median(),
        "gradient": table["gradient"].median(),
        "accuracy": (table["decision"] == table["label"]).mean(),
        "largest_class": table["decision"].value_counts(normalize=True).max(),
    }
    there = {name: math.isfinite(value) for name, value in values.items()}
    numbers = {name: float(value) if there[name] else None for name, value in values.items()}
    return {
        **numbers,
        "images": len(table),
        "unfooled": int((~table["fooled"]).sum()),
        **{f"{name}_unfooled": int(table[name].isna().sum()) for name in names},
        "zero_gradients": int((table["gradient_float32"] == 0).sum()),
        "subnormal_gradients": int(table["gradient_float32"].between(0, tiny, inclusive="neither").sum()),
    }


def probe(model: Classifier, splits: Splits) -> Probe:
    """Return the results of :func:`measured` on a run's test images, with their :func:`summary`."""
    table = measured(model, splits.test, **amounts(splits))
    return Probe(summary(table), table)


def amounts(splits: Splits) -> dict[str, Any]:
    """Return ``count`` and ``less`` for :func:`measured`: the usual ones, or small ones for tests."""
    return {"count": image_count(splits), "less": LESS if is_tiny(splits) else 1}
