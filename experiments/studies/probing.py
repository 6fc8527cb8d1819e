"""Runs the probes of selected runs, such as attacks, in several processes; each is saved once it is done."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import pandas as pd
import torch
from tqdm import tqdm

from experiments.studies.profiles import ATTACKED
from lpc.computing.devices import default_device, default_workers
from lpc.computing.numerics import measurement
from lpc.computing.provenance import provenance
from lpc.computing.stopping import Stopped, leave_signals_to_parent, stop_on_signal
from lpc.data import Splits, load_images
from lpc.errors import missing_extra, unknown_name
from lpc.specs import DataSpec
from lpc.store import RunStore
from lpc.store.probes import Probe
from lpc.training import load_member

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "attacks": ("adv_lib", "foolbox", "pyautoattack"),
    "certified": ("bound_propagation",),
    "margins": ("pytorch_metric_learning",),
}
"""Modules that each extra of the package installs."""


class ProbeKind(NamedTuple):
    """A probe: measurements of a selected run.

    Attributes
    ----------
    version
        Version, incremented by any edit that changes results; runs probed by other versions are measured
        again.
    run
        Function as ``module:function``, which takes a classifier in evaluation mode and its data, on one
        device, and returns a :class:`lpc.store.probes.Probe`. It is named instead of imported, because it
        lies above this module.
    studies
        Families of runs to which the probe applies, as :func:`family` names them.
    extra
        Extra that the probe needs, a key of :data:`EXTRAS`; None: none.
    architectures
        Architectures to which the probe applies; None: all.
    usual
        Those of its architectures that the book probes, if probing all takes long; None: all.
    usual_seeds
        Number of seeds that the book probes; None: all that ``seeds`` allows.
    seeds
        Number of seeds to which the probe applies, from the first; None: all.
    tabled
        Architectures whose rows of the probe's table are recorded with the runs, for pages that show them.
        Empty: only the probe's values are recorded; None: all rows are recorded.
    takes_spec
        Whether the function also takes the run's spec.
    """

    version: int
    run: str
    studies: tuple[str, ...] = ("ablation",)
    extra: str | None = None
    architectures: tuple[str, ...] | None = None
    usual: tuple[str, ...] | None = None
    usual_seeds: int | None = None
    seeds: int | None = None
    tabled: tuple[str, ...] | None = None
    takes_spec: bool = False

    def about(self, selected: pd.DataFrame, *, usual: bool) -> list[str]:
        """Return the keys of the runs to which the probe applies, or of the usual ones among them."""
        limits = [limit for limit in (self.seeds, self.usual_seeds if usual else None) if limit is not None]
        seeds = sorted(selected["seed"].unique())[: min(limits, default=None)]
        wanted = selected["seed"].isin(seeds)
        for architectures in (self.architectures, self.usual if usual else None):
            if architectures is not None:
                wanted &= selected["architecture"].isin(architectures)
        return [str(key) for key in selected.loc[wanted, "key"]]

    def to_record(self, found: pd.DataFrame | None) -> pd.DataFrame | None:
        """Return the rows of the probe's table that are recorded, with ``architecture``; None: none are."""
        if found is None or self.tabled is None:
            return found
        rows = found[found["architecture"].isin(self.tabled)]
        return None if rows.empty else rows

    @property
    def function(self) -> Callable[..., Probe]:
        """The function that ``run`` names, wrapped so that it computes with the settings of measurements."""
        module, _, name = self.run.partition(":")
        return measurement(getattr(importlib.import_module(module), name))


PROBES: Mapping[str, ProbeKind] = {
    "attacks": ProbeKind(
        1,
        "experiments.probes.attacks:probe",
        ("ablation", "others"),
        extra="attacks",
        usual=tuple(ATTACKED),
        tabled=(*ATTACKED, "CentreLoss", "LabelSmoothing"),
    ),
    "attack_checks": ProbeKind(
        2,
        "experiments.probes.attacks:check_probe",
        extra="attacks",
        architectures=("IB", "NoPen"),
        usual_seeds=1,
    ),
    "attack_steps": ProbeKind(
        2,
        "experiments.probes.attacks:step_probe",
        extra="attacks",
        architectures=("IB", "NoPen"),
        usual=(),
        seeds=1,
    ),
    "certified": ProbeKind(
        2, "experiments.probes.certified:probe", ("ablation", "gammas"), extra="certified", tabled=()
    ),
    "corruptions": ProbeKind(1, "experiments.probes.corruptions:probe"),
    "factor": ProbeKind(
        1, "experiments.probes.factor:probe", studies=("gammas",), extra="attacks", tabled=()
    ),
    "images": ProbeKind(1, "experiments.probes.images:probe", ("ablation", "embedding"), tabled=()),
    "margins": ProbeKind(1, "experiments.probes.margins:probe", studies=("embedding",), tabled=()),
    "outside": ProbeKind(1, "experiments.probes.outside:probe", studies=("others",)),
    "transfer": ProbeKind(1, "experiments.probes.transfer:probe", studies=("new_classes",), takes_spec=True),
}
"""The probes by name; the names of their columns (``<name>_<value>``) and files begin with it."""


class Probed(Protocol):
    """Source of the probed runs: a study, with its selected runs."""

    @property
    def profile(self) -> Any:
        """The profile, which has a ``name``."""
        ...

    @property
    def store(self) -> RunStore:
        """The store of the runs."""
        ...

    @property
    def selected(self) -> Any:
        """A DataFrame, one row per run, with its ``key``; Any, as type checkers miss cached properties."""
        ...


StudyT = TypeVar("StudyT", bound=Probed)


def family(profile: str) -> str:
    """Return a profile's family: ``ablation``, ``embedding``, ``gammas``, ``others`` or ``new_classes``."""
    if profile.partition("-")[0] == "others":
        return "new_classes" if profile.endswith("-new-classes") else "others"
    last = profile.rpartition("-")[2]
    return last if last in ("embedding", "gammas") else "ablation"


def versions() -> dict[str, int]:
    """Return the version of every probe."""
    return {name: kind.version for name, kind in PROBES.items()}


def columns(rows: pd.DataFrame, store: RunStore) -> pd.DataFrame:
    """Return rows of runs with the results of their probes; a run without a probe has missing values."""
    found = store.probes(map(str, rows["key"]), versions())
    return rows if found.empty else rows.merge(found, on="key", how="left")


def table(study: Probed, name: str) -> pd.DataFrame | None:
    """Return the tables of a probe, one below the other; None if no selected run has a table.

    The first columns are ``key``, ``architecture`` and ``seed``.
    """
    _check_names([name])
    parts = []
    for row in study.selected.itertuples():
        found = study.store.probe_table(str(row.key), name, version=PROBES[name].version)
        if found is not None:
            for place, column in enumerate(("key", "architecture", "seed")):
                found.insert(place, column, getattr(row, column))
            parts.append(found)
    return pd.concat(parts, ignore_index=True) if parts else None


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in PROBES:
            raise unknown_name("probe", name, PROBES)


def applicable(profile: str, names: Sequence[str] | None = None) -> list[str]:
    """Return the probes that apply to the runs of a profile.

    Parameters
    ----------
    profile
        Name of the profile.
    names
        Probes to choose from; None: all.

    Raises
    ------
    ValueError
        If a probe is unknown.
    """
    _check_names(names or ())
    kind = family(profile)
    return [name for name in (PROBES if names is None else names) if kind in PROBES[name].studies]


def missing(
    study: Probed, names: Sequence[str] | None = None, *, usual: bool = True
) -> list[tuple[str, str]]:
    """Return the missing probes: keys of selected runs, and names of probes.

    Parameters
    ----------
    study
        Study with the runs of a profile.
    names
        Probes to choose from, as in :func:`applicable`.
    usual
        Whether to count only the runs that the book probes; if not, all those to which each probe applies.
    """
    return [
        (key, name)
        for name in applicable(study.profile.name, names)
        for key in PROBES[name].about(study.selected, usual=usual)
        if study.store.probe(key, name, version=PROBES[name].version) is None
    ]


def check_extras(names: Iterable[str]) -> None:
    """Raise a ValueError if a probe's libraries are missing; it says what to install."""
    for name in names:
        extra = PROBES[name].extra
        lacking = [one for one in EXTRAS.get(extra or "", ()) if importlib.util.find_spec(one) is None]
        if lacking and extra is not None:
            raise missing_extra(f"probe {name}", lacking, extra)


def measure_all(
    study: StudyT,
    *,
    names: Sequence[str] | None = None,
    usual: bool = True,
    workers: int | None = None,
    device: torch.device | None = None,
    progress: bool = True,
) -> StudyT:
    """Take the missing probes of a study's selected runs; return the study, read again.

    Parameters
    ----------
    study
        Study with the runs of a profile (a dataclass, such as ``experiments.studies.study.Study``).
    names
        Names of probes; None: all that apply to these runs.
    usual
        Whether to probe only the runs that the book probes, as in :func:`missing`.
    workers
        Number of single-threaded processes; None: one per core, or one if there is a GPU. With 1, this
        process does the work.
    device
        Device to measure on; None: the GPU if there is one.
    progress
        Whether to show a progress bar.

    Raises
    ------
    Stopped
        If a signal asked to stop. Finished probes are kept; the same call continues from there.
    ValueError
        If a probe does not exist, or its libraries are not installed.
    """
    (found,) = measure_each(
        [study], names=names, usual=usual, workers=workers, device=device, progress=progress
    )
    return found


def measure_each(
    studies: Sequence[StudyT],
    *,
    names: Sequence[str] | None = None,
    usual: bool = True,
    workers: int | None = None,
    device: torch.device | None = None,
    progress: bool = True,
) -> list[StudyT]:
    """Probe the runs of several studies like :func:`measure_all`, in processes that are started once.

    A run that several of them select is probed once.
    """
    jobs = list(
        dict.fromkeys(
            ProbeOfRun(study.store.root, key, name)
            for study in studies
            for key, name in missing(study, names, usual=usual)
        )
    )
    check_extras(dict.fromkeys(job.name for job in jobs))
    device = default_device(device)
    workers = min(default_workers() if workers is None else workers, len(jobs))
    with (
        stop_on_signal("the runs under way") as stop,
        tqdm(total=len(jobs), desc="probing", unit=" runs", disable=not progress or not jobs) as bar,
    ):
        (_in_turn if workers <= 1 else _share)(jobs, str(device), workers, stop, bar)
    return [dataclasses.replace(study) for study in studies]  # type: ignore[type-var]


class ProbeOfRun(NamedTuple):
    """One probe of one run."""

    root: Path
    key: str
    name: str

    def __str__(self) -> str:
        spec = RunStore(self.root).spec(self.key)
        return f"{self.name} of {spec.architecture}, seed {spec.seed}"


class ProbeError(RuntimeError):
    """A probe failed; the message names it and the run."""


def _in_turn(
    jobs: Sequence[ProbeOfRun], device: str, workers: int, stop: Callable[[], bool], bar: tqdm
) -> None:
    del workers
    for job in jobs:
        if stop():
            raise Stopped("stopped before all was probed; call again to continue")
        bar.set_postfix_str(str(job))
        do(job, device)
        bar.update()


def _share(
    jobs: Sequence[ProbeOfRun], device: str, workers: int, stop: Callable[[], bool], bar: tqdm
) -> None:
    """Probe in several processes; raise the first error once the probes under way have ended."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_enter) as pool:
        waiting: dict[Future[None], ProbeOfRun] = {pool.submit(do, job, device): job for job in jobs}
        failed: BaseException | None = None
        while waiting:
            done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                job = waiting.pop(future)
                failed = failed or (None if future.cancelled() else future.exception())
                bar.set_postfix_str(str(job))
                bar.update(not future.cancelled())
            if failed or stop():
                for future in waiting:
                    future.cancel()
    if failed:
        raise failed
    if stop():
        raise Stopped("stopped before all was probed; call again to continue")


def _enter() -> None:
    leave_signals_to_parent()
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _images(data: DataSpec, device: str) -> Splits:
    return load_images(data, device=torch.device(device))


def do(job: ProbeOfRun, device: str) -> None:
    """Probe a run and save the result.

    Raises
    ------
    ProbeError
        If anything went wrong; the message names the run.
    """
    store, kind = RunStore(job.root), PROBES[job.name]
    spec = store.spec(job.key)
    splits = _images(spec.data, device)
    model = load_member(spec, splits.test, store.load_weights(spec))
    model = model.to(
        memory_format=torch.channels_last
    )  # convolutions are faster in this format, as in training
    wall, processor = time.monotonic(), time.process_time()
    try:
        found = kind.function(model, splits, *([spec] if kind.takes_spec else []))
    except Exception as error:
        raise ProbeError(f"probe {job}: {type(error).__name__}: {error}") from error
    about = {
        "seconds": round(time.monotonic() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        **provenance(
            torch.device(device), folders=("lpc", "experiments"), packages=EXTRAS.get(kind.extra or "", ())
        ),
    }
    store.save_probe(spec, job.name, found, version=kind.version, about=about)
