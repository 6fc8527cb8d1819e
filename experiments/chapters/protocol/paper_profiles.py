"""The profiles of the paper's data sets: how much they train, and which readouts should hold."""

from __future__ import annotations

import math

import pandas as pd
import torch

from experiments.reporting.tables import number, over_seeds
from experiments.studies.image_shapes import shape_of_data
from experiments.studies.learning_rates import first_retrained, retrained
from experiments.studies.profiles import Profile, resolve, specs
from experiments.studies.study import Study
from lpc.backbones import build_backbone
from lpc.equilibrium import bias_sd, logit_gap, reachable_separation, readout_margin
from lpc.schedules import gamma
from lpc.specs import RunSpec, run_key


def runs() -> pd.DataFrame:
    """Return, one row per profile, how many runs it declares, and on how many images each is trained."""
    table = pd.DataFrame({chosen.name: _asked(chosen) for chosen in resolve("paper")}).T
    table.loc["all"] = table.sum()
    shown = table.map("{:,}".format)
    shown.loc["all", ["epochs", "images per run", "images per run, again"]] = ""
    return shown.rename_axis("profile")


def _asked(chosen: Profile) -> dict[str, int]:
    search = specs(chosen)
    again = first_retrained(search)
    images, more = (
        shape_of_data(spec.data).train * spec.train.epochs for spec in (search[0], retrained(search[0]))
    )
    return {
        "runs": len(search),
        "trained again": len(again),
        "epochs": chosen.train.epochs,
        "images per run": images,
        "images per run, again": more,
        "images in all": len(search) * images + len(again) * more,
    }


def margins() -> pd.DataFrame:
    """Return the readout's margin (``lpc.equilibrium.readout_margin``) of every penalised run, as text.

    Returns
    -------
    DataFrame
        Margins with one row per data set and architecture, one column per learning rate.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for chosen in resolve("paper"):
        for spec in specs(chosen, seeds=1):
            if spec.train.penalty == "squared_norm":
                row = rows.setdefault((chosen.data.name, spec.architecture), {})
                row[number(spec.train.learning_rate, 2)] = number(margin(spec), 2)
    table = pd.DataFrame(list(rows.values()))
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["data set", "architecture"])
    return table


LOST_BELOW, KEPT_ABOVE = 87, 151
"""Margins between which some runs on digits lost their readout; below, all did; above, none was tried."""
FIRST_LOST_BELOW = 50
"""The margin, by the law's first form, below which runs on digits lost their readout."""


def predictions() -> pd.DataFrame:
    """Return IB's margins by the earlier and the present form of the law, as text.

    Returns
    -------
    DataFrame
        Margins with one row per data set and form, one column per learning rate; ``lost`` if all runs on
        digits with such a small margin lost their readout, ``either`` if some did.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for chosen in resolve("paper"):
        for spec in specs(chosen, seeds=1, only=("IB",)):
            shape, rate = shape_of_data(spec.data), spec.train.learning_rate
            now = margin(spec)
            per = {"learning_rate": rate, "classes": shape.classes, "batch_size": spec.train.batch_size}
            one_pair = _gap(spec, classes=2) / bias_sd(**per, images=shape.train)
            first = _gap(spec, classes=2) / bias_sd(**per)
            scale = (
                (10 - 1) / 10 * 2
            )  # ten classes, as in digits: one pair's squared separation over that of all pairs
            forms = {
                "first: walk, one pair": (first, FIRST_LOST_BELOW, FIRST_LOST_BELOW),
                "bridge, one pair": (one_pair, scale * LOST_BELOW, scale * KEPT_ABOVE),
                "now: bridge, all pairs": (now, LOST_BELOW, KEPT_ABOVE),
            }
            for form, (value, low, high) in forms.items():
                word = " lost" if value < low else " either" if value < high else ""
                row = rows.setdefault((chosen.data.name, form), {})
                row[number(rate, 2)] = f"{number(value, 2)}{word}"
    table = pd.DataFrame(list(rows.values()))
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["data set", "form of the law"])
    return table


def _gap(spec: RunSpec, *, classes: int) -> float:
    """Return the logit gap that IB's budget holds at its last gamma, for the separation of some classes."""
    shape, width = shape_of_data(spec.data), spec.model.latent_width
    assert width is not None
    steps = spec.train.epochs * math.ceil(shape.train / spec.train.batch_size)
    separation = reachable_separation(
        width=width, learning_rate=spec.train.learning_rate, steps=steps, classes=classes
    )
    return logit_gap(gamma(spec.train.epochs - 1, spec.train), classes=shape.classes, separation=separation)


def margin(spec: RunSpec) -> float:
    """Return the readout's margin of a run; no image is loaded and no weight is made."""
    shape, width = shape_of_data(spec.data), spec.model.latent_width
    if width is None:
        with torch.device("meta"):  # has shapes but no numbers
            backbone = build_backbone(
                spec.model.backbone, channels=shape.channels, size=shape.size, width=spec.model.backbone_width
            )
        width = int(backbone.feature_width)  # type: ignore[arg-type]
    steps = spec.train.epochs * math.ceil(shape.train / spec.train.batch_size)
    return readout_margin(spec.train, width=width, classes=shape.classes, steps=steps, images=shape.train)


def judged(study: Study) -> pd.DataFrame:
    """Return the readout's margin of runs with a linear penalised latent, and how many lost their readout.

    Parameters
    ----------
    study
        Study with the runs of a profile.

    Returns
    -------
    DataFrame
        Table of text with one row per architecture and learning rate, in order of the margin.
    """
    ended = study.frame[study.frame["status"] == "finished"].set_index("key")
    found: dict[tuple[str, float], list[RunSpec]] = {}
    for spec in study.specs:
        penalised = spec.train.penalty == "squared_norm" and spec.model.penultimate == "linear"
        if penalised and run_key(spec) in ended.index:
            found.setdefault((spec.architecture, spec.train.learning_rate), []).append(spec)
    rows = []
    for name, rate in sorted(found, key=lambda pair: margin(found[pair][0])):
        own = ended.loc[[run_key(spec) for spec in found[name, rate]]]
        bad = own["readout_lost"].astype(bool) | own["at_chance"].astype(bool)
        rows.append(
            {
                "architecture": name,
                "learning rate": f"{rate:g}",
                "margin": number(margin(found[name, rate][0]), 2),
                "readout lost or at chance": f"{int(bad.sum())} of {len(own)}",
                "train accuracy (%)": over_seeds(100 * own["accuracy"]),
            }
        )
    return pd.DataFrame(rows).set_index(["architecture", "learning rate"])
