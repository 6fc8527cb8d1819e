"""How the optimizer affects the cube: class means by optimizer, from recorded runs and runs of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from torch import Tensor

from experiments.reporting.intervals import interval
from experiments.studies.optimizer_tables import OPTIMIZERS, Network
from experiments.studies.recorded import Recorded
from lpc.data import ImageSet
from lpc.figures import Look
from lpc.latents import collect
from lpc.runs import execute, load_model
from lpc.specs import RunSpec
from lpc.store import RunStore
from lpc.training.optimizers import latent_turn

LOOKS: Mapping[str, Look] = {
    "AdamW": Look("#0072B2", "-", "o"),
    "TurnedAdamW": Look("#56B4E9", "-", "s"),
    "EquivariantAdam": Look("#D55E00", "-", "D"),
    "CoupledAdam": Look("#009E73", "-", "^"),
    "SGD": Look("#000000", "-", "X"),
    "Lion": Look("#CC79A7", "-", "P"),
}
"""Colours (Okabe and Ito's) and markers of the optimizers."""


def random_spread(*, classes: int, width: int, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """Return the spread of class means drawn from an isotropic Gaussian, one value per draw.

    Parameters
    ----------
    classes, width
        Numbers of classes K and of nodes P.
    seed, draws
        Seed and number of draws.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(draws, classes, width, generator=generator, dtype=torch.float64).abs()
    return (means.std(dim=1, correction=0) / means.mean(dim=1)).mean(dim=1).numpy()


def panels(found: Recorded) -> dict[str, pd.DataFrame]:
    """Return recorded runs by the title of their panel: one panel per number of nodes and gamma.

    If every optimizer has a gamma of its own, all optimizers with the same number of nodes share a panel.

    Parameters
    ----------
    found
        Recorded runs of profile ``cube`` or ``cube-long``.
    """
    runs = found.selected
    networks = pd.DataFrame(map(Network.named, runs["architecture"]), index=runs.index)
    own = networks.groupby(["optimizer", "width"])["gamma"].nunique().max() == 1
    shown = {}
    for _, group in networks.groupby(["width"] if own else ["width", "gamma"], sort=False):
        gammas = group.drop_duplicates("optimizer").set_index("optimizer")["gamma"]
        largest = gammas.max()
        others = ", ".join(f"{name} {gamma:,.0f}" for name, gamma in gammas.items() if gamma != largest)
        heading = f"{group['width'].iloc[0]} nodes, {found.profile.train.epochs:,} epochs"
        title = f"{heading}\nγ to {largest:,.0f}" + (f" ({others})" if others else "")
        shown[title] = runs.loc[group.index]
    return shown


def draw_spreads(
    axes: Sequence[Axes] | np.ndarray, panels: Mapping[str, pd.DataFrame], *, classes: int = 10
) -> None:
    """Draw the spread of every run by optimizer, one panel per table of runs of one width.

    Markers are seeds, and bars are means with their 95 % intervals. The hollow markers of AdamW in turned
    coordinates are the same runs, measured along the optimizer's axes. The grey band is the middle 95 % of
    random class means; a cube has spread 0.

    Parameters
    ----------
    axes
        One pair of axes per panel.
    panels
        Runs by title, with ``architecture``, ``cube_spread`` and, for some, ``cube_spread_optimizer``.
    classes
        Number of classes K.
    """
    order = [*LOOKS]
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        names = sorted(set(runs["architecture"]), key=lambda name: order.index(Network.named(name).optimizer))
        networks = [Network.named(name) for name in names]
        at_random = random_spread(classes=classes, width=networks[0].width)
        low, middle, high = np.quantile(at_random, [0.025, 0.5, 0.975])
        ax.axhspan(low, high, color="0.88", zorder=0)
        ax.axhline(middle, color="0.6", linewidth=1, zorder=0)
        for place, (name, network) in enumerate(zip(names, networks, strict=True)):
            own, look = runs[runs["architecture"] == name], LOOKS[network.optimizer]
            _dots(ax, place, own["cube_spread"], look, hollow=False)
            if "cube_spread_optimizer" in own and own["cube_spread_optimizer"].notna().any():
                _dots(ax, place + 0.3, own["cube_spread_optimizer"], look, hollow=True)
        ax.set_xticks(range(len(names)), [network.optimizer for network in networks], rotation=60, ha="right")
        ax.set(title=title, xlim=(-0.6, len(names) - 0.2))
        ax.grid(axis="y", alpha=0.3)
    for ax in axes:
        ax.set_ylim(bottom=0)  # last, because it keeps the upper limit, which panels may share


def _dots(ax: Axes, place: float, values: pd.Series, look: Look, *, hollow: bool) -> None:
    shown = pd.to_numeric(values).dropna()
    face = "none" if hollow else look.colour
    offsets = place + np.linspace(-0.08, 0.08, len(shown))
    ax.plot(offsets, shown, look.marker, color=look.colour, markerfacecolor=face, markersize=5)
    found = interval(shown.tolist())
    if np.isfinite(found.error):
        ax.vlines(place, found.low, found.high, color=look.colour, linewidth=1)


def beside(spec: RunSpec, store: RunStore, optimizers: Sequence[str]) -> dict[str, RunSpec]:
    """Train a run's network with other optimizers, too, at its rate and budget; finished runs are kept.

    Parameters
    ----------
    spec
        Spec of a run with AdamW.
    store
        Store that keeps the runs.
    optimizers
        Names of optimizers, keys of ``OPTIMIZERS``.

    Returns
    -------
    dict
        Specs by optimizer.
    """
    found = {}
    for name in optimizers:
        train = replace(spec.train, optimizer=OPTIMIZERS[name])
        architecture = spec.architecture if name == "AdamW" else f"{spec.architecture}-{name}"
        found[name] = replace(spec, architecture=architecture, train=train)
        execute(found[name], store)
    return found


Means = tuple[Float[Tensor, "points width"], Integer[Tensor, " points"]]


def views(specs: Mapping[str, RunSpec], store: RunStore, images: ImageSet) -> dict[str, Means]:
    """Return training latents and labels by title: along the nodes, and along the axes of turned AdamW.

    Parameters
    ----------
    specs
        Specs from :func:`beside`.
    store
        Store with the runs.
    images
        Training images.
    """
    found = {}
    for name, spec in specs.items():
        latents = collect(load_model(spec, store, images), images)
        latent, label = latents.latent.cpu().double(), latents.label.cpu()
        found[f"{name}\nits nodes" if name == "TurnedAdamW" else f"{name}\nnodes"] = latent, label
        if name == "TurnedAdamW":
            turn = latent_turn(spec.seed, latent.shape[1]).double()
            found[f"{name}\nits optimizer's axes"] = latent @ turn.mT, label
    return found
