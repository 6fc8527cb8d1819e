"""Tables of the protocol: Appendix C's numbers beside a profile's, and where the release differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from experiments.chapters.errata.released_training import ALL, RELEASED_RATES, SWITCHES
from experiments.reporting.tables import MISSING, number, over_seeds
from experiments.studies.image_shapes import shape_of_data
from experiments.studies.profiles import Profile, profile, specs
from experiments.studies.recorded import Recorded, recorded
from experiments.studies.schedules import PAPER_EPOCHS, PAPER_RATES, PAPER_TRAIN
from experiments.studies.study import Study
from lpc.specs import VARIANTS, WIDTHS, Variant

_PAPER = PAPER_TRAIN["CIFAR10"]
_EXTRA = {
    "LinPenDropout": "Figure 2 only",
    "NonLinIB": 'left out: "prevents the network from converging"',
}


def _layer(variant: Variant) -> str:
    return {"none": MISSING, "linear": "linear", "nonlinear": "SiLU"}[variant.penultimate]


def architectures() -> pd.DataFrame:
    """Return ``lpc.architectures.VARIANTS`` with the columns of the paper's Table 3, and its place there."""
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
    """Return ``lpc.architectures.WIDTHS``: nodes of the added layer by data set."""
    rows = {
        dataset: {kind: "the backbone's" if nodes is None else str(nodes) for kind, nodes in chosen.items()}
        for dataset, chosen in WIDTHS.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").drop(columns="none")
    return table.rename_axis("data set")


def _settings(chosen: Profile) -> dict[str, str]:
    """Return a profile's settings as text, in the order of the table; no image is loaded."""
    train, data, kept = chosen.train, chosen.data, shape_of_data(chosen.data)
    steps = train.epochs * math.ceil(kept.train / train.batch_size)
    crops = f"crops with padding {data.crop_padding}" if data.crop_padding else "no crops"
    rates = ", ".join(f"{rate:g}" for rate in chosen.learning_rates)
    return {
        "data": f"{data.name}, {kept.train:,} training images of {kept.size} x {kept.size} pixels",
        "test set": "the data set's own",
        "validation set": f"{data.validation:,} images" if data.validation else MISSING,
        "trained again with them": "yes" if chosen.retrain else "no",
        "backbone": f"{chosen.backbone}, width {chosen.backbone_width}",
        "precision of the backbone": train.precision,
        "architectures": f"{len(chosen.architectures)}",
        "epochs": f"{train.epochs}",
        "batch": f"{train.batch_size}",
        "steps": f"{steps:,}",
        "learning rates": rates if chosen.frozen is None else "one per architecture, found on fewer images",
        "first halving, then every": f"epoch {train.decay_start}, {train.decay_every} epochs",
        "weight decay": number(train.weight_decay, 1),
        "γ, first epoch": f"{train.gamma_initial:g}",
        "γ, factor per epoch": f"{train.gamma_factor:.4g}",
        "γ, maximum": f"{train.gamma_maximum:g}",
        "augmentation": f"{'flips' if data.flip else 'no flips'}, {crops}, noise of sd {data.noise:g}",
        "experiments": f"{len(chosen.seeds)} seeds",
        "metrics recorded": f"every {train.record_every} epochs",
        "train accuracy taken": f"every {_epochs(train.accuracy_every)} until it passes 99.9 %",
    }


def _epochs(count: int) -> str:
    return "epoch" if count == 1 else f"{count} epochs"


_APPENDIX_C = {
    "data": "SVHN, CIFAR10, CIFAR100",
    "test set": "the data sets' own",
    "validation set": "named, not described",
    "trained again with them": "not said",
    "backbone": "ResNet-18 (SVHN, CIFAR10), ResNet-50",
    "precision of the backbone": "not given",
    "architectures": "8, and one in Figure 2",
    "epochs": f"{PAPER_EPOCHS}",
    "batch": "not given (128 in the release)",
    "steps": f"{PAPER_EPOCHS * math.ceil(50_000 / _PAPER.batch_size):,} (CIFAR, batch 128)",
    "learning rates": ", ".join(number(rate, 2) for rate in PAPER_RATES),
    "first halving, then every": f"epoch {_PAPER.decay_start}, {_PAPER.decay_every} epochs",
    "weight decay": number(_PAPER.weight_decay, 1),
    "γ, first epoch": f"{_PAPER.gamma_initial:g}",
    "γ, factor per epoch": "1.05 (SVHN: 1.03)",
    "γ, maximum": "1e6 (SVHN: 1e5)",
    "augmentation": "flips, crops with padding 4, noise of sd 0.01",
    "experiments": "5",
    "metrics recorded": f"every {_PAPER.record_every} epochs",
    "train accuracy taken": "not given (every 50 epochs in the release)",
}


def beside_appendix_c(live: Profile, others: Sequence[str] = ("fashion-cpu", "fashion")) -> pd.DataFrame:
    """Return the settings of profiles beside those of the paper's Appendix C.

    Parameters
    ----------
    live
        Profile of the page.
    others
        Names of further profiles; their headings say whether their results are recorded.
    """
    table = pd.DataFrame({"paper": _APPENDIX_C, f"{live.name} (this page)": _settings(live)})
    for name in others:
        if name != live.name:
            state = "declared" if recorded(name) is None else "recorded"
            table[f"{name} ({state})"] = _settings(profile(name))
    return table.rename_axis("setting")


def _changes(architecture: str) -> dict[str, tuple[object, object]]:
    """Return the fields of the paper's runs that the release's switches change, with old and new values."""
    spec = specs(profile("paper-cifar10"), seeds=1, only=(architecture,))[0]
    other = SWITCHES[ALL].change(spec)
    found = {}
    for part in ("train", "model"):
        before, after = asdict(getattr(spec, part)), asdict(getattr(other, part))
        found |= {
            f"{part}.{name}": (value, after[name]) for name, value in before.items() if value != after[name]
        }
    return found


_FIELDS = {
    1: "train.penalty_reduction",
    2: "train.weight_decay",
    3: "train.gamma_overshoot",
    4: "train.decay_start",
    17: "model.dropout_site",
}


def switches() -> pd.DataFrame:
    """Return, for every line on training where the release differs, the setting that trains as it does."""
    changed = {**_changes("NoPenDropout"), **_changes("IB")}
    rows = {}
    for line, name in _FIELDS.items():
        before, after = changed[name]
        rows[line] = {"what to set": f"RunSpec.{name}", "paper": f"{before}", "release": f"{after}"}
    rows[5] = {
        "what to set": "Profile.learning_rates",
        "paper": f"{len(PAPER_RATES)} of them",
        "release": f"the first {RELEASED_RATES}",
    }
    rows[6] = {
        "what to set": "the column of released_training.selections(study)",
        "paper": "validation",
        "release": "test",
    }
    rows[7] = {"what to set": "--seeds", "paper": "5", "release": "1"}
    rows[18] = {"what to set": "--only", "paper": "NonLinPenL1", "release": "LinPenDropout"}
    table = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    return table.rename_axis("line")


def selected_rates(study: Study) -> pd.DataFrame:
    """Return the selected learning rate of every architecture and seed; missing if no run finished."""
    table = study.selected.pivot_table(
        index="architecture", columns="seed", values="train.learning_rate", aggfunc="first"
    )
    table = table.reindex(list(dict.fromkeys(spec.architecture for spec in study.specs)))
    table.columns = [f"seed {seed}" for seed in table.columns]
    return table.map(lambda rate: MISSING if math.isnan(rate) else f"{rate:g}").rename_axis("architecture")


def health(study: Study | Recorded) -> pd.DataFrame:
    """Return how every architecture's runs ended: all of them, and the selected ones.

    Parameters
    ----------
    study
        Study with the runs of a profile. Runs that retrain a selected rate count only as selected.
    """
    rows = {}
    for name in study.profile.architectures:
        runs = study.frame[study.frame["architecture"] == name]
        chosen = study.selected[study.selected["architecture"] == name]
        finished = runs[runs["status"] == "finished"]
        passed = chosen["terminal_epoch"].notna()
        epochs = over_seeds(chosen.loc[passed, "terminal_epoch"]) if passed.any() else MISSING
        rows[name] = {
            "failed": f"{int((runs['status'] == 'failed').sum())} of {len(runs)}",
            "at chance": f"{int(finished['at_chance'].astype(bool).sum())} of {len(runs)}",
            "readout lost": f"{int(finished['readout_lost'].astype(bool).sum())} of {len(runs)}",
            "lost, selected": f"{int(chosen['readout_lost'].astype(bool).sum())} of {len(chosen)}",
            "passed 99.9 %": f"{int(passed.sum())} of {len(chosen)}",
            "at epoch": epochs,
            "train accuracy (%)": over_seeds(100 * chosen["accuracy"]) if len(chosen) else MISSING,
            "cross-entropy": over_seeds(chosen["cross_entropy"]) if len(chosen) else MISSING,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("architecture")
