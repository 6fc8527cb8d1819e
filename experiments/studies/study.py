"""A study: the declared runs of a profile as they are in a store, trained, selected and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pandas as pd
import torch

from experiments.paths import in_project
from experiments.studies import probing
from experiments.studies.learning_rates import first_retrained, retrained, select
from lpc.computing.devices import default_device, default_workers
from lpc.data import Splits, load_images
from lpc.datasets import absent_files, load_raw
from lpc.errors import unknown_name
from lpc.heads import Classifier
from lpc.latents import Latents, collect
from lpc.runs import execute_all, load_model, measure_all
from lpc.specs import DataSpec, RunSpec, run_key
from lpc.store import RunStore

_COLUMNS = ["key", "architecture", "seed", "status", "train.learning_rate", "validation_accuracy"]


def title(spec: RunSpec) -> str:
    """Return a run's name for people."""
    return f"{spec.architecture}, seed {spec.seed}, learning rate {spec.train.learning_rate:g}"


def titles(specs: Sequence[RunSpec], *, most: int = 5) -> str:
    """Return a description of some runs, the first few by name."""
    more = f"; and {len(specs) - most} more" if len(specs) > most else ""
    return "; ".join(map(title, specs[:most])) + more


class Declared(Protocol):
    """Fields that both kinds of profile have."""

    @property
    def name(self) -> str:
        """Name of the profile."""
        ...

    @property
    def summary(self) -> str:
        """A line that the book prints about it."""
        ...

    @property
    def retrain(self) -> bool:
        """Whether the selected learning rates are trained again on the full train set."""
        ...

    @property
    def seeds_first(self) -> bool:
        """Whether one seed of everything is trained before the next seed."""
        ...


ProfileT = TypeVar("ProfileT", bound=Declared)


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[ProfileT]):
    """One of the two kinds of study: its particulars, and the making of its studies.

    Attributes
    ----------
    name
        Name on the command line: ``ablation`` or ``bottlenecks``.
    profiles
        Profiles by name.
    resolve
        Function that returns the profiles that a name stands for, only those of one data set if one is given.
    declared
        Function that returns the runs of a profile: ``declared(name, seeds=..., only=...)``.
    selects
        Whether a learning rate is selected for every architecture and seed, by its validation accuracy, and
        only that run is measured on the test set. If not, every run that has ended is shown.
    recorded_with
        Metric that the history has in exactly those epochs in which all metrics were recorded.
    summaries
        Function that adds columns to a table of runs (one row per run) from their history; None: none are
        added.
    """

    name: str
    profiles: Mapping[str, ProfileT]
    resolve: Callable[[str, str | None], Sequence[ProfileT]]
    declared: Callable[..., list[RunSpec]]
    selects: bool
    recorded_with: str
    summaries: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame] | None = None

    def existing(
        self,
        name: str,
        *,
        seeds: int | None = None,
        only: Sequence[str] | None = None,
        store: str | Path = "runs",
    ) -> Study[ProfileT]:
        """Return the runs of a profile as they are in the store, training nothing."""
        runs = self.declared(name, seeds=seeds, only=only)  # its error names similar profiles
        return Study(self.profiles[name], runs, RunStore(in_project(store)), self)

    def study(
        self,
        name: str,
        *,
        seeds: int | None = None,
        only: Sequence[str] | None = None,
        store: str | Path = "runs",
        workers: int | None = None,
        progress: bool = True,
    ) -> Study[ProfileT]:
        """Return the runs of a profile, after training and measuring whatever is missing.

        Parameters
        ----------
        name
            Name of the profile.
        seeds, only
            Number of seeds, and names of runs, as in the kind's ``declared``.
        store
            Folder of the run store; a relative one is in the project, wherever the call is made.
        workers, progress
            The arguments of :meth:`Study.trained`.
        """
        found = self.existing(name, seeds=seeds, only=only, store=store)
        return found.trained(workers=workers, progress=progress)


@dataclass(frozen=True)
class Study(Generic[ProfileT]):
    """The runs of a profile that a chapter reads.

    Attributes
    ----------
    profile
        Profile that declares the runs.
    specs
        Specs of its runs.
    store
        Store that keeps them.
    kind
        Kind of study, which says how they are selected and summarised.
    """

    profile: ProfileT
    specs: list[RunSpec]
    store: RunStore
    kind: Kind[ProfileT]

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return self.store.rows()

    def _rows_of(self, specs: Sequence[RunSpec]) -> pd.DataFrame:
        """Return the rows of runs that have begun, with the columns and types of these only."""
        rows = [self._rows[key] for key in map(run_key, specs) if key in self._rows]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=_COLUMNS)

    @cached_property
    def _begun(self) -> pd.DataFrame:
        return self._rows_of(self.specs)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run that has begun, in declared order: spec, status, last metrics, test metrics.

        The summaries of the kind are columns too. Runs that train a selected rate again are not among them:
        see ``retrained``.
        """
        summaries = self.kind.summaries
        return self._begun if summaries is None else summaries(self._begun, self.history)

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """One row per architecture and seed: the run with the best validation accuracy.

        Only once every learning rate is finished or failed: a run that is missing never changes which of the
        others is selected.
        """
        ended = set(self.frame.loc[self.frame["status"] != "training", "key"])
        open_ = {(spec.architecture, spec.seed) for spec in self.specs if run_key(spec) not in ended}
        pairs = zip(self.frame["architecture"], self.frame["seed"], strict=True)
        return select(self.frame.loc[pd.Series([pair not in open_ for pair in pairs], dtype=bool)])

    @cached_property
    def retrainings(self) -> list[RunSpec]:
        """Runs that retrain the chosen rates on the full train set; none if the profile does not retrain."""
        if not self.profile.retrain:
            return []
        return [retrained(self.store.spec(str(key))) for key in self.chosen["key"]]

    @cached_property
    def retrained(self) -> pd.DataFrame:
        """One row per run of ``retrainings`` that has begun.

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
        """One row per run that is shown and judged.

        In a kind that selects, that is the run of each architecture and seed that is measured on the test
        set: the one with the chosen learning rate or, in a profile that trains it again, that one. What
        probes found of it (``experiments.studies.probing``) are columns ``<probe>_<value>``, missing where
        none is. In a kind that does not, every run that has ended.
        """
        if not self.kind.selects:
            return self.frame[self.frame["status"] != "training"].reset_index(drop=True)
        if not self.profile.retrain:
            return probing.columns(self.chosen, self.store)
        rows = self.retrained
        done = rows[rows["status"] == "finished"].reset_index(drop=True) if len(rows) else rows
        return probing.columns(done, self.store)

    @property
    def tested(self) -> list[RunSpec]:
        """Runs that are measured on the test set once trained: the selected ones, if the kind selects."""
        if not self.kind.selects:
            return []
        return [self.store.spec(str(key)) for key in self.selected["key"]]

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
        """One row per run and epoch, with architecture and seed.

        In a kind that selects, of the selected runs; in one that does not, of all that have begun, even those
        that failed later, and only the epochs in which metrics were recorded.
        """
        shown = (self.selected if self.kind.selects else self._begun)[["key", "architecture", "seed"]]
        lines = self.store.history(shown["key"]).merge(shown, on="key", how="inner")
        if self.kind.selects or self.kind.recorded_with not in lines:
            return lines
        return lines[lines[self.kind.recorded_with].notna()].reset_index(drop=True)

    def spec(self, architecture: str, seed: int) -> RunSpec:
        """Return the run of an architecture and seed: the selected one, if the kind selects."""
        if not self.kind.selects:
            for spec in self.specs:
                if (spec.architecture, spec.seed) == (architecture, seed):
                    return spec
            known = dict.fromkeys(spec.architecture for spec in self.specs)
            raise unknown_name(f"run with seed {seed} of profile {self.profile.name}", architecture, known)
        rows = self.selected
        row = rows[(rows["architecture"] == architecture) & (rows["seed"] == seed)]
        if row.empty:
            raise ValueError(
                f"no finished run of {architecture}, seed {seed}, in profile {self.profile.name}"
            )
        return self.store.spec(str(row["key"].iloc[0]))

    def among(self, architectures: Sequence[str]) -> list[str]:
        """Return those of some architectures that have a selected run: profiles need not have all."""
        return [name for name in architectures if (self.selected["architecture"] == name).any()]

    def classifier(self, architecture: str, seed: int) -> Classifier:
        """Return a finished run's classifier in evaluation mode, on the CPU."""
        spec = self.spec(architecture, seed)
        return load_model(spec, self.store, self._loaded(spec.data).train)

    def latents(self, architecture: str, seed: int) -> Latents:
        """Return a run's latents of its train set, on the CPU; computed on a GPU if there is one."""
        spec = self.spec(architecture, seed)
        images = self._loaded(spec.data, default_device()).train
        found = collect(load_model(spec, self.store, images), images)
        return Latents(*(part.cpu() for part in found))

    @property
    def images(self) -> Splits:
        """The data of the selected runs, on the CPU; none is held out where they trained on all."""
        return self._loaded(self._data)

    @property
    def images_at_hand(self) -> Splits:
        """``images``, on the GPU where there is one."""
        return self._loaded(self._data, default_device())

    @property
    def searched_images(self) -> Splits:
        """The data of all runs that are selected from, on the CPU."""
        return self._loaded(self._searched)

    @property
    def searched_images_at_hand(self) -> Splits:
        """``searched_images``, on the GPU where there is one."""
        return self._loaded(self._searched, default_device())

    def images_of(self, architecture: str) -> Splits:
        """Return the data of an architecture's runs, on the CPU."""
        return self._loaded(self.spec(architecture, 0).data)

    @property
    def _data(self) -> DataSpec:
        return replace(self._searched, validation=0) if self.profile.retrain else self._searched

    @property
    def _searched(self) -> DataSpec:
        first, *others = dict.fromkeys(spec.data for spec in self.specs)
        if others:
            raise ValueError(
                f"the runs of profile {self.profile.name} have {1 + len(others)} data sets; expected one: "
                "ask for the images of an architecture (images_of)"
            )
        return first

    def _loaded(self, data: DataSpec, device: torch.device | str = "cpu") -> Splits:
        place = data, str(device)
        if place not in self._splits:
            self._splits[place] = load_images(data, device=device)
        return self._splits[place]

    @cached_property
    def _splits(self) -> dict[tuple[DataSpec, str], Splits]:
        return {}

    def trained(self, *, workers: int | None = None, progress: bool = True) -> Study[ProfileT]:
        """Return the study after training and measuring whatever is missing.

        In a profile that trains the selected rates again, those runs follow once all others have ended.

        Parameters
        ----------
        workers
            Number of processes; None: one per core, or one if there is a GPU.
        progress
            Whether to show progress bars.

        Raises
        ------
        ValueError
            If runs are missing although all were trained (named).
        """
        workers = default_workers() if workers is None else workers
        self._find_data()
        for part in self._in_turn():
            execute_all(part, self.store, workers=workers, progress=progress)
        found = self.afresh()
        if found.retrainings:
            execute_all(found.retrainings, found.store, workers=workers, progress=progress)
            found = found.afresh()
        if found.tested:
            measure_all(found.tested, found.store, progress=progress)
            found = found.afresh()
        if found.missing:
            raise ValueError(
                f"runs of profile {found.profile.name} are missing in {found.store.root} although all were "
                f"trained: {titles(found.missing)}; if nobody removed them, train the profile again"
            )
        return found

    @property
    def missing(self) -> list[RunSpec]:
        """Runs that have not ended, those that train a chosen rate again included."""
        rows = self.runs
        ended = set(rows.loc[rows["status"] != "training", "key"])
        return [spec for spec in (*self.specs, *self.retrainings) if run_key(spec) not in ended]

    def check_ended(self) -> None:
        """Check that every run has ended, because fewer runs would be another study.

        Raises
        ------
        ValueError
            If runs have not ended (named).
        """
        if missing := self.missing:
            total = len(self.specs) + len(self.retrainings)
            raise ValueError(
                f"{len(missing)} of {total} runs of profile {self.profile.name} have not ended in "
                f"{self.store.root}: {titles(missing)}; train them, or accept missing runs with --partial"
            )

    def _find_data(self) -> None:
        """Fetch the missing data of runs to train, before any is trained."""
        for name in filter(absent_files, dict.fromkeys(spec.data.name for spec in self.specs)):
            if not all(self.store.finished(spec) for spec in self.needed if spec.data.name == name):
                load_raw(name)

    def afresh(self) -> Study[ProfileT]:
        """Return the study as the store has it now."""
        return replace(self, store=RunStore(self.store.root))

    def _in_turn(self) -> list[list[RunSpec]]:
        """Runs that are trained together: all, or one seed after another."""
        if not self.profile.seeds_first:
            return [self.specs]
        by_seed: dict[int, list[RunSpec]] = {}
        for spec in self.specs:
            by_seed.setdefault(spec.seed, []).append(spec)
        return list(by_seed.values())
