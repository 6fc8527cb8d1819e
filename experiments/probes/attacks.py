"""The probes ``attacks``, ``attack_checks`` and ``attack_steps``: attacks of many kinds, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from scipy.stats import binom
from torch import Tensor

from experiments.probes.image_functions import Logits, norms
from lpc.computing.numerics import measurement
from lpc.data import ImageSet, Splits
from lpc.evaluation.attacks import ATTACKS, Attacked, attack, check_target, in_float64, rescaled, smallest
from lpc.heads import Classifier
from lpc.runs.measurements import attacked_images
from lpc.store.probes import Probe

IMAGES = 200
"""Number of attacked test images; the first 100 of them are the robustness chapter's."""
CHECKED = 100
"""Number of images, from the first, for rescaled logits and float64."""
STEPPED = 50
"""Number of images, from the first, for other budgets."""
TINY = 200
"""Largest number of training images of a network that only tests use: it is attacked on a tenth of the
images, with a twentieth of the budgets."""
FEWER, LESS = 10, 20
"""These divisors."""
STRANGERS = 10_000
"""Largest number of training images among which a decision-based attack finds its start."""
VALUES = 100_000
"""Largest number of pixel values attacked at once; for each image, 9 rows are in memory at the same time."""
BEATS = 1e-3
"""Relative difference from which a perturbation counts as smaller."""
LEADS = ("deepfool", "superdeepfool", "fab", "ddn")
"""Attacks whose smallest perturbation sets the first radius of attacks with a fixed radius."""

Budget = tuple[int | None, int | None]
"""Budget and number of radii; None: the authors' recommendations (``Attack.budget``, ``Attack.rounds``)."""
RECOMMENDED: Budget = (None, None)


class Setting(NamedTuple):
    """Attacks on one form of a network.

    Attributes
    ----------
    attacks
        Budgets by attack, in the order in which they are run.
    box
        Range of a pixel; None: any value.
    double
        Whether the network computes in float64 instead of float32.
    factor
        Factor on the logits.
    images
        Number of attacked images.
    """

    attacks: Mapping[str, Budget]
    box: tuple[float, float] | None = (0.0, 1.0)
    double: bool = False
    factor: float = 1.0
    images: int = IMAGES


_BOX: Mapping[str, Budget] = MappingProxyType(
    {
        **dict.fromkeys(("deepfool", "superdeepfool", "fab", "fab_targeted", "ddn"), RECOMMENDED),
        "apgd_dlr": (50, 4),
        "apgd_targeted_dlr": (50, 3),
        "apgd_ce": (50, 4),
        "square": (200, 6),
        "hopskipjump": (1000, None),
        "random_directions": (200, None),
    }
)

MAIN: Mapping[str, Setting] = MappingProxyType(
    {
        "box": Setting(_BOX),
        "unbounded": Setting({name: _BOX[name] for name in ("deepfool", "superdeepfool", "fab")}, box=None),
    }
)
"""Attacks on every network: all of them with pixels kept in [0, 1], and some without this box."""
CHECKS: Mapping[str, Setting] = MappingProxyType(
    {
        "double": Setting(_BOX, double=True, images=CHECKED),
        "large": Setting(_BOX, factor=100.0, images=CHECKED),
        "small": Setting(_BOX, factor=1e-3, images=CHECKED),
    }
)
"""Attacks on forms of the network that decide alike: in float64, with logits times 100, and times 1e-3."""
STEPS: Mapping[str, tuple[Budget, ...]] = MappingProxyType(
    {
        "deepfool": ((25, None), RECOMMENDED, (200, None)),
        "superdeepfool": ((25, None), RECOMMENDED, (200, None)),
        "fab": ((25, None), RECOMMENDED, (200, None)),
        "fab_targeted": ((25, None), RECOMMENDED, (200, None)),
        "ddn": ((100, None), RECOMMENDED, (2000, None)),
        "apgd_ce": (_BOX["apgd_ce"], RECOMMENDED),
        "apgd_dlr": (_BOX["apgd_dlr"], RECOMMENDED),
        "apgd_targeted_dlr": (_BOX["apgd_targeted_dlr"], RECOMMENDED),
        "square": (_BOX["square"], (1000, None), RECOMMENDED),
        "hopskipjump": (_BOX["hopskipjump"], (5000, None), RECOMMENDED),
        "boundary": ((1000, None), (5000, None)),
        "random_directions": (_BOX["random_directions"], RECOMMENDED),
    }
)
"""Budgets by attack, from small to large, whose perturbations show whether a larger one would find less.

The authors' own budget is among them, except for the boundary attack, whose 25,000 steps take too long."""


class Target(NamedTuple):
    """A network and images for attacks.

    Attributes
    ----------
    logits
        Function from images in [0, 1] to logits; it normalises the pixels itself.
    image
        Attacked images, in [0, 1].
    chosen
        Indices of these images among the test images.
    stranger
        For each of these images, the nearest training image that the network decides differently.
    """

    logits: Logits
    image: Float[Tensor, "images channel row column"]
    chosen: Int64[Tensor, " images"]
    stranger: Float[Tensor, "images channel row column"]


def pixel_logits(model: Classifier, images: ImageSet) -> Logits:
    """Return the logits as a function of images in [0, 1], which it normalises as the train set was."""
    return lambda image: model(images.normalise(image)).logits


def target(model: Classifier, splits: Splits, *, count: int = IMAGES, double: bool = False) -> Target:
    """Return a network, the test images to attack, and the nearest training images decided differently.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images.
    splits
        Data of the classifier.
    count
        Number of test images.
    double
        Whether a copy of the network computes in float64.
    """
    dtype = torch.float64 if double else torch.float32
    logits = pixel_logits(in_float64(model) if double else model, splits.test)
    chosen = attacked_images(splits.test, count=count)
    image = splits.test.pixels(chosen, dtype=dtype)
    train = splits.train.pixels(slice(STRANGERS), dtype=dtype)
    with torch.no_grad():
        decision = logits(image).argmax(dim=1)
        theirs = torch.cat([logits(part).argmax(dim=1) for part in train.split(1000)])
    distance = torch.cdist(image.flatten(1), train.flatten(1))
    nearest = distance.masked_fill(theirs == decision[:, None], torch.inf).argmin(dim=1)
    return Target(logits, image, chosen, train[nearest])


def under(
    setting: Setting, model: Classifier, splits: Splits, *, seed: int = 0
) -> tuple[Target, dict[str, Attacked]]:
    """Attack a network in one form; return it, and the results by attack.

    Parameters
    ----------
    setting
        Form of the network, and attacks.
    model, splits
        Network in evaluation mode, and its data.
    seed
        Seed of the attacks' random draws.

    Raises
    ------
    ValueError
        If :func:`lpc.evaluation.attacks.check_target` refuses the network or the images.
    """
    setting = _lessened(setting) if is_tiny(splits) else setting
    aim = target(model, splits, count=setting.images, double=setting.double)
    logits = rescaled(aim.logits, setting.factor)
    check_target(logits, aim.image, box=setting.box, model=model)
    found: dict[str, Attacked] = {}
    for name, (budget, rounds) in setting.attacks.items():
        start = aim.stranger if ATTACKS[name].kind == "decision" else None
        leads = {lead: found[lead] for lead in LEADS if lead in found}
        if name.startswith("apgd") and leads:
            start = smallest(leads).perturbed
        found[name] = in_parts(
            name, logits, aim.image, box=setting.box, budget=budget, rounds=rounds, seed=seed, start=start
        )
    return aim, found


def is_tiny(splits: Splits) -> bool:
    """Return whether networks of these data are for tests only (:data:`TINY`)."""
    return len(splits.train) <= TINY


def image_count(splits: Splits) -> int:
    """Return the number of test images to attack: :data:`IMAGES`, or fewer for networks that tests use."""
    return -(-IMAGES // FEWER) if is_tiny(splits) else IMAGES


def _lessened(setting: Setting) -> Setting:
    """Return a setting that takes little time but still runs every attack."""
    attacks = {}
    for name, (budget, rounds) in setting.attacks.items():
        kind = ATTACKS[name]
        rounds = kind.rounds if rounds is None else rounds
        attacks[name] = (-(-(kind.budget if budget is None else budget) // LESS), min(rounds, 2))
    return setting._replace(attacks=attacks, images=-(-setting.images // FEWER))


def in_parts(
    name: str, logits: Logits, image: Tensor, *, start: Tensor | None = None, **options: Any
) -> Attacked:
    """Attack as many images at once as :data:`VALUES` allows; arguments are as for ``attack``."""
    size = max(1, VALUES // image[0].numel())
    starts = [None] * len(image) if start is None else start.split(size)
    parts = [
        attack(name, logits, part, start=begin, **options)
        for part, begin in zip(image.split(size), starts, strict=False)
    ]
    return Attacked(
        perturbation=torch.cat([part.perturbation for part in parts]),
        norm=torch.cat([part.norm for part in parts]),
        fooled=torch.cat([part.fooled for part in parts]),
        calls=sum(part.calls for part in parts),
        failed=tuple(reason for part in parts for reason in part.failed),
        perturbed=torch.cat([part.perturbed for part in parts]),
    )


def median_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    r"""Return an interval, between two of the values, that covers the median of their distribution.

    Parameters
    ----------
    values
        Values, shape (points,); infinite ones are the largest.
    level
        Smallest probability that the interval covers the median.

    Notes
    -----
    The ends are :math:`v_{(k)}` and :math:`v_{(n+1-k)}` of n sorted values, with the largest k for which a
    binomial variable of n trials at one half is below k with probability at most (1 - level) / 2. If there is
    no such k, the interval is the whole line.
    """
    ordered = np.sort(values)
    k = int(binom.ppf((1 - level) / 2, len(ordered), 0.5))
    if binom.cdf(k, len(ordered), 0.5) <= (1 - level) / 2:
        k += 1
    return (float(ordered[k - 1]), float(ordered[-k])) if k >= 1 else (-np.inf, np.inf)


def probe(model: Classifier, splits: Splits) -> Probe:
    """Run the attacks of :data:`MAIN`; return a row of norms per image, and their medians as values.

    The names of values begin with ``<setting>_<attack>``: ``_median`` is that of the norms in pixel units;
    ``_low`` and ``_high`` are the ends of its 95 % interval over images; ``_fooled`` is the share of fooled
    images, and ``_failed`` the number of images on which the attack failed. ``smallest`` as an attack stands
    for the smallest perturbation of all attacks of a setting; its ``_relative`` is the median norm over the
    image's norm, in normalised units. ``box_black_beats_white`` is the share of images on which an attack
    without gradients finds a smaller perturbation than all attacks with gradients.
    """
    return _probe(model, splits, MAIN)


def check_probe(model: Classifier, splits: Splits) -> Probe:
    """Run the attacks of :data:`CHECKS`; return the results as :func:`probe` does.

    ``<setting>_zero_gradient`` is the share of images at which the gradient of the cross-entropy with respect
    to the pixels is exactly zero; the setting ``plain`` is the unaltered network.
    """
    found = _probe(model, splits, CHECKS)
    if found.table is None:
        return found
    plain = {"plain": Setting({}, images=CHECKED), **CHECKS}
    for name, setting in plain.items():
        aim = target(model, splits, count=setting.images, double=setting.double)
        zero = zero_gradient(rescaled(aim.logits, setting.factor), aim.image)
        found.values[f"{name}_zero_gradient"] = float(zero.double().mean())
    return found


def zero_gradient(logits: Logits, image: Float[Tensor, "images channel row column"]) -> Tensor:
    """Return, for each image, whether the gradient of its decision's cross-entropy is zero in every pixel."""
    leaf = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        values = logits(leaf)
        loss = torch.nn.functional.cross_entropy(values, values.argmax(dim=1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    return (gradient.flatten(1) == 0).all(dim=1)


def _probe(model: Classifier, splits: Splits, settings: Mapping[str, Setting]) -> Probe:
    values: dict[str, Any] = {"missing": {}}
    table = pd.DataFrame()
    for name, setting in settings.items():
        try:
            aim, found = under(setting, model, splits)
        except ValueError as error:  # a network that cannot be attacked, such as a constant one
            values["missing"][name] = str(error)
            continue
        if table.empty:
            table = _images(model, splits.test, aim.chosen)
        ours, more = _summary(name, found, splits.test, aim.image)
        values.update(ours)
        table = pd.concat([table, pd.DataFrame(more).reindex(table.index)], axis="columns")
    return Probe(_finite(values), None if table.empty else table)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Make infinite values missing, such as the median if fewer than half of the images are fooled."""
    missing = values.pop("missing")
    for name, value in values.items():
        if isinstance(value, float) and not np.isfinite(value):
            missing[name], values[name] = "too few images are fooled", None
    return {**values, "missing": missing}


@measurement
def _images(model: Classifier, images: ImageSet, chosen: Tensor) -> pd.DataFrame:
    with torch.no_grad():
        predicted = model(images.normalised(chosen)).logits.argmax(dim=1)
    pixels = images.pixels(chosen, dtype=torch.float64)
    parts = {
        "image": chosen,
        "label": images.label[chosen],
        "predicted": predicted,
        "pixel_norm": norms(pixels),
        "normalised_norm": norms(images.normalise(pixels)),
    }
    return pd.DataFrame({name: part.cpu().numpy() for name, part in parts.items()})


def _summary(
    setting: str, found: Mapping[str, Attacked], images: ImageSet, image: Tensor
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a setting's values and the columns of its table."""
    everything = {**found, "smallest": smallest(found)}
    pixels = image.double()
    values: dict[str, Any] = {f"{setting}_images": len(image)}
    columns: dict[str, np.ndarray] = {}
    for name, result in everything.items():
        norm = result.norm.cpu().numpy()
        columns[f"{setting}_{name}"] = norm
        values[f"{setting}_{name}_median"] = float(np.median(norm))
        values[f"{setting}_{name}_low"], values[f"{setting}_{name}_high"] = median_interval(norm)
        values[f"{setting}_{name}_fooled"] = float(result.fooled.double().mean())
        values[f"{setting}_{name}_failed"] = sum(reason is not None for reason in result.failed)
        if name in ("deepfool", "smallest"):
            moved = norms(images.normalise(result.perturbed.double()) - images.normalise(pixels))
            relative = torch.where(result.fooled, moved / norms(images.normalise(pixels)), torch.inf)
            columns[f"{setting}_{name}_relative"] = relative.cpu().numpy()
            values[f"{setting}_{name}_relative"] = float(np.median(columns[f"{setting}_{name}_relative"]))
    kinds = {"white": [], "black": []}
    for name, result in found.items():
        kinds["white" if ATTACKS[name].kind == "white" else "black"].append(result.norm)
    if kinds["black"] and kinds["white"]:
        white, black = (torch.stack(norms).amin(dim=0) for norms in (kinds["white"], kinds["black"]))
        values[f"{setting}_black_beats_white"] = float((black < (1 - BEATS) * white).double().mean())
    return values, columns


def step_probe(model: Classifier, splits: Splits) -> Probe:
    """Return medians on the first :data:`STEPPED` images, one row per attack and budget (:data:`STEPS`).

    Columns are ``attack``, ``budget``, ``rounds`` (0: the attack itself searches for the smallest radius),
    ``median``, ``fooled``, ``calls`` (forward passes per image), and ``ratio``: the median over images of the
    norm, divided by the smallest norm that any attack finds with its largest budget.
    """
    rows, norms = [], []
    for position in range(max(map(len, STEPS.values()))):
        budgets = {name: tries[position] for name, tries in STEPS.items() if position < len(tries)}
        try:
            _, found = under(Setting(budgets, images=STEPPED), model, splits)
        except ValueError as error:
            return Probe({"missing": {"steps": str(error)}})
        for name, result in found.items():
            budget, rounds = budgets[name]
            kind = ATTACKS[name]
            norms.append(result.norm.cpu().numpy())
            rows.append(
                {
                    "attack": name,
                    "budget": kind.budget if budget is None else budget,
                    "rounds": kind.rounds if rounds is None else rounds,
                    "median": float(np.median(norms[-1])),
                    "fooled": float(result.fooled.double().mean()),
                    "calls": result.calls / len(norms[-1]),
                }
            )
    least = np.min(norms, axis=0)
    table = pd.DataFrame(rows).assign(ratio=[float(np.median(norm / least)) for norm in norms])
    order = {name: place for place, name in enumerate(STEPS)}
    table = table.sort_values(["attack", "budget"], key=lambda part: part.map(order).fillna(part))
    return Probe({"least_median": float(np.median(least)), "missing": {}}, table.reset_index(drop=True))
