"""Trials of a crash test: interrupt a program, let another one continue, and compare the results."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from experiments.crashtest import contents
from experiments.crashtest.events import Event, Happening, told, watch
from experiments.crashtest.programs import EPOCHS, ended, fork, kill, modules_of, read, train, warm

LEASE = 0.3
"""Lease, in seconds, after which a sleeping program counts as dead."""
SLEEPER = "asleep beyond its lease"
FULL = "No space left on device"


class Trial(NamedTuple):
    """Plan of a trial.

    Attributes
    ----------
    way
        Way to interrupt, a key of :data:`WAYS`.
    at
        Number of the event at which to interrupt, from 0; None: it happens at an instant.
    after
        Seconds until the interruption; None: it happens at an event.
    """

    way: str
    at: int | None = None
    after: float | None = None


class Reference(NamedTuple):
    """What an undisturbed program does on a store: its events, its seconds, and its files."""

    events: list[Event]
    seconds: float
    bits: Mapping[str, str]
    files: set[str]


@dataclass
class Outcome:
    """Outcome of a trial.

    Attributes
    ----------
    trial
        Plan of the trial.
    happened
        Whether the interruption took place; the program may have ended before it.
    event
        Event of the interruption; None: it happened at an instant.
    lost
        Finished runs whose results have changed, and runs that are not finished at the end.
    changed
        Files whose content differs from the undisturbed program's.
    twice
        Cohorts with more checkpoints written than they have epochs.
    stuck
        Programs that did not end, or ended before finishing their work.
    errors
        Files that could not be read between the interruption and the next program, and errors that do not say
        what happened.
    left
        Files that an undisturbed program would not leave.
    """

    trial: Trial
    happened: bool = False
    event: Event | None = None
    lost: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def damage(self) -> list[str]:
        """The damage, in lines."""
        return [
            f"{name}: {line}"
            for name in ("lost", "changed", "twice", "stuck", "errors")
            for line in getattr(self, name)
        ]


class Place:
    """The folder of a trial: its store, what its programs print, and their log of events."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.store = folder, folder.resolve() / "store"
        self.said, self.log = folder / "said.txt", folder / "events.txt"
        self.errors = folder / "errors.txt"
        self.store.mkdir()

    def start(self, happening: Happening | None = None, *, lease: float | None = None) -> int:
        """Start a training program and return its process id."""

        def work() -> None:
            watch(self.store, self.log, happening)
            train(self.store)

        return fork(work, self.said, lease=lease)

    def last_words(self) -> str:
        """Return the last line that a program of the trial printed."""
        lines = self.said.read_text().splitlines() if self.said.exists() else []
        return lines[-1] if lines else "nothing was said"


def reference(folder: Path) -> Reference:
    """Run an undisturbed program, return its record, and import all that it needs into this process.

    Raises
    ------
    RuntimeError
        If it fails, or two such programs differ, so that no trial could be compared with them.
    """
    first, second = Place(folder / "first"), Place(folder / "second")
    warm(modules_of(partial(train, first.store), first.said))
    start = time.perf_counter()
    if ended(second.start()) != 0:
        raise RuntimeError(f"an undisturbed program fails: {second.last_words()}")
    seconds = time.perf_counter() - start
    found = contents.bits(first.store)
    if contents.bits(second.store) != found:
        raise RuntimeError(
            "two undisturbed programs differ on this machine: no trial can be compared with them"
        )
    return Reference([one for _, one in told(second.log)], seconds, found, contents.files(first.store))


def run(trial: Trial, place: Place, undisturbed: Reference) -> Outcome:
    """Run a trial in its own folder and return the outcome."""
    outcome = Outcome(trial)
    WAYS[trial.way](trial, place, outcome)
    before = contents.finished(place.store)
    if ended(fork(partial(_go_on, place), place.said)) != 0:
        outcome.stuck.append(f"the next program: {place.last_words()}")
    if place.errors.exists():
        outcome.errors += place.errors.read_text().splitlines()
    _compare(place, before, undisturbed, outcome)
    return outcome


def _go_on(place: Place) -> None:
    """Read the store after the interruption, finish the work, and read all of it again."""
    _read(place, "after the interruption")
    watch(place.store, place.log)
    train(place.store)
    _read(place, "in the end")


def _read(place: Place, when: str) -> None:
    try:
        read(place.store)
    except Exception as error:
        with place.errors.open("a") as stream:
            stream.write(f"reading {when}: {type(error).__name__}: {error}\n")


def _compare(place: Place, before: Mapping[str, str], undisturbed: Reference, outcome: Outcome) -> None:
    after, found = contents.finished(place.store), contents.bits(place.store)
    expected = {name.split("/")[0] for name in undisturbed.bits}
    outcome.lost += [f"run {key}" for key in sorted(expected) if after.get(key) is None]
    outcome.lost += [f"result of {key}" for key, digest in before.items() if after.get(key, digest) != digest]
    outcome.changed += [name for name, digest in found.items() if digest != undisturbed.bits[name]]
    outcome.left += sorted(contents.files(place.store) - undisturbed.files)
    done = Counter(event.path for how, event in told(place.log) if how == "done" and event.name == "rename")
    late = outcome.trial.way == SLEEPER  # one that wakes while writing a checkpoint may finish writing it
    for path, times in done.items():
        if path.endswith("/state.pt") and times > EPOCHS + late:
            outcome.twice.append(f"{path} was written {times} times")


def _killed_at_an_event(trial: Trial, place: Place, outcome: Outcome) -> None:
    assert trial.at is not None
    outcome.happened = ended(place.start(Happening("kill", trial.at))) == -signal.SIGKILL
    outcome.event = _event(place, "killed")


def _killed_at_an_instant(trial: Trial, place: Place, outcome: Outcome) -> None:
    outcome.happened = _kill_after(trial, place.start())


def _kill_after(trial: Trial, process: int) -> bool:
    assert trial.after is not None
    time.sleep(trial.after)
    with_signal = os.waitpid(process, os.WNOHANG)[0] == 0
    kill(process)
    return with_signal


def _one_of_two_killed_at_an_event(trial: Trial, place: Place, outcome: Outcome) -> None:
    assert trial.at is not None
    victim, other = place.start(Happening("kill", trial.at)), place.start()
    outcome.happened = ended(victim) == -signal.SIGKILL
    outcome.event = _event(place, "killed")
    _goes_on(other, place, outcome)


def _one_of_two_killed_at_an_instant(trial: Trial, place: Place, outcome: Outcome) -> None:
    victim, other = place.start(), place.start()
    outcome.happened = _kill_after(trial, victim)
    _goes_on(other, place, outcome)


def _goes_on(other: int, place: Place, outcome: Outcome) -> None:
    if ended(other) != 0:
        outcome.stuck.append(f"the other program: {place.last_words()}")


def _full_disk(trial: Trial, place: Place, outcome: Outcome) -> None:
    assert trial.at is not None
    status = ended(place.start(Happening("fill", trial.at)))
    outcome.event = _event(place, "refused")
    outcome.happened = outcome.event is not None
    if status is None:
        outcome.stuck.append("the program on a full disk does not end")
    elif status != 0 and FULL not in place.last_words():
        outcome.errors.append(f"a full disk: {place.last_words()}")


def _sleeper(trial: Trial, place: Place, outcome: Outcome) -> None:
    assert trial.at is not None
    sleeper = place.start(Happening("stop", trial.at), lease=LEASE)
    outcome.happened = ended(sleeper, stopped=True) == -signal.SIGSTOP
    if not outcome.happened:
        return
    outcome.event = told(place.log)[-1][1]
    try:
        _goes_on(place.start(lease=LEASE), place, outcome)
        os.kill(sleeper, signal.SIGCONT)
        if ended(sleeper) != 0:
            outcome.stuck.append(f"the sleeper: {place.last_words()}")
    finally:
        kill(sleeper)


def _event(place: Place, how: str) -> Event | None:
    return next((event for found, event in told(place.log) if found == how), None)


WAYS: Mapping[str, Callable[[Trial, Place, Outcome], None]] = {
    "killed at an event": _killed_at_an_event,
    "killed at an instant": _killed_at_an_instant,
    "one of two killed at an event": _one_of_two_killed_at_an_event,
    "one of two killed at an instant": _one_of_two_killed_at_an_instant,
    "full disk": _full_disk,
    SLEEPER: _sleeper,
}
"""Ways to interrupt a program."""
