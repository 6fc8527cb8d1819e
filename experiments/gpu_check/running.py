"""Runs the check section by section, each in its own process and time limit, and records it when it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from experiments.gpu_check.amounts import FULL, Amount
from experiments.gpu_check.results import CUT_OFF, DONE, FAILED, NOT_RUN, PIECE, Record
from experiments.gpu_check.sections import SECTIONS, Section
from experiments.gpu_check.training import MARGIN
from lpc.computing.devices import default_device
from lpc.computing.provenance import provenance

Message = tuple[str, Any]
"""A kind and its content: ``("row", (what, values))`` or, at the end, a status and why it was not done."""
SHARE = 0.6
"""Share of a section's expected time that must be left for the section to begin."""


def plan(minutes: float) -> str:
    """Return lines that list the sections to run and their estimated times."""
    lines = [f"{section.minutes:4.1f} min  {section.name:10} {section.title}" for section in SECTIONS]
    total = sum(section.minutes for section in SECTIONS)
    return "\n".join([*lines, f"{total:4.1f} min  in total, of {minutes:g}; estimated, not measured"])


def check(
    record: Record,
    *,
    minutes: float,
    told: Callable[[str], object],
    amount: Amount = FULL,
    carry_out: Callable[[Section, Amount, float], Iterator[Message]] | None = None,
    sections: Sequence[Section] = SECTIONS,
) -> None:
    """Run the sections that a record lacks, as time allows, and record the others as not run.

    Parameters
    ----------
    record
        Record, written after every section.
    minutes
        Minutes for all sections.
    told
        Callback for lines about progress.
    amount
        Amount of work.
    carry_out
        Function that runs a section within a number of seconds; None: :func:`in_process_of_its_own`.
    sections
        Sections of the check.
    """
    carry_out = in_process_of_its_own if carry_out is None else carry_out
    end = time.monotonic() + 60 * minutes
    code = provenance(default_device("cuda"), folders=("lpc", "experiments"))
    for place, section in enumerate(sections, 1):
        head = f"[{place}/{len(sections)}] {section.title}"
        if record.status(section.name) == DONE:
            told(f"{head}: already done")
            continue
        left, asked = end - time.monotonic(), 60 * section.minutes
        if left < SHARE * asked:
            reason = f"{max(0, left):.0f} s of {minutes:g} min were left; it takes about {asked:.0f} s"
            if record.status(section.name) is None:
                record.add(section.name, NOT_RUN, reason=reason, code=code)
            told(f"{head}: not run: {reason}")
            continue
        limit = min(60 * section.limit, left)
        told(f"{head}: at most {limit:.0f} s")
        rows: list[Any] = []
        began, status, reason = time.monotonic(), FAILED, None
        for kind, content in carry_out(section, amount, limit):
            if kind == "row":
                rows.append(content)
                told(f"      {_line(*content)}")
            else:
                status, reason = kind, content
        if section.in_pieces and status == DONE and not rows[-1][1]["finished"]:
            status = PIECE
        spent = time.monotonic() - began
        record.add(section.name, status, rows, reason=reason, seconds=spent, code=code)
        told(f"      {status} after {spent:.0f} s{f': {reason}' if reason else ''}")


def _line(what: str, values: dict[str, Any]) -> str:
    shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()}
    return f"{what}: {', '.join(f'{name} {value}' for name, value in shown.items())}"


def here(section: Section, amount: Amount, seconds: float) -> Iterator[Message]:
    """Run a section in this process; an error becomes the last message, on one line."""
    try:
        for row in section.measure(amount, seconds):
            yield "row", row
    except Exception as error:
        said = str(error).strip().splitlines() or ["no message"]
        yield FAILED, f"{type(error).__name__}: {said[0]}"
    else:
        yield DONE, None


def in_process_of_its_own(
    section: Section, amount: Amount, seconds: float, *, way: str = "spawn"
) -> Iterator[Message]:
    """Run a section in a new process, which is stopped with all its children when its time is up.

    Once a process's GPU has failed, that process can no longer use it; the next section gets a new one.

    Parameters
    ----------
    section, amount, seconds
        Section, amount of work, and time limit in seconds.
    way
        Start method of the process.
    """
    context: Any = multiprocessing.get_context(way)
    ours, theirs = context.Pipe(duplex=False)
    end = time.time() + seconds
    process = context.Process(target=_work, args=(theirs, section, amount, end))
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(max(0.0, end - time.time())):
                yield CUT_OFF, f"it had not ended after {seconds:.0f} s"
                return
            try:
                message = ours.recv()
            except EOFError:
                process.join()
                yield FAILED, f"its process ended without a message, with status {process.exitcode}"
                return
            yield message
            if message[0] != "row":
                return
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)  # training writes its checkpoint
        process.join(MARGIN)
        raise
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        ours.close()


def _work(line: Connection, section: Section, amount: Amount, end: float) -> None:
    os.setsid()
    for message in here(section, amount, end - time.time()):
        line.send(message)
