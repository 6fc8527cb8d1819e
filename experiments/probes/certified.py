"""The probe ``certified``: proved radii of one trained network, beside estimates and DeepFool's radii."""

from __future__ import annotations

import copy
import math

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from experiments.probes.attacks import image_count
from experiments.probes.image_functions import norms
from experiments.studies import probing
from lpc.data import ImageSet, Splits
from lpc.evaluation.affine_layers import AffineLayers, affine_layers
from lpc.evaluation.certified import (
    METHODS,
    certified_radius,
    differences,
    gradient_radius,
    lipschitz_bound,
    sampled_radius,
)
from lpc.evaluation.lipschitz import margin_gradient
from lpc.evaluation.robustness import deepfool
from lpc.heads import Classifier
from lpc.runs.measurements import Measured, attacked_images
from lpc.specs import GAMMAS
from lpc.store.probes import Probe

IMAGES = 200
"""Number of test images whose radii are computed, the same for every network; all if there are fewer."""
SAMPLES = 32
"""Number of points around an image at which the gradient is sampled."""
RESCALING = 1e-3
"""Factor on the logits for computing the radii a second time."""
RESCALED_IMAGES = 10
"""Number of images whose radii are computed a second time."""
ESTIMATES = ("gradient", "dataset", "sampled")
"""Columns of :func:`radii` that are estimates, not bounds."""


def probe(model: Classifier, splits: Splits) -> Probe:
    """Compute proved radii of a network, with estimates beside them.

    Parameters
    ----------
    model
        Classifier in evaluation mode.
    splits
        Data whose test images are used: the first of those that attacks use.

    Returns
    -------
    Probe
        Values, all for pixels in [0, 1]: ``lipschitz`` (a bound for the logits), ``margin_median``,
        ``lipschitz_per_margin`` (their ratio), ``<radius>_median`` for every column of :func:`radii`;
        ``<radius>_exceeds``, the share of images where the radius is larger than ``shortened``, which no
        certified radius can be; ``images``; and ``rescaled_change``, the largest relative change of a
        certified radius when the logits are multiplied by :data:`RESCALING`. If the network has a module for
        which no bound is implemented, all values are missing, and ``missing`` names the module. Table:
        :func:`radii`.
    """
    measured = Measured()
    try:
        network = affine_layers(copy.deepcopy(model).cpu().double(), mean=splits.test.mean, sd=splits.test.sd)
    except ValueError as error:
        names = ["lipschitz", "lipschitz_per_margin", "rescaled_change"]
        names += [f"{name}_median" for name in ("margin", *METHODS, *ESTIMATES, "deepfool", "shortened")]
        names += [f"{name}_exceeds" for name in (*METHODS, *ESTIMATES)]
        measured.values.update(dict.fromkeys(names))
        measured.missing.update(dict.fromkeys(names, str(error)))
        return Probe(measured.as_dict())
    index, image = sample(splits.test, count=image_count(splits))
    table = radii(network, image)
    table.insert(0, "image", index.numpy())
    medians = {f"{name}_median": float(table[name].median()) for name in table.columns[2:]}
    exceeds = {
        f"{name}_exceeds": float((table[name] > table["shortened"]).mean()) for name in (*METHODS, *ESTIMATES)
    }
    bound, margin = lipschitz_bound(network), medians["margin_median"]
    values = {
        "images": len(table),
        "lipschitz": bound,
        "lipschitz_per_margin": bound / margin if margin > 0 else math.inf,
        **medians,
        **exceeds,
        "rescaled_change": rescaled_change(network, image[:RESCALED_IMAGES]),
    }
    for name, value in values.items():
        measured.add([name], lambda value=value: value)
    return Probe(measured.as_dict(), table)


def sample(
    images: ImageSet, *, count: int = IMAGES
) -> tuple[Tensor, Float64[Tensor, "images channel row column"]]:
    """Return indices and pixels, in [0, 1] and on the CPU, of the images whose radii are computed."""
    index = attacked_images(images, count=count).cpu()
    return index, images.pixels(index.to(images.images.device), dtype=torch.float64).cpu()


def radii(network: AffineLayers, image: Float[Tensor, "images channel row column"]) -> pd.DataFrame:
    """Return proved, estimated and found distances to the decision boundary, one row per image.

    Returns
    -------
    DataFrame
        ``decision``; ``margin``, in logits; then, in units of pixels, the certified radii ``spectral``,
        ``interval`` and ``crown``; the estimates ``gradient`` (logits linearised at the image), ``dataset``
        (the margin over its largest gradient norm at any of these images) and ``sampled`` (the margin over
        its largest gradient norm at :data:`SAMPLES` points in a ball of DeepFool's radius); ``deepfool``, the
        norm of a perturbation that changes the decision; and ``shortened``, the shortest length along it that
        still does. The last two are infinite where DeepFool does not fool the network.
    """
    attack = deepfool(network, image)
    length = norms(attack.perturbation)
    steep = margin_gradient(network, image)
    found = {"decision": network(image).argmax(dim=1), "margin": differences(network, image)[2].amin(dim=1)}
    found |= {method: certified_radius(network, image, method=method) for method in METHODS}
    found["gradient"] = gradient_radius(network, image)
    found["dataset"] = steep.margin / steep.norm.max()
    found["sampled"] = sampled_radius(
        network, image, reach=length, samples=SAMPLES, generator=torch.Generator().manual_seed(0)
    )
    found["deepfool"] = torch.where(attack.fooled, length, torch.inf)
    share = shortened(network, image, attack.perturbation)
    found["shortened"] = torch.where(attack.fooled, share * length, torch.inf)
    return pd.DataFrame({name: value.numpy() for name, value in found.items()})


def shortened(
    network: AffineLayers,
    image: Float64[Tensor, " images *shape"],
    perturbation: Float64[Tensor, " images *shape"],
    *,
    steps: int = 50,
    halvings: int = 10,
) -> Float64[Tensor, " images"]:
    """Return the smallest tried fraction of each perturbation at which the decision changes.

    Parameters
    ----------
    network
        Function from images to logits.
    image, perturbation
        Images, and perturbations that change the decision; the result is 1 if one does not.
    steps, halvings
        Number of equal steps along the perturbation, and of bisections within the first step that changes
        the decision.
    """
    decision = network(image).argmax(dim=1)
    wide = [-1] + [1] * (image.ndim - 1)

    def changed(share: Tensor) -> Tensor:
        return network(image + share.reshape(wide) * perturbation).argmax(dim=1) != decision

    high = image.new_ones(len(image))
    for step in range(steps - 1, 0, -1):
        share = image.new_full((len(image),), step / steps)
        high = torch.where(changed(share), share, high)
    low = high - 1 / steps
    for _ in range(halvings):
        middle = (low + high) / 2
        there = changed(middle)
        high, low = torch.where(there, middle, high), torch.where(there, low, middle)
    return high


def rescaled_change(network: AffineLayers, image: Float[Tensor, "images channel row column"]) -> float:
    """Return the largest relative change of a certified radius when logits are multiplied by a constant."""
    small, largest = network.rescaled(RESCALING), 0.0
    for method in METHODS:
        before, after = (certified_radius(one, image, method=method) for one in (network, small))
        change = (after - before).abs() / torch.where(before > 0, before, 1.0)
        largest = max(largest, float(change.max()))
    return largest


def reasons(study: probing.Probed) -> dict[str, str]:
    """Return, by architecture, why networks of a study have no certified radii, according to one seed."""
    version, found = probing.PROBES["certified"].version, {}
    for row in study.selected.itertuples():
        probe = study.store.probe(str(row.key), "certified", version=version)
        missing = {} if probe is None else probe["values"]["missing"]
        if missing:
            found.setdefault(str(row.architecture), "; ".join(dict.fromkeys(missing.values())))
    return found


def over_gamma(study: probing.Probed) -> pd.DataFrame:
    """Return a sweep's measurements as text, averaged over seeds: one row per final gamma."""
    columns = [name for name in study.selected if name.startswith("certified_")]
    numbers = study.selected[columns].apply(pd.to_numeric, errors="coerce")
    means = numbers.groupby(study.selected["architecture"]).mean()
    order = [name for name in GAMMAS if name in means.index]
    return means.loc[order].rename(index=lambda name: name.removeprefix("gamma"))


def beside_attacks(study: probing.Probed) -> pd.DataFrame:
    """Return the rows of :func:`radii` for all runs, with the smallest perturbation that any method found.

    Returns
    -------
    DataFrame
        Columns ``key``, ``architecture``, ``seed``, and those of the probe's table; ``smallest``, the minimum
        of ``shortened`` and of the perturbations of the probe ``attacks``, with and without the pixel box;
        ``attacked``, whether that probe exists. There are no rows if no network has certified radii.
    """
    rows = probing.table(study, "certified")
    if rows is None:
        return pd.DataFrame(columns=["architecture", "seed", *METHODS, *ESTIMATES, "smallest", "attacked"])
    attacks = probing.table(study, "attacks")
    found = ["box_smallest", "unbounded_smallest"]
    if attacks is None:
        return rows.assign(smallest=rows["shortened"], attacked=False)
    there = attacks[["key", "image", *(name for name in found if name in attacks)]].assign(attacked=True)
    rows = rows.merge(there, on=["key", "image"], how="left")
    columns = [name for name in ("shortened", *found) if name in rows]
    return rows.assign(smallest=rows[columns].min(axis=1), attacked=rows["attacked"].notna())


def by_run(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians of the radii, and shares of images where they exceed ``smallest``, one row per run.

    Parameters
    ----------
    rows
        Table from :func:`beside_attacks`.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``seed``, the names of the radii, ``smallest``, and ``<radius>_exceeds``.
    """
    names = [*METHODS, *ESTIMATES]
    over = {f"{name}_exceeds": rows[name] > rows["smallest"] for name in names}
    grouped = rows.assign(**over).groupby(["architecture", "seed"])
    medians = grouped[[*names, "smallest"]].median()
    return medians.join(grouped[list(over)].mean()).reset_index()
