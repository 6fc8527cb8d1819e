"""The protocol as tables: Appendix C's numbers, a profile's beside them, and where the release differs."""

from __future__ import annotations

import math

import pandas as pd

from experiments.ablation import Study
from experiments.profiles import PAPER_EPOCHS, PAPER_RATES, PAPER_TRAIN
from experiments.tables import MISSING, mean_sd, number
from lpc.specs import VARIANTS, WIDTHS, Variant

_PAPER = PAPER_TRAIN["CIFAR10"]
_EXTRA = {
    "LinPenDropout": "Figure 2 only",
    "NonLinIB": 'left out: "prevents the network from converging"',
}


def _layer(variant: Variant) -> str:
    return {"none": MISSING, "linear": "linear", "nonlinear": "SiLU"}[variant.penultimate]


def architectures() -> pd.DataFrame:
    """Return ``lpc.specs.VARIANTS`` in the columns of the paper's Table 3, and where the paper has them."""
    rows = {
        name: {
            "H loss": "yes" if variant.penalty == "squared_norm" else MISSING,
            "added layer": _layer(variant),
            "nodes": MISSING if variant.width == "none" else variant.width,
            "dropout": number(variant.dropout, 1) if variant.dropout else MISSING,
            "L1": number(_PAPER.l1, 1) if variant.penalty == "weight_l1" else MISSING,
            "in the paper": _EXTRA.get(name, "Tables 1 to 3"),
        }
        for name, variant in VARIANTS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("architecture")


def widths() -> pd.DataFrame:
    """Return ``lpc.specs.WIDTHS``: nodes of the added layer by data set."""
    rows = {
        dataset: {kind: "the backbone's" if nodes is None else str(nodes) for kind, nodes in chosen.items()}
        for dataset, chosen in WIDTHS.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").drop(columns="none")
    return table.rename_axis("data set")


def beside_appendix_c(study: Study) -> pd.DataFrame:
    """Return what a profile does, setting by setting, beside what the paper's Appendix C says.

    Parameters
    ----------
    study
        Of the profile; its images are loaded for their numbers.
    """
    chosen, train, data, images = study.profile, study.profile.train, study.profile.data, study.images
    held = MISSING if images.validation is None else f"{len(images.validation):,} images"
    steps = train.epochs * math.ceil(len(images.train) / train.batch_size)
    crops = f"crops with padding {data.crop_padding}" if data.crop_padding else "no crops"
    rows = {
        "data": ("SVHN, CIFAR10, CIFAR100", f"{data.name}, {len(images.train):,} training images"),
        "test set": ("the data sets' own", f"{len(images.test):,} images"),
        "validation set": ("named, not described", held),
        "backbone": (
            "ResNet-18 (SVHN, CIFAR10), ResNet-50",
            f"{chosen.backbone}, width {chosen.backbone_width}",
        ),
        "epochs": (f"{PAPER_EPOCHS}", f"{train.epochs}"),
        "batch": ("not given (128 in the release)", f"{train.batch_size}"),
        "steps": (
            f"{PAPER_EPOCHS * math.ceil(50_000 / _PAPER.batch_size):,} (CIFAR, batch 128)",
            f"{steps:,}",
        ),
        "learning rates": (
            ", ".join(number(rate, 2) for rate in PAPER_RATES),
            ", ".join(f"{rate:g}" for rate in chosen.learning_rates),
        ),
        "first halving, then every": (
            f"epoch {_PAPER.decay_start}, {_PAPER.decay_every} epochs",
            f"epoch {train.decay_start}, {train.decay_every} epochs",
        ),
        "weight decay": (number(_PAPER.weight_decay, 1), number(train.weight_decay, 1)),
        "γ, first epoch": (f"{_PAPER.gamma_initial:g}", f"{train.gamma_initial:g}"),
        "γ, factor an epoch": ("1.05 (SVHN: 1.03)", f"{train.gamma_factor:.4f}"),
        "γ, maximum": ("1e6 (SVHN: 1e5)", f"{train.gamma_maximum:g}"),
        "augmentation": (
            "flips, crops with padding 4, noise of sd 0.01",
            f"{'flips' if data.flip else 'no flips'}, {crops}, noise of sd {data.noise:g}",
        ),
        "experiments": ("5", f"{len(chosen.seeds)} seeds"),
        "metrics recorded": (f"every {_PAPER.record_every} epochs", f"every {train.record_every} epochs"),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["paper", f"{chosen.name} (ours)"])
    return table.rename_axis("setting")


def selected_rates(study: Study) -> pd.DataFrame:
    """Return the selected learning rate of every architecture and seed; missing where no run finished."""
    table = study.selected.pivot_table(
        index="architecture", columns="seed", values="train.learning_rate", aggfunc="first"
    )
    table = table.reindex(list(dict.fromkeys(spec.architecture for spec in study.specs)))
    table.columns = [f"seed {seed}" for seed in table.columns]
    return table.map(lambda rate: MISSING if math.isnan(rate) else f"{rate:g}").rename_axis("architecture")


def health(study: Study) -> pd.DataFrame:
    """Return, for every architecture, how its runs ended: all of them, and the selected ones.

    Parameters
    ----------
    study
        Runs of a profile.
    """
    rows = {}
    for name in dict.fromkeys(spec.architecture for spec in study.specs):
        runs = study.frame[study.frame["architecture"] == name]
        chosen = study.selected[study.selected["architecture"] == name]
        lost = runs.loc[runs["status"] == "finished", "readout_lost"].astype(bool)
        passed = chosen["terminal_epoch"].notna()
        epochs = mean_sd(chosen.loc[passed, "terminal_epoch"]) if passed.any() else MISSING
        rows[name] = {
            "failed": f"{int((runs['status'] == 'failed').sum())} of {len(runs)}",
            "readout lost": f"{int(lost.sum())} of {len(runs)}",
            "lost, selected": f"{int(chosen['readout_lost'].astype(bool).sum())} of {len(chosen)}",
            "passed 99.9 %": f"{int(passed.sum())} of {len(chosen)}",
            "at epoch": epochs,
            "train accuracy (%)": mean_sd(100 * chosen["accuracy"]) if len(chosen) else MISSING,
            "cross-entropy": mean_sd(chosen["cross_entropy"]) if len(chosen) else MISSING,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("architecture")
