"""A study: a profile's declared runs and their state in a store; it trains, selects and reads them."""

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
    """Return a readable name of a run."""
    return f"{spec.architecture}, seed {spec.seed}, learning rate {spec.train.learning_rate:g}"


def titles(specs: Sequence[RunSpec], *, most: int = 5) -> str:
    """Return a phrase that names the first few runs and counts the rest."""
    more = f"; and {len(specs) - most} more" if len(specs) > most else ""
    return "; ".join(map(title, specs[:most])) + more


class Declared(Protocol):
    """Fields that profiles of both kinds have."""

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
        """Whether to train the selected learning rates again on the full train set."""
        ...

    @property
    def seeds_first(self) -> bool:
        """Whether to train one seed of everything before the next seed."""
        ...


ProfileT = TypeVar("ProfileT", bound=Declared)


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[ProfileT]):
    """One of the two kinds of study; it makes the studies of its profiles.

    Attributes
    ----------
    name
        Name on the command line: ``ablation`` or ``bottlenecks``.
    profiles
        Profiles by name.
    resolve
        Function that returns a name's profiles; if a data set is given, only those that train on it.
    declared
        Function that returns the runs of a profile: ``declared(name, seeds=..., only=...)``.
    selects
        Whether one learning rate is selected for every architecture and seed, by validation accuracy, and
        only that run is measured on the test set. If not, every run that has ended is shown.
    recorded_with
        Metric that the history has in exactly those epochs in which all metrics were recorded.
    summaries
        Function that adds columns to a table of runs, computed from their history; None: there are none.
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
        """Return the runs of a profile as they are in the store; nothing is trained."""
        runs = self.declared(name, seeds=seeds, only=only)  # an unknown name is an error that suggests others
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
        """Return the runs of a profile, after training and measuring the missing ones.

        Parameters
        ----------
        name
            Name of the profile.
        seeds, only
            Number of seeds, and names of runs, as ``declared`` takes them.
        store
            Folder of the run store; a relative one lies in the project, whatever the current folder is.
        workers, progress
            Arguments of :meth:`Study.trained`.
        """
        found = self.existing(name, seeds=seeds, only=only, store=store)
        return found.trained(workers=workers, progress=progress)


@dataclass(frozen=True)
class Study(Generic[ProfileT]):
    """The runs of a profile, as chapters read them.

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
        """Return the rows of the given runs that have begun, with only the columns that they have."""
        rows = [self._rows[key] for key in map(run_key, specs) if key in self._rows]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=_COLUMNS)

    @cached_property
    def _begun(self) -> pd.DataFrame:
        return self._rows_of(self.specs)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run that has begun, in declared order: spec, status, last metrics, test metrics.

        The kind's summaries are columns, too. Runs that retrain a selected rate are not here but in
        ``retrained``.
        """
        summaries = self.kind.summaries
        return self._begun if summaries is None else summaries(self._begun, self.history)

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """One row per architecture and seed: the run with the best validation accuracy.

        There is a row only once every learning rate has finished or failed, so that a missing run never
        changes which one is selected.
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

        ``selected_validation_accuracy`` is the accuracy by which its learning rate was selected; its own is
        missing, because no validation images are left.
        """
        rows = self._rows_of(self.retrainings)
        if rows.empty:
            return rows
        accuracy = dict(zip(map(run_key, self.retrainings), self.chosen["validation_accuracy"], strict=True))
        return rows.assign(selected_validation_accuracy=[accuracy[key] for key in rows["key"]])

    @property
    def runs(self) -> pd.DataFrame:
        """The rows of ``frame``, then those of ``retrained``."""
        return pd.concat([rows for rows in (self.frame, self.retrained) if len(rows)] or [self.frame])

    @cached_property
    def selected(self) -> pd.DataFrame:
        """One row per run that is shown and judged.

        If the kind selects, this is one run per architecture and seed, measured on the test set: the one with
        the chosen learning rate or, if the profile retrains, its retraining. The results of its probes
        (``experiments.studies.probing``) are columns ``<probe>_<value>``, missing where there is no probe. If
        the kind does not select, there is a row for every run that has ended.
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

        None if no selected run has one.
        """
        return probing.table(self, name)

    @property
    def needed(self) -> list[RunSpec]:
        """All runs of the profile, including those that retrain a chosen rate.

        Where a learning rate is not chosen yet, the profile's first stands in for it: that run trains as
        long, at another rate.
        """
        if not self.profile.retrain:
            return self.specs
        again = first_retrained(self.specs)
        again.update({(spec.architecture, spec.seed): spec for spec in self.retrainings})
        return [*self.specs, *again.values()]

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per run and epoch, with architecture and seed.

        If the kind selects, the runs are the selected ones. If not, they are all that have begun, even if
        they failed later, and the epochs are those in which metrics were recorded.
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
        """Return the given architectures that have a selected run; a profile need not have all of them."""
        return [name for name in architectures if (self.selected["architecture"] == name).any()]

    def classifier(self, architecture: str, seed: int) -> Classifier:
        """Return a finished run's classifier in evaluation mode, on the CPU."""
        spec = self.spec(architecture, seed)
        return load_model(spec, self.store, self._loaded(spec.data).train)

    def latents(self, architecture: str, seed: int) -> Latents:
        """Return a run's latents of its train set, on the CPU; a GPU computes them if there is one."""
        spec = self.spec(architecture, seed)
        images = self._loaded(spec.data, default_device()).train
        found = collect(load_model(spec, self.store, images), images)
        return Latents(*(part.cpu() for part in found))

    @property
    def images(self) -> Splits:
        """The data of the selected runs, on the CPU; no images are held out if the runs trained on all."""
        return self._loaded(self._data)

    @property
    def images_at_hand(self) -> Splits:
        """The data of ``images``, on the GPU if there is one."""
        return self._loaded(self._data, default_device())

    @property
    def searched_images(self) -> Splits:
        """The data of all runs among which a rate is selected, on the CPU."""
        return self._loaded(self._searched)

    @property
    def searched_images_at_hand(self) -> Splits:
        """The data of ``searched_images``, on the GPU if there is one."""
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
                "use images_of for the images of one architecture"
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
        """Return the study after training and measuring the missing runs.

        If the profile retrains the selected rates, those runs follow once all others have ended.

        Parameters
        ----------
        workers
            Number of processes; None: one per core, or one if there is a GPU.
        progress
            Whether to show progress bars.

        Raises
        ------
        ValueError
            If runs are missing although all were trained; the message names them.
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
        """Runs that have not ended, including those that retrain a chosen rate."""
        rows = self.runs
        ended = set(rows.loc[rows["status"] != "training", "key"])
        return [spec for spec in (*self.specs, *self.retrainings) if run_key(spec) not in ended]

    def check_ended(self) -> None:
        """Check that every run has ended: with fewer runs, this would be another study.

        Raises
        ------
        ValueError
            If runs have not ended; the message names them.
        """
        if missing := self.missing:
            total = len(self.specs) + len(self.retrainings)
            raise ValueError(
                f"{len(missing)} of {total} runs of profile {self.profile.name} have not ended in "
                f"{self.store.root}: {titles(missing)}; train them, or accept missing runs with --partial"
            )

    def _find_data(self) -> None:
        """Fetch missing data of the runs to train, before any is trained."""
        for name in filter(absent_files, dict.fromkeys(spec.data.name for spec in self.specs)):
            if not all(self.store.finished(spec) for spec in self.needed if spec.data.name == name):
                load_raw(name)

    def afresh(self) -> Study[ProfileT]:
        """Return the study as it is in the store now."""
        return replace(self, store=RunStore(self.store.root))

    def _in_turn(self) -> list[list[RunSpec]]:
        """Groups of runs to train one after another: one group of all runs, or one per seed."""
        if not self.profile.seeds_first:
            return [self.specs]
        by_seed: dict[int, list[RunSpec]] = {}
        for spec in self.specs:
            by_seed.setdefault(spec.seed, []).append(spec)
        return list(by_seed.values())
