"""A whole crash test: interruptions of every kind, at every kind of event, and a table of their outcomes."""

from __future__ import annotations

import gc
import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from experiments.crashtest.events import Event
from experiments.crashtest.programs import end_all
from experiments.crashtest.trials import WAYS, Outcome, Place, Reference, Trial, reference, run

SHARES = dict(zip(WAYS, (0.4, 0.15, 0.15, 0.1, 0.1, 0.1), strict=True))
"""Share of each way to interrupt among all interruptions."""
TRIES = 3
"""Number of tries if the program keeps ending before its interruption."""
COUNTED = ("lost", "changed", "twice", "stuck", "errors", "left")


class Found(NamedTuple):
    """Result of a crash test.

    Attributes
    ----------
    outcomes
        Outcomes of the trials.
    kinds, reached
        Kinds of event in an undisturbed program, and those at which a program was interrupted.
    late
        Number of trials that were repeated because the program had ended before its interruption.
    kept
        Folders of the trials with damage.
    """

    outcomes: list[Outcome]
    kinds: set[Event]
    reached: set[Event]
    late: int
    kept: list[Path]

    @property
    def damaged(self) -> list[Outcome]:
        """The outcomes with damage."""
        return [one for one in self.outcomes if one.damage]

    def table(self) -> pd.DataFrame:
        """Return one row per way to interrupt, and one for all: interruptions, and damage of each kind."""
        rows = {
            way: _row([one for one in self.outcomes if one.trial.way == way])
            for way in WAYS
            if any(one.trial.way == way for one in self.outcomes)
        }
        return pd.DataFrame.from_dict({**rows, "all": _row(self.outcomes)}, orient="index").rename_axis("how")


def _row(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts = {name: sum(len(getattr(one, name)) for one in outcomes) for name in COUNTED}
    return {"interruptions": sum(one.happened for one in outcomes), **counts}


def crashtest(kills: int, *, store: Path | None = None, seed: int = 0, progress: bool = True) -> Found:
    """Interrupt training programs, and check each time what is lost, changed, stuck or left over.

    Parameters
    ----------
    kills
        Number of interruptions.
    store
        Folder on the file system to test, in which stores are made and removed; None: the folder of
        temporary files. Damaged stores are kept.
    seed
        Seed for choosing events and instants.
    progress
        Whether to show a progress bar.
    """
    if kills < 1:
        raise ValueError(f"kills is {kills}; expected 1 or more")
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="crashtest-", dir=store))
    try:
        kept: list[Path] = []
        with _ready_to_fork():
            undisturbed, source = reference(folder), random.Random(seed)
            gc.freeze()  # a forked process then does not copy these objects
            outcomes, late = [], 0
            for number, trial in enumerate(tqdm(_plan(kills, undisturbed, source), disable=not progress)):
                found, place, too_late = _until_it_happens(trial, folder / str(number), undisturbed, source)
                late += too_late
                if found.damage:
                    kept.append(place.folder)
                else:
                    shutil.rmtree(place.folder)
                outcomes.append(found)
    finally:
        end_all()
        for one in folder.iterdir():
            if one in kept:
                continue
            if one.is_dir():
                shutil.rmtree(one)
            else:
                one.unlink()
        if not kept:
            folder.rmdir()
    kinds = {event.kind for event in undisturbed.events}
    return Found(outcomes, kinds, {one.event.kind for one in outcomes if one.event is not None}, late, kept)


def _until_it_happens(
    trial: Trial, folder: Path, undisturbed: Reference, source: random.Random
) -> tuple[Outcome, Place, int]:
    """Run a trial, interrupting ever earlier if that came too late; also return the number of repeats."""
    for late in range(TRIES):
        place = Place(folder)
        found = run(trial, place, undisturbed)
        if found.happened or found.damage or late == TRIES - 1:
            return found, place, late
        shutil.rmtree(folder)
        at, after = trial.at, trial.after
        trial = trial._replace(
            at=None
            if at is None
            else source.randrange(at // 2 + 1),  # beside another program it has fewer events
            after=None if after is None else source.uniform(0, after / 2),
        )
    raise AssertionError


def _plan(kills: int, undisturbed: Reference, source: random.Random) -> list[Trial]:
    """Return the trials: each way as often as its share says, with events of every kind in turn."""
    places: dict[Event, list[int]] = {}
    for number, event in enumerate(undisturbed.events):
        places.setdefault(event.kind, []).append(number)
    planned = []
    for way, number in zip(WAYS, _shared(kills), strict=True):
        if way.endswith("instant"):
            planned += [Trial(way, after=source.uniform(0, undisturbed.seconds)) for _ in range(number)]
            continue
        kinds = source.sample(list(places), len(places))
        turns = itertools.islice(itertools.cycle(kinds), number)
        planned += [Trial(way, at=source.choice(places[kind])) for kind in turns]
    return planned


def _shared(kills: int) -> list[int]:
    """Return how often to interrupt in each way, ``kills`` times in all."""
    ends = [round(kills * share) for share in itertools.accumulate(SHARES.values())]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


@contextmanager
def _ready_to_fork() -> Iterator[None]:
    """Make this process use a single thread, because forks would lack any others."""
    threads, interval = torch.get_num_threads(), tqdm.monitor_interval
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
        tqdm.monitor_interval = interval
