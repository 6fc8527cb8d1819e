"""How the released code trains and selects differently: one switch at a time, all of them, and selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from experiments.studies.learning_rates import select
from experiments.studies.schedules import PAPER_EPOCHS
from experiments.studies.study import Study
from lpc.computing.devices import default_workers
from lpc.latents import collect
from lpc.runs import execute_all, load_model, measure_all
from lpc.runs.measurements import accuracy
from lpc.specs import RunSpec, run_key

HERE = "as here"
ALL = "all of these"
RELEASED_DECAY = 300
"""Epoch, of the paper's 800, after which the release first halves the learning rate (the paper: 250)."""
RELEASED_RATES = 2
"""Number of learning rates that the release's generator tries by default (the paper: 5)."""
TRAINED: Mapping[str, tuple[str, ...]] = {
    "IB": ("penalty averaged over nodes", "weight decay", "γ past its maximum", "halving later", ALL),
    "WideIB": ("penalty averaged over nodes",),
    "LinPen": ("weight decay", ALL),
    "NoPenDropout": ("dropout on the logits",),
}
"""Switches that are trained for each architecture: those that can affect it."""


class Switch(NamedTuple):
    """One way in which the release trains differently.

    Attributes
    ----------
    line
        Line of ``errata.toml``.
    change
        Function that changes the spec of a run that trains as in the paper.
    """

    line: int
    change: Callable[[RunSpec], RunSpec]


def _averaged(spec: RunSpec) -> RunSpec:
    return replace(spec, train=replace(spec.train, penalty_reduction="mean"))


def _decayed(spec: RunSpec) -> RunSpec:
    return replace(spec, train=replace(spec.train, weight_decay=5e-4))


def _overshot(spec: RunSpec) -> RunSpec:
    """Let gamma end as far above its maximum as the release's can; a profile's own may end exactly there."""
    return replace(
        spec, train=replace(spec.train, gamma_maximum=spec.train.gamma_maximum * spec.train.gamma_factor)
    )


def _later(spec: RunSpec) -> RunSpec:
    if spec.train.decay_start is None:
        return spec
    start = round(spec.train.epochs * RELEASED_DECAY / PAPER_EPOCHS)
    return replace(spec, train=replace(spec.train, decay_start=start))


def _on_logits(spec: RunSpec) -> RunSpec:
    return replace(spec, model=replace(spec.model, dropout_site="logits"))


def _all(spec: RunSpec) -> RunSpec:
    """Apply every switch; gamma ends where the release's rule ends it."""
    spec = _later(_decayed(spec))
    if spec.train.penalty == "squared_norm":
        spec = replace(_averaged(spec), train=replace(_averaged(spec).train, gamma_overshoot=True))
    return _on_logits(spec) if spec.model.dropout else spec


SWITCHES: Mapping[str, Switch] = {
    "penalty averaged over nodes": Switch(1, _averaged),
    "weight decay": Switch(2, _decayed),
    "γ past its maximum": Switch(3, _overshot),
    "halving later": Switch(4, _later),
    "dropout on the logits": Switch(17, _on_logits),
    ALL: Switch(0, _all),
}
"""Switches by name. Lines 5, 6, 7 and 18 need no training: see :func:`selections`, and the existing runs."""


def _at_the_end(spec: RunSpec) -> RunSpec:
    return replace(spec, train=replace(spec.train, record_every=spec.train.epochs))


def switched(study: Study) -> dict[tuple[str, int, str], RunSpec]:
    """Return the specs to train, by architecture, seed and switch, each at its selected learning rate.

    Their metrics are recorded only after the last epoch, which saves most of the measuring.

    Parameters
    ----------
    study
        Study with the runs of a profile; runs that it lacks are left out.
    """
    pairs = study.selected[["architecture", "seed"]].itertuples(index=False)
    return {
        (str(name), int(seed), switch): _at_the_end(SWITCHES[switch].change(study.spec(str(name), int(seed))))
        for name, seed in pairs
        for switch in TRAINED.get(str(name), ())
    }


def trained(study: Study, *, workers: int | None = None, progress: bool = True) -> pd.DataFrame:
    """Train and measure missing runs, and return one row per run, those of the study first.

    The extra runs are kept in the study's store but do not belong to the study, so its tables do not change.
    A second call trains nothing.

    Parameters
    ----------
    study
        Study with the runs of a profile.
    workers
        Number of processes; None: one per core.
    progress
        Whether to show progress bars.

    Returns
    -------
    DataFrame
        Columns ``architecture``, ``seed``, ``switch`` (:data:`HERE` or a key of :data:`SWITCHES`), ``key``,
        and the metrics of the store's table, missing if a run failed.
    """
    specs = switched(study)
    execute_all(list(specs.values()), study.store, workers=workers or default_workers(), progress=progress)
    finished = [spec for spec in specs.values() if study.store.result(spec)["status"] == "finished"]
    measure_all(finished, study.store, progress=progress)
    rows = [
        {"architecture": name, "seed": seed, "switch": switch, "key": run_key(spec)}
        for (name, seed, switch), spec in specs.items()
    ]
    known = study.selected[study.selected["architecture"].isin(TRAINED)]
    base = known[["architecture", "seed", "key"]].assign(switch=HERE)
    index = pd.concat([base, pd.DataFrame(rows, columns=["architecture", "seed", "switch", "key"])])
    metrics = study.store.frame().drop(columns=["architecture", "seed"])
    return index.merge(metrics, on="key", how="left")


def selections(study: Study) -> pd.DataFrame:
    """Return the test accuracy that each way of selecting the learning rate would report.

    Parameters
    ----------
    study
        Study with the runs of a profile; all its finished runs, selected or not, are evaluated on the test
        set.

    Returns
    -------
    DataFrame
        One row per architecture and seed: ``validation`` (the paper's), ``test`` (the release's: the best
        test accuracy), and both for the first :data:`RELEASED_RATES` learning rates, as ``validation_few``
        and ``test_few``.
    """
    frame = study.frame[study.frame["status"] == "finished"].copy()
    images = study.searched_images_at_hand.test
    models = (load_model(study.store.spec(str(key)), study.store, images) for key in frame["key"])
    outputs = (collect(model, images) for model in models)
    frame["on_test"] = [accuracy(output.logits, output.label) for output in outputs]
    few = frame[frame["train.learning_rate"].isin(study.profile.learning_rates[:RELEASED_RATES])]
    pair = ["architecture", "seed"]
    parts = {
        "validation": select(frame).set_index(pair)["on_test"],
        "test": frame.groupby(pair, sort=False)["on_test"].max(),
        "validation_few": select(few).set_index(pair)["on_test"],
        "test_few": few.groupby(pair, sort=False)["on_test"].max(),
    }
    return pd.DataFrame(parts).reindex(parts["test"].index).reset_index()
