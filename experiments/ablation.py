"""The LPC ablation: train what is missing, select learning rates on validation, measure those on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from experiments.profiles import Profile, profile, specs
from lpc.data import Splits, load_images
from lpc.latents import Latents, collect
from lpc.machine import default_workers
from lpc.runs import execute_all, load_model, measure_all
from lpc.specs import RunSpec, run_key
from lpc.store import RunStore


def declared(name: str, *, seeds: int | None = None, only: Sequence[str] | None = None) -> list[RunSpec]:
    """Return the runs that a profile declares.

    Parameters
    ----------
    name
        Of the profile.
    seeds
        Number of seeds; None: the profile's own.
    only
        Architectures; None: all.
    """
    return specs(profile(name), seeds=seeds, only=None if only is None else tuple(only))


def select(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, for every architecture and seed, the finished run with the best validation accuracy.

    Ties go to the lower validation cross-entropy. Failed runs are never selected; an architecture and
    seed of which no run finished has no row.

    References
    ----------
    LPC 2024, Appendix C: the session with the best value on the validation set in the last epoch.
    """
    done = frame[frame["status"] == "finished"]
    ranked = done.sort_values(
        ["validation_accuracy", "validation_cross_entropy"], ascending=[False, True], kind="stable"
    )
    best = ranked.drop_duplicates(["architecture", "seed"])
    return best.sort_index().reset_index(drop=True)


@dataclass(frozen=True)
class Study:
    """The runs of a profile that a chapter reads.

    Attributes
    ----------
    profile
        What was declared.
    specs
        Its runs.
    store
        Where they are.
    """

    profile: Profile
    specs: list[RunSpec]
    store: RunStore

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a run, in declared order: the spec, the result, the test metrics of selected runs."""
        rows = self.store.frame()
        if rows.empty:
            return rows
        rows = rows.set_index("key")
        keys = [run_key(spec) for spec in self.specs]
        return rows.loc[[key for key in keys if key in rows.index]].reset_index()

    @cached_property
    def selected(self) -> pd.DataFrame:
        """One row an architecture and seed: the run with the selected learning rate."""
        return select(self.frame)

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row a selected run and epoch, with its architecture and seed."""
        lines = self.store.history()
        return lines.merge(self.selected[["key", "architecture", "seed"]], on="key", how="inner")

    @cached_property
    def images(self) -> Splits:
        """The data of the profile, on the CPU."""
        return load_images(self.profile.data)

    def spec(self, architecture: str, seed: int) -> RunSpec:
        """Return the selected run of an architecture and seed."""
        rows = self.selected
        row = rows[(rows["architecture"] == architecture) & (rows["seed"] == seed)]
        if row.empty:
            raise ValueError(
                f"no finished run of {architecture}, seed {seed}, in profile {self.profile.name}"
            )
        return self.store.spec(str(row["key"].iloc[0]))

    def latents(self, architecture: str, seed: int) -> Latents:
        """Return a selected run's latents of the train set."""
        model = load_model(self.spec(architecture, seed), self.store, self.images.train)
        return collect(model, self.images.train)


def existing(
    name: str,
    *,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    store: str | Path = "runs",
) -> Study:
    """Return the runs of a profile as they are in the store, training nothing."""
    return Study(profile(name), declared(name, seeds=seeds, only=only), RunStore(store))


def progress_of(
    name: str,
    *,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    store: str | Path = "runs",
) -> pd.DataFrame:
    """Return, an architecture a row, how many runs are declared, finished, failed, under way, missing."""
    found = existing(name, seeds=seeds, only=only, store=store)
    status = found.frame.set_index("key")["status"] if len(found.frame) else pd.Series(dtype=str)
    rows = [
        {"architecture": spec.architecture, "status": status.get(run_key(spec), "missing")}
        for spec in found.specs
    ]
    table = pd.DataFrame(rows)
    counts = pd.crosstab(table["architecture"], table["status"])
    order = list(dict.fromkeys(spec.architecture for spec in found.specs))
    counts = counts.reindex(index=order, columns=["finished", "failed", "training", "missing"], fill_value=0)
    counts.insert(0, "declared", counts.sum(axis=1))
    return counts.rename_axis(columns=None)


def study(
    name: str,
    *,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    store: str | Path = "runs",
    progress: bool = True,
) -> Study:
    """Return the runs of a profile, after training and measuring whatever is missing.

    Parameters
    ----------
    name
        Of the profile.
    seeds, only
        As in :func:`declared`.
    store
        Directory of the run store.
    progress
        Whether to show progress bars.
    """
    found = existing(name, seeds=seeds, only=only, store=store)
    execute_all(found.specs, found.store, workers=default_workers(), progress=progress)
    measure_all([found.store.spec(key) for key in found.selected["key"]], found.store, progress=progress)
    return existing(name, seeds=seeds, only=only, store=store)
