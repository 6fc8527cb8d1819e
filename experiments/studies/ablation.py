"""The LPC ablation: train what is missing, select learning rates on validation, measure those on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from experiments.studies import probing
from experiments.studies.profiles import Profile, profile, specs
from experiments.studies.progress import counted
from lpc.data import Splits, load_images
from lpc.devices import default_device, default_workers
from lpc.latents import Latents, collect
from lpc.runs import execute_all, load_model, measure_all
from lpc.specs import DataSpec, RunSpec, run_key
from lpc.store import RunStore

_COLUMNS = ["key", "architecture", "seed", "status", "train.learning_rate", "validation_accuracy"]


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
    if done.empty:
        return done.reset_index(drop=True)
    ranked = done.sort_values(
        ["validation_accuracy", "validation_cross_entropy"], ascending=[False, True], kind="stable"
    )
    best = ranked.drop_duplicates(["architecture", "seed"])
    return best.sort_index().reset_index(drop=True)


def retrained(spec: RunSpec) -> RunSpec:
    """Return the run that trains a selected one again on the full train set, validation images included."""
    return replace(spec, data=replace(spec.data, validation=0))


def first_retrained(specs: Sequence[RunSpec]) -> dict[tuple[str, int], RunSpec]:
    """Return, by architecture and seed, the first of some runs trained again.

    It stands for the one whose learning rate will be chosen: as long, not the same.
    """
    again: dict[tuple[str, int], RunSpec] = {}
    for spec in specs:
        again.setdefault((spec.architecture, spec.seed), retrained(spec))
    return again


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
    def _rows(self) -> pd.DataFrame:
        rows = self.store.frame()
        return rows.set_index("key") if len(rows) else pd.DataFrame(columns=_COLUMNS).set_index("key")

    def _rows_of(self, specs: Sequence[RunSpec]) -> pd.DataFrame:
        rows = self._rows
        return rows.loc[[key for key in map(run_key, specs) if key in rows.index]].reset_index()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a run, in declared order: the spec, the result, the test metrics of selected runs.

        Runs that train a selected rate again are not among them: see ``retrained``.
        """
        return self._rows_of(self.specs)

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """One row an architecture and seed: the run with the best validation accuracy.

        Where it is to be trained again, only once every learning rate is finished or failed.
        """
        if not self.profile.retrain:
            return select(self.frame)
        ended = set(self.frame.loc[self.frame["status"] != "training", "key"])
        open_ = {(spec.architecture, spec.seed) for spec in self.specs if run_key(spec) not in ended}
        pairs = zip(self.frame["architecture"], self.frame["seed"], strict=True)
        return select(self.frame.loc[pd.Series([pair not in open_ for pair in pairs], dtype=bool)])

    @cached_property
    def retrainings(self) -> list[RunSpec]:
        """Runs that train the chosen rates again on the full train set; none where a profile does not."""
        if not self.profile.retrain:
            return []
        return [retrained(self.store.spec(str(key))) for key in self.chosen["key"]]

    @cached_property
    def retrained(self) -> pd.DataFrame:
        """One row a run of ``retrainings`` that has begun.

        ``selected_validation_accuracy`` is that of the run whose learning rate it has; its own, with no
        validation images left, is missing.
        """
        rows = self._rows_of(self.retrainings)
        if rows.empty:
            return rows
        accuracy = dict(zip(map(run_key, self.retrainings), self.chosen["validation_accuracy"], strict=True))
        return rows.assign(selected_validation_accuracy=[accuracy[key] for key in rows["key"]])

    @property
    def runs(self) -> pd.DataFrame:
        """``frame``, and ``retrained`` below it."""
        return pd.concat([rows for rows in (self.frame, self.retrained) if len(rows)] or [self.frame])

    @cached_property
    def selected(self) -> pd.DataFrame:
        """One row an architecture and seed: the run that is measured on the test set, with its probes.

        It is the one with the chosen learning rate or, in a profile that trains it again, that one. What
        probes found of it (``experiments.studies.probing``) are columns ``<probe>_<value>``, missing where
        none is.
        """
        if not self.profile.retrain:
            return probing.columns(self.chosen, self.store)
        rows = self.retrained
        done = rows[rows["status"] == "finished"].reset_index(drop=True) if len(rows) else rows
        return probing.columns(done, self.store)

    def probe_table(self, name: str) -> pd.DataFrame | None:
        """Return the tables of a probe of the selected runs, with ``key``, ``architecture`` and ``seed``.

        None where no selected run has one.
        """
        return probing.table(self, name)

    @property
    def needed(self) -> list[RunSpec]:
        """All runs of the profile, those that train again included.

        Where a learning rate is not chosen yet, the profile's first stands for it: as long, not the same.
        """
        if not self.profile.retrain:
            return self.specs
        again = first_retrained(self.specs)
        again.update({(spec.architecture, spec.seed): spec for spec in self.retrainings})
        return [*self.specs, *again.values()]

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row a selected run and epoch, with its architecture and seed."""
        lines = self.store.history(self.selected["key"])
        return lines.merge(self.selected[["key", "architecture", "seed"]], on="key", how="inner")

    @cached_property
    def images(self) -> Splits:
        """The data of the selected runs, on the CPU; none is held out where they trained on all."""
        return load_images(self._data) if self.profile.retrain else self.searched_images

    @property
    def _data(self) -> DataSpec:
        data = self.profile.data
        return replace(data, validation=0) if self.profile.retrain else data

    @cached_property
    def searched_images(self) -> Splits:
        """The data of all runs that are selected from, on the CPU."""
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

    def among(self, architectures: Sequence[str]) -> list[str]:
        """Return those of some architectures of which there is a selected run: profiles need not have all."""
        return [name for name in architectures if (self.selected["architecture"] == name).any()]

    def latents(self, architecture: str, seed: int) -> Latents:
        """Return a selected run's latents of the train set, on the CPU; computed on a GPU if there is one."""
        images = self.images_at_hand.train
        found = collect(load_model(self.spec(architecture, seed), self.store, images), images)
        return Latents(*(part.cpu() for part in found))

    @cached_property
    def images_at_hand(self) -> Splits:
        """``images``, on the GPU where there is one."""
        device = default_device()
        return self.images if device.type == "cpu" else load_images(self._data, device=device)

    @cached_property
    def searched_images_at_hand(self) -> Splits:
        """``searched_images``, on the GPU where there is one."""
        device = default_device()
        if device.type == "cpu":
            return self.searched_images
        return load_images(self.profile.data, device=device)


def existing(
    name: str,
    *,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    store: str | Path = "runs",
) -> Study:
    """Return the runs of a profile as they are in the store, training nothing."""
    return Study(profile(name), declared(name, seeds=seeds, only=only), RunStore(store))


def progress_of(found: Study) -> pd.DataFrame:
    """Return one row per architecture: the runs in each state (``experiments.studies.progress.counted``).

    Where the selected rates are trained again, ``to retrain`` and ``retrained`` count those runs: declared
    and finished.
    """
    counts = counted(found.specs, found.frame, found.store.holders())
    if found.profile.retrain:
        pairs = pd.Series([name for name, _ in {(spec.architecture, spec.seed) for spec in found.specs}])
        counts["to retrain"] = pairs.value_counts().reindex(counts.index)
        counts["retrained"] = (
            found.selected["architecture"].value_counts().reindex(counts.index, fill_value=0)
        )
    return counts


def study(
    name: str,
    *,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    store: str | Path = "runs",
    workers: int | None = None,
    progress: bool = True,
) -> Study:
    """Return the runs of a profile, after training and measuring whatever is missing.

    In a profile that trains the selected rates again, those runs follow once all others have ended.

    Parameters
    ----------
    name
        Of the profile.
    seeds, only
        As in :func:`declared`.
    store
        Directory of the run store.
    workers
        Processes; None: one a core, one where there is a GPU.
    progress
        Whether to show progress bars.
    """
    workers = default_workers() if workers is None else workers
    found = existing(name, seeds=seeds, only=only, store=store)
    for part in _in_turn(found):
        execute_all(part, found.store, workers=workers, progress=progress)
    found = existing(name, seeds=seeds, only=only, store=store)
    if found.retrainings:
        execute_all(found.retrainings, found.store, workers=workers, progress=progress)
        found = existing(name, seeds=seeds, only=only, store=store)
    measure_all([found.store.spec(key) for key in found.selected["key"]], found.store, progress=progress)
    return existing(name, seeds=seeds, only=only, store=store)


def _in_turn(found: Study) -> list[list[RunSpec]]:
    """Runs that are trained together: all, or one seed after another."""
    if not found.profile.seeds_first:
        return [found.specs]
    by_seed: dict[int, list[RunSpec]] = {}
    for spec in found.specs:
        by_seed.setdefault(spec.seed, []).append(spec)
    return list(by_seed.values())
